//! Converts the label columns of parquet files into class numbers.

use super::columns::Chosen;
use crate::{Error, Result};
use polars::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The label column of one file.
#[derive(Debug)]
pub(super) struct Labels {
    kind: Kind,
    /// Per row: the number of its class in this file; `None` if the class is unknown.
    numbers: Vec<Option<u32>>,
    /// The class names: the distinct texts, sorted, or those of the metadata.
    names: Vec<String>,
    /// The class names in the metadata.
    described: Vec<String>,
    /// The first row without a class, and the value that it has.
    unknown: Option<(usize, &'static str)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Whole,
    Flag,
    Text,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Whole => "integers",
            Self::Flag => "booleans",
            Self::Text => "text",
        }
    }
}

/// The labels of all files of a dataset.
#[derive(Debug)]
pub(super) struct Merged {
    /// Per row; 0 if the class is unknown. `None` if no row has a class.
    pub labels: Option<Vec<u32>>,
    pub classes: Vec<String>,
    /// Whether the classes are the distinct values of a text column.
    pub text: bool,
    /// The rows with a class, if some rows have none.
    pub rows: Option<Vec<u32>>,
    /// Describes the labels for the printed line.
    pub note: Option<String>,
}

impl Labels {
    /// Reads the labels of a column, with the class names of the file's metadata.
    ///
    /// Null and −1 mean that the label is unknown. Any other invalid value is an error, returned
    /// as a message.
    pub(super) fn read(
        values: &Series,
        described: Vec<String>,
    ) -> std::result::Result<Self, String> {
        let frame = |e: PolarsError| e.to_string();
        let (kind, numbers, names) = match values.dtype() {
            DataType::Boolean => {
                let flags = values.bool().map_err(frame)?.iter();
                let numbers = flags.map(|f| f.map(u32::from)).collect();
                let names = match described.is_empty() {
                    true => vec!["false".to_string(), "true".to_string()],
                    false => described.clone(),
                };
                (Kind::Flag, numbers, names)
            }
            DataType::String => {
                let texts = values.str().map_err(frame)?;
                let names: BTreeSet<&str> = texts.iter().flatten().collect();
                let names: Vec<&str> = names.into_iter().collect();
                let number = |t: &str| names.binary_search(&t).ok().map(|n| n as u32);
                let numbers = texts.iter().map(|t| number(t?)).collect();
                let names = names.into_iter().map(String::from).collect();
                (Kind::Text, numbers, names)
            }
            DataType::UInt64 => {
                let numbers = values.u64().map_err(frame)?.iter();
                let numbers = numbers.map(|n| n.map(i128::from));
                (Kind::Whole, integer_labels(numbers)?, described.clone())
            }
            _ => {
                let wide = values.cast(&DataType::Int64).map_err(frame)?;
                let numbers = wide.i64().map_err(frame)?.iter();
                let numbers = numbers.map(|n| n.map(i128::from));
                (Kind::Whole, integer_labels(numbers)?, described.clone())
            }
        };
        let unknown = numbers.iter().position(Option::is_none).map(|row| {
            let is_null = values.get(row).is_ok_and(|v| v.is_null());
            (row, if is_null { "nothing" } else { "-1" })
        });
        Ok(Self {
            kind,
            numbers,
            names,
            described,
            unknown,
        })
    }

    /// Merges the labels of the files of one dataset, so that classes have the same numbers in
    /// all of them.
    ///
    /// `wrong` creates an error about a file from the file's index.
    ///
    /// # Errors
    /// [`Error::Content`] if the files have labels of different types or different class names in
    /// their metadata, and if a row lacks a label while others have one, unless
    /// `skip_unlabelled` is set.
    pub(super) fn merge(
        parts: Vec<Self>,
        skip_unlabelled: bool,
        chosen: &Chosen,
        wrong: impl Fn(usize, String) -> Error,
    ) -> Result<Merged> {
        let Some(first) = parts.first() else {
            return Ok(Merged {
                labels: None,
                classes: Vec::new(),
                text: false,
                rows: None,
                note: None,
            });
        };
        let kind = first.kind;
        let mut described: &[String] = &[];
        for (file, part) in parts.iter().enumerate() {
            if part.kind != kind {
                let (found, expected) = (part.kind.name(), kind.name());
                let what = format!(
                    "expected labels of the same type in all files, found {found}, and {expected} in the first file"
                );
                return Err(wrong(file, what));
            }
            if described.is_empty() {
                described = &part.described;
            } else if !part.described.is_empty() && part.described != described {
                let what = "expected the same class names in all files, found other names than in the files before";
                return Err(wrong(file, what.into()));
            }
        }
        let count: usize = parts.iter().map(|p| p.numbers.len()).sum();
        let unknown: usize = parts.iter().map(|p| p.count_unknown()).sum();
        if 0 < unknown && unknown < count && !skip_unlabelled {
            let mut first = parts.iter().enumerate();
            let first = first.find_map(|(file, part)| Some((file, part.unknown?)));
            let (file, (row, found)) = first.unwrap_or((0, (0, "nothing")));
            let column = chosen.label.as_deref().unwrap_or_default();
            let what = format!(
                "row {row} has {found} for label (column {column:?}): its class is unknown, as in {unknown} of {count} rows; leave these out with `skip_unlabelled: true` (as text: unlabelled=skip), or read no labels with `label: None` (as text: label=)"
            );
            return Err(wrong(file, what));
        }
        let classes = match kind {
            Kind::Text => text_classes(&parts, described),
            _ => parts
                .iter()
                .map(|p| &p.names)
                .find(|names| !names.is_empty())
                .cloned()
                .unwrap_or_default(),
        };
        let place: BTreeMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
        let mut numbers: Vec<Option<u32>> = Vec::with_capacity(count);
        for part in &parts {
            // Maps class numbers of the file to those of the dataset.
            let map: Vec<Option<u32>> = match kind {
                Kind::Text => part
                    .names
                    .iter()
                    .map(|n| place.get(&**n).copied())
                    .collect(),
                _ => Vec::new(),
            };
            numbers.extend(part.numbers.iter().map(|number| match kind {
                Kind::Text => number.and_then(|n| map.get(n as usize).copied().flatten()),
                _ => *number,
            }));
        }
        if unknown == count && count > 0 {
            return Ok(Merged {
                labels: None,
                classes,
                text: kind == Kind::Text,
                rows: None,
                note: Some("no row has a label (all are null or -1)".into()),
            });
        }
        let rows = (unknown > 0).then(|| {
            let known = numbers
                .iter()
                .zip(0..)
                .filter(|(number, _)| number.is_some());
            known.map(|(_, row)| row).collect::<Vec<u32>>()
        });
        let count = match classes.len() {
            0 => numbers.iter().flatten().collect::<BTreeSet<_>>().len(),
            known => known,
        };
        let mut note = counted(count, "class", "classes");
        if unknown > 0 {
            let rows = counted(unknown, "row", "rows");
            note += &format!(", {rows} without a label left out");
        }
        Ok(Merged {
            labels: Some(numbers.into_iter().map(Option::unwrap_or_default).collect()),
            classes,
            text: kind == Kind::Text,
            rows,
            note: Some(note),
        })
    }

    fn count_unknown(&self) -> usize {
        self.numbers.iter().filter(|n| n.is_none()).count()
    }
}

/// Formats a count: `1 class`, `2 classes`.
fn counted(count: usize, one: &str, several: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {several}"),
    }
}

/// Converts integers to labels; −1 is an unknown label.
fn integer_labels(
    values: impl Iterator<Item = Option<i128>>,
) -> std::result::Result<Vec<Option<u32>>, String> {
    values
        .enumerate()
        .map(|(row, value)| match value {
            None | Some(-1) => Ok(None),
            Some(value) => u32::try_from(value).map(Some).map_err(|_| {
                format!(
                    "row {row} has {value} for label, expected an integer from 0 to {}, or -1 for an unknown class; to read no labels, use `label: None` (as text: label=)",
                    u32::MAX
                )
            }),
        })
        .collect()
}

/// Returns the classes of text labels: those of the metadata if they include all texts, otherwise
/// the distinct texts, sorted.
fn text_classes(parts: &[Labels], described: &[String]) -> Vec<String> {
    let names: BTreeSet<&String> = parts.iter().flat_map(|p| &p.names).collect();
    let known: BTreeSet<&String> = described.iter().collect();
    match !described.is_empty() && names.is_subset(&known) {
        true => described.to_vec(),
        false => names.into_iter().cloned().collect(),
    }
}
