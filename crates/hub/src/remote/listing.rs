//! Finds the parquet files of a dataset that belong to a split.

use crate::source::listed;
use crate::{Error, Result};

/// Folder names that are names of splits.
const SPLITS: [&str; 7] = ["train", "test", "validation", "valid", "val", "dev", "eval"];

/// A parquet file whose path follows the conventions of the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard<'a> {
    /// Name of the configuration; `""` if the path contains none.
    config: String,
    split: &'a str,
    /// The number of the file, and the number of all files of the split.
    of: Option<(u64, u64)>,
    path: &'a str,
}

impl<'a> Shard<'a> {
    /// Parses a path such as `data/test-00000-of-00001.parquet` (a hash may follow the numbers),
    /// `mnist/test/0000.parquet` or `test.parquet`.
    fn read(path: &'a str) -> Option<Self> {
        let mut folders: Vec<&str> = path.split('/').collect();
        let stem = folders.pop()?.strip_suffix(".parquet")?;
        let (mut split, of) = numbered(stem).map_or((stem, None), |(s, n, of)| (s, Some((n, of))));
        let parent = folders.last().copied().unwrap_or_default();
        let number = split.bytes().all(|b| b.is_ascii_digit());
        if number || (SPLITS.contains(&parent) && !SPLITS.contains(&split)) {
            folders.pop()?;
            split = parent.strip_prefix("partial-").unwrap_or(parent);
        }
        if folders == ["data"] {
            folders.clear();
        }
        Some(Self {
            config: folders.join("/"),
            split,
            of,
            path,
        })
    }

    /// Returns the name by which the caller selects the split: `split` or `config/split`.
    fn name(&self) -> String {
        match self.config.as_str() {
            "" => self.split.into(),
            config => format!("{config}/{}", self.split),
        }
    }
}

/// Parses `test-00000-of-00001`; a hash may follow. Returns split, number and number of files.
fn numbered(stem: &str) -> Option<(&str, u64, u64)> {
    let (before, after) = stem.rsplit_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let of = after.split('-').next()?;
    Some((split, number.parse().ok()?, of.parse().ok()?))
}

/// Selects the parquet files of a split from `files`, in order.
///
/// `wanted` is the name of a split, or `config/split` if several configurations have this split.
/// `what` describes the dataset in error messages.
///
/// # Errors
/// [`Error::Invalid`] if there is no parquet file or no such split, if several configurations
/// have this split, or if a file of the split is missing.
pub fn split(what: &str, files: &[String], wanted: &str) -> Result<Vec<String>> {
    let shards: Vec<Shard> = files.iter().filter_map(|f| Shard::read(f)).collect();
    let names = |shards: &[&Shard]| {
        let mut names: Vec<String> = shards.iter().map(|s| s.name()).collect();
        names.sort();
        names.dedup();
        names
    };
    if shards.is_empty() {
        return Err(Error::unknown(format!(
            "{what} has no parquet file; its files are {}. The hub converts most datasets to parquet: try .at(\"refs/convert/parquet\")",
            listed(files)
        )));
    }
    let mut found: Vec<&Shard> = shards.iter().filter(|s| s.name() == wanted).collect();
    if found.is_empty() {
        found = shards.iter().filter(|s| s.split == wanted).collect();
    }
    let several = names(&found);
    match several.as_slice() {
        [] => {
            let all = names(&shards.iter().collect::<Vec<_>>());
            return Err(Error::unknown(format!(
                "{what} has no split {wanted:?}; its splits are {}",
                listed(&all)
            )));
        }
        [_] => {}
        _ => {
            return Err(Error::invalid(format!(
                "{what} has several splits {wanted:?}; choose one of {}",
                listed(&several)
            )));
        }
    }
    found.sort_by(|a, b| (a.of, a.path).cmp(&(b.of, b.path)));
    if let Some((_, of)) = found.first().and_then(|s| s.of) {
        let complete =
            found.len() as u64 == of && (0..of).zip(&found).all(|(n, s)| s.of == Some((n, of)));
        if !complete {
            let paths: Vec<&str> = found.iter().map(|s| s.path).collect();
            return Err(Error::unknown(format!(
                "{what}: expected {of} files of the split {wanted:?}, found {}",
                listed(&paths)
            )));
        }
    }
    Ok(found.iter().map(|s| s.path.to_owned()).collect())
}
