//! The footer of a parquet file: its columns, its row groups and the positions of the column
//! chunks.

use super::thrift::{Fault, Out, Thrift};
use std::sync::Arc;

/// The columns and row groups of a file.
#[derive(Debug, Default)]
pub(super) struct Footer {
    pub leaves: Vec<Leaf>,
    pub groups: Vec<Group>,
    /// The value of the metadata key `huggingface`.
    pub hub: Option<String>,
}

/// A leaf column: a column of values, either of the table itself or a field of a nested column.
#[derive(Clone, Debug)]
pub(super) struct Leaf {
    /// Its name, preceded by the names of the columns that contain it.
    pub path: Vec<Arc<str>>,
    pub physical: i64,
    pub logical: Logical,
    /// The definition level of a value that is present: the number of optional or repeated
    /// elements on its path.
    pub defined: u32,
    /// Whether a row can have several values.
    pub repeated: bool,
}

/// The logical type of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logical {
    /// The physical type itself.
    Plain,
    Text,
    Unsigned,
    /// Dates, decimals and so on.
    Other,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    pub rows: u64,
    /// One chunk per leaf column.
    pub chunks: Vec<Chunk>,
}

/// The position of a column chunk: one column in one row group.
#[derive(Clone, Debug, Default)]
pub(super) struct Chunk {
    pub codec: i64,
    pub start: u64,
    pub length: u64,
}

/// Maximum number of columns, and maximum depth of nested columns.
const COLUMNS: usize = 10_000;
const LEVELS: usize = 32;

/// An element of the schema. The schema lists a tree depth-first from the root.
#[derive(Default)]
struct Element {
    name: String,
    physical: Option<i64>,
    repetition: i64,
    children: i64,
    converted: Option<i64>,
    logical: Option<Logical>,
}

impl Footer {
    /// Parses the bytes of the footer.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut elements = Vec::new();
        let mut groups = Vec::new();
        let mut hub = None;
        let read = Thrift::new(bytes).root(|t, id, kind| {
            match id {
                2 => t.list(kind, |t, kind| {
                    if elements.len() > 2 * COLUMNS {
                        return Err(Fault::Wrong("too many columns"));
                    }
                    elements.push(element(t, kind)?);
                    Ok(())
                })?,
                4 => t.list(kind, |t, kind| {
                    groups.push(group(t, kind)?);
                    Ok(())
                })?,
                5 => t.list(kind, |t, kind| {
                    let (mut key, mut value) = (&[][..], &[][..]);
                    t.structure(kind, |t, id, kind| {
                        match id {
                            1 => key = t.binary(kind)?,
                            2 => value = t.binary(kind)?,
                            _ => return Ok(false),
                        }
                        Ok(true)
                    })?;
                    if key == b"huggingface" {
                        hub = Some(String::from_utf8_lossy(value).into_owned());
                    }
                    Ok(())
                })?,
                8 => return Err(Fault::Wrong("the file is encrypted")),
                _ => return Ok(false),
            }
            Ok(true)
        });
        read.map_err(|fault| match fault {
            Fault::Cut => "its footer is truncated".to_string(),
            Fault::Wrong(what) => format!("its footer cannot be read: {what}"),
        })?;
        let leaves = leaves(elements)?;
        for (number, group) in groups.iter().enumerate() {
            if group.chunks.len() != leaves.len() {
                return Err(format!(
                    "row group {number} has {} columns, but the table has {}",
                    group.chunks.len(),
                    leaves.len()
                ));
            }
        }
        Ok(Self {
            leaves,
            groups,
            hub,
        })
    }
}

fn element(t: &mut Thrift, kind: u8) -> Out<Element> {
    let mut e = Element::default();
    t.structure(kind, |t, id, kind| {
        match id {
            1 => e.physical = Some(t.int(kind)?),
            3 => e.repetition = t.int(kind)?,
            4 => e.name = String::from_utf8_lossy(t.binary(kind)?).into_owned(),
            5 => e.children = t.int(kind)?,
            6 => e.converted = Some(t.int(kind)?),
            10 => t.structure(kind, |t, id, kind| {
                e.logical = Some(match id {
                    1 | 4 | 12 => Logical::Text,
                    10 => {
                        let mut logical = Logical::Plain;
                        t.structure(kind, |_, id, kind| {
                            if id != 2 {
                                return Ok(false);
                            }
                            if !Thrift::flag(kind)? {
                                logical = Logical::Unsigned;
                            }
                            Ok(true)
                        })?;
                        e.logical = Some(logical);
                        return Ok(true);
                    }
                    _ => Logical::Other,
                });
                Ok(false)
            })?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok(e)
}

impl Element {
    fn meaning(&self) -> Logical {
        self.logical.unwrap_or(match self.converted {
            None | Some(15..=18) => Logical::Plain,
            Some(0 | 4 | 19) => Logical::Text,
            Some(11..=14) => Logical::Unsigned,
            Some(_) => Logical::Other,
        })
    }
}

fn group(t: &mut Thrift, kind: u8) -> Out<Group> {
    let mut group = Group::default();
    let mut rows = None;
    t.structure(kind, |t, id, kind| {
        match id {
            1 => t.list(kind, |t, kind| {
                group.chunks.push(chunk(t, kind)?);
                Ok(())
            })?,
            3 => rows = Some(t.int(kind)?),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    group.rows = rows
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(Fault::Wrong("a row group without a number of rows"))?;
    Ok(group)
}

fn chunk(t: &mut Thrift, kind: u8) -> Out<Chunk> {
    let (mut codec, mut length, mut data, mut dictionary) = (None, None, None, None);
    t.structure(kind, |t, id, kind| {
        match id {
            1 => {
                if !t.binary(kind)?.is_empty() {
                    return Err(Fault::Wrong("its columns are in other files"));
                }
            }
            3 => t.structure(kind, |t, id, kind| {
                match id {
                    4 => codec = Some(t.int(kind)?),
                    7 => length = Some(t.int(kind)?),
                    9 => data = Some(t.int(kind)?),
                    11 => dictionary = Some(t.int(kind)?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?,
            8 | 9 => return Err(Fault::Wrong("the file is encrypted")),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    // Some writers store 0 if there is no dictionary.
    let first = match (data, dictionary) {
        (Some(data), Some(dictionary)) if dictionary > 0 => Some(data.min(dictionary)),
        (data, _) => data,
    };
    let number = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    match (codec, number(first), number(length)) {
        (Some(codec), Some(start), Some(length)) => Ok(Chunk {
            codec,
            start,
            length,
        }),
        _ => Err(Fault::Wrong("a column without its position")),
    }
}

/// Returns the leaf columns of the schema, which lists a tree depth-first from the root.
fn leaves(elements: Vec<Element>) -> Result<Vec<Leaf>, String> {
    let mut elements = elements.into_iter();
    let root = elements.next().ok_or("the table has no columns")?;
    let mut leaves = Vec::new();
    // The open elements: number of children left, name, definition level and whether it is
    // repeated.
    let mut open: Vec<(i64, Option<Arc<str>>, u32, bool)> = vec![(root.children, None, 0, false)];
    for e in elements {
        while open.last().is_some_and(|top| top.0 <= 0) {
            open.pop();
        }
        let Some(top) = open.last_mut() else {
            return Err("its schema has columns without a parent".into());
        };
        top.0 -= 1;
        let (defined, repeated) = (top.2, top.3);
        let defined = defined + u32::from(e.repetition != 0);
        let repeated = repeated || e.repetition == 2;
        let name: Arc<str> = e.name.as_str().into();
        if e.children > 0 {
            if open.len() >= LEVELS {
                return Err(format!(
                    "its columns are nested more than {LEVELS} levels deep"
                ));
            }
            open.push((e.children, Some(name), defined, repeated));
            continue;
        }
        let mut path: Vec<Arc<str>> = open.iter().filter_map(|o| o.1.clone()).collect();
        path.push(name);
        leaves.push(Leaf {
            path,
            logical: e.meaning(),
            physical: e.physical.ok_or("a column has no type")?,
            defined,
            repeated,
        });
    }
    if open.iter().any(|top| top.0 > 0) {
        return Err("columns of its schema are missing".into());
    }
    if leaves.len() > COLUMNS {
        return Err(format!("the table has more than {COLUMNS} columns"));
    }
    Ok(leaves)
}
