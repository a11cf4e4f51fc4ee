//! The columns of a parquet file: their names and types, and the first bytes of a column.

use super::footer::{Leaf, Logical};
use super::{Budget, Parquet};
use crate::Result;

/// Number of pages in which the first value is searched.
const PAGES: usize = 4;
/// Number of bytes of the first value that are returned.
const START: usize = 64;

/// A column that can contain image files.
#[derive(Debug)]
pub(crate) struct Stored {
    pub name: String,
    /// Index of the leaf column with the bytes.
    pub leaf: usize,
    /// Whether the bytes are a field of a struct.
    pub is_struct: bool,
}

impl Parquet {
    /// Describes the columns with their types.
    pub(crate) fn describe(&self) -> String {
        let mut columns: Vec<String> = Vec::new();
        let mut last = "";
        for leaf in &self.footer.leaves {
            let name: &str = &leaf.path[0];
            if leaf.path.len() == 1 {
                columns.push(format!("{name}: {}", leaf.type_name()));
            } else if last != name {
                let kind = if leaf.repeated { "list" } else { "struct" };
                columns.push(format!("{name}: {kind}"));
            }
            last = name;
        }
        columns.join(", ")
    }

    /// Returns the names of the table's columns, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for leaf in &self.footer.leaves {
            if names.last().is_none_or(|last| **last != *leaf.path[0]) {
                names.push(leaf.path[0].to_string());
            }
        }
        names
    }

    /// Returns the columns of bytes that are not text, and the structs with a field `bytes`.
    pub(crate) fn image_columns(&self) -> Vec<Stored> {
        let leaves = self.footer.leaves.iter().enumerate();
        leaves
            .filter_map(|(leaf, about)| {
                let is_struct = match &about.path[..] {
                    [_] => false,
                    [_, part] if &**part == "bytes" => true,
                    _ => return None,
                };
                let is_bytes = self.is_binary(leaf) && (is_struct || !self.is_text(leaf));
                is_bytes.then(|| Stored {
                    name: about.path[0].to_string(),
                    leaf,
                    is_struct,
                })
            })
            .collect()
    }

    /// Returns the index of the leaf column with this path.
    pub(crate) fn leaf(&self, path: &[&str]) -> Option<usize> {
        let same = |leaf: &Leaf| leaf.path.iter().map(|p| &**p).eq(path.iter().copied());
        self.footer.leaves.iter().position(same)
    }

    /// Whether there is a column of this name, plain or nested.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.footer.leaves.iter().any(|l| &*l.path[0] == name)
    }

    /// Whether a column contains bytes or text, at most one value per row.
    pub(crate) fn is_binary(&self, leaf: usize) -> bool {
        let leaf = &self.footer.leaves[leaf];
        leaf.physical == 6 && !leaf.repeated
    }

    /// Whether a column contains text, at most one value per row.
    pub(crate) fn is_text(&self, leaf: usize) -> bool {
        self.is_binary(leaf) && self.footer.leaves[leaf].logical == Logical::Text
    }

    /// Whether a column contains booleans, at most one value per row.
    pub(crate) fn is_flag(&self, leaf: usize) -> bool {
        let leaf = &self.footer.leaves[leaf];
        leaf.physical == 0 && !leaf.repeated
    }

    /// Whether a column contains integers, at most one value per row.
    pub(crate) fn is_integer(&self, leaf: usize) -> bool {
        let leaf = &self.footer.leaves[leaf];
        matches!(leaf.physical, 1 | 2)
            && !leaf.repeated
            && matches!(leaf.logical, Logical::Plain | Logical::Unsigned)
    }

    /// Returns index and name of the plain columns of numbers, text or booleans.
    pub(crate) fn attributes(&self) -> Vec<(usize, String)> {
        let leaves = self.footer.leaves.iter().enumerate();
        leaves
            .filter(|(_, l)| l.path.len() == 1 && !l.repeated && l.is_attribute())
            .map(|(i, l)| (i, l.path[0].to_string()))
            .collect()
    }

    /// Returns the first bytes of the first value of a column of bytes, to detect the format of
    /// its values; `None` if the first pages have no value.
    pub(crate) fn first_bytes(&self, leaf: usize, budget: &mut Budget) -> Result<Option<Vec<u8>>> {
        let Some(group) = self.footer.groups.iter().position(|g| g.rows > 0) else {
            return Ok(None);
        };
        let mut file = self.file()?;
        let index = self.walk(&mut file, group, leaf)?;
        let mut dictionary = None;
        for page in 0..index.pages.len().min(PAGES) {
            let header = &index.pages[page].1;
            if header.needs_dictionary() && dictionary.is_none() {
                if let Some((_, header)) = &index.dictionary {
                    budget.unpack(header).map_err(|what| self.damaged(what))?;
                }
                dictionary = self.dictionary(&mut file, group, leaf, &index)?;
            }
            budget.unpack(header).map_err(|what| self.damaged(what))?;
            let rows = header.values;
            let data = self.data(&mut file, group, leaf, &index, page, dictionary.as_ref())?;
            if let Some(first) = (0..rows).find_map(|row| data.bytes(row)) {
                return Ok(Some(first[..first.len().min(START)].to_vec()));
            }
        }
        Ok(None)
    }
}

impl Leaf {
    fn is_attribute(&self) -> bool {
        match self.physical {
            0 | 4 | 5 => true,
            1 | 2 => matches!(self.logical, Logical::Plain | Logical::Unsigned),
            6 => self.logical == Logical::Text,
            _ => false,
        }
    }

    /// Returns the name of the type as in polars, if it has one there.
    fn type_name(&self) -> String {
        if self.repeated {
            return "list".into();
        }
        let name = match (self.physical, self.logical) {
            (0, _) => "bool",
            (1, Logical::Plain) => "i32",
            (1, Logical::Unsigned) => "u32",
            (2, Logical::Plain) => "i64",
            (2, Logical::Unsigned) => "u64",
            (4, _) => "f32",
            (5, _) => "f64",
            (6, Logical::Text) => "str",
            (6, _) => "binary",
            _ => "another type",
        };
        name.into()
    }
}
