//! Parquet files with a column of image files, as one list of images.

use super::ImageColumns;
use super::parquet::{Page, Parquet, Place, Values};
use crate::{Error, Result};
use polars::prelude::*;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Pages that were read last are kept up to this many bytes, the last one in any case.
pub(super) const KEPT: usize = 64 << 20;

/// Some parquet files.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    /// The first row of each file, and the number of rows.
    starts: Vec<usize>,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Shard {
    parquet: Parquet,
    /// The column of the images' bytes.
    leaf: usize,
}

/// Where a page is: the number of its file, then its row group and page.
pub(super) type Key = (usize, usize, usize);

#[derive(Debug, Default)]
struct Cache {
    pages: VecDeque<(Key, Arc<Page>)>,
    /// The dictionary that was used last.
    words: Option<((usize, usize), Arc<Values>)>,
}

/// What is known about the images beside their bytes.
#[derive(Debug)]
pub(super) struct Known {
    pub labels: Option<Vec<u32>>,
    pub classes: Vec<String>,
    pub splits: Vec<String>,
    /// By image: the number of its split; empty where there are none.
    pub split: Vec<u32>,
    pub path: Option<Series>,
    pub attributes: Vec<Series>,
}

impl Shards {
    pub(super) fn open<P: AsRef<Path>>(
        paths: &[P],
        columns: &ImageColumns,
    ) -> Result<(Self, Known)> {
        if paths.is_empty() {
            return Err(Error::invalid(
                "expected at least one parquet file, found none",
            ));
        }
        let mut known: Option<Known> = None;
        let mut files = Vec::new();
        let mut starts = vec![0usize];
        let mut split_names: Vec<Option<String>> = Vec::new();
        for path in paths {
            let path = path.as_ref();
            let parquet = Parquet::open(path)?;
            let (leaf, part) = read(&parquet, columns)?;
            let rows = starts.last().copied().unwrap_or(0) + parquet.len();
            if u32::try_from(rows).is_err() {
                return Err(Error::content(
                    path,
                    "more than 2^32 rows with the files before it",
                ));
            }
            match &mut known {
                None => known = Some(part),
                Some(known) => known.append(part).map_err(|what| {
                    let first = paths[0].as_ref().display();
                    parquet.wrong(format!("not of one kind with {first}: {what}"))
                })?,
            }
            split_names.push(split_of(path));
            starts.push(rows);
            files.push(Shard { parquet, leaf });
        }
        let mut known = known.ok_or_else(|| Error::invalid("expected at least one file"))?;
        // Known for all files or for none.
        if let Some(names) = split_names.into_iter().collect::<Option<Vec<String>>>() {
            for (name, rows) in names.iter().zip(starts.windows(2)) {
                let number = known.splits.iter().position(|n| n == name);
                let number = number.unwrap_or_else(|| {
                    known.splits.push(name.clone());
                    known.splits.len() - 1
                });
                known.split.resize(rows[1], number as u32);
            }
        }
        let shards = Self {
            files,
            starts,
            cache: Mutex::default(),
        };
        Ok((shards, known))
    }

    pub(super) fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    pub(super) fn paths(&self) -> Vec<&Path> {
        self.files.iter().map(|f| f.parquet.path()).collect()
    }

    /// The file that holds a row, and the row's number there.
    pub(super) fn file_of(&self, row: usize) -> (&Path, usize) {
        let (file, row) = self.locate(row);
        (self.files[file].parquet.path(), row)
    }

    fn locate(&self, row: usize) -> (usize, usize) {
        let file = self.starts.partition_point(|&s| s <= row).max(1) - 1;
        let file = file.min(self.files.len() - 1);
        (file, row - self.starts[file])
    }

    /// The page that holds a row, and the row's number there.
    pub(super) fn place(&self, row: usize) -> Result<(Key, usize)> {
        let (file, row) = self.locate(row);
        let shard = &self.files[file];
        let place = shard.parquet.place(shard.leaf, row)?;
        Ok(((file, place.group, place.page), place.row))
    }

    /// A page, from memory where it was read before.
    pub(super) fn page(&self, key: Key) -> Result<Arc<Page>> {
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut cache = lock();
            if let Some(at) = cache.pages.iter().position(|(k, _)| *k == key)
                && let Some(found) = cache.pages.remove(at)
            {
                cache.pages.push_back(found.clone());
                return Ok(found.1);
            }
        }
        let (file, group, page) = key;
        let Shard { parquet, leaf } = &self.files[file];
        let place = Place {
            group,
            page,
            row: 0,
        };
        let words = if parquet.needs_words(*leaf, place)? {
            let kept = lock().words.clone().filter(|(k, _)| *k == (file, group));
            match kept {
                Some((_, words)) => Some(words),
                None => {
                    let words = parquet.words(group, *leaf)?.map(Arc::new);
                    lock().words = words.clone().map(|w| ((file, group), w));
                    words
                }
            }
        } else {
            None
        };
        let page = Arc::new(parquet.page(*leaf, place, words.as_deref())?);
        let mut cache = lock();
        cache.pages.push_back((key, page.clone()));
        let mut size: usize = cache.pages.iter().map(|(_, p)| p.size()).sum();
        while size > KEPT && cache.pages.len() > 1 {
            size -= cache.pages.pop_front().map_or(0, |(_, p)| p.size());
        }
        Ok(page)
    }
}

impl Known {
    fn append(&mut self, other: Self) -> std::result::Result<(), String> {
        if let (Some(labels), Some(more)) = (&mut self.labels, other.labels) {
            labels.extend(more);
        }
        if self.classes.is_empty() {
            self.classes = other.classes;
        } else if !other.classes.is_empty() && self.classes != other.classes {
            return Err("its classes have other names".into());
        }
        let names = |series: &[Series]| {
            let names = series
                .iter()
                .map(|s| format!("{}: {}", s.name(), s.dtype()));
            names.collect::<Vec<_>>().join(", ")
        };
        let (mine, theirs) = (names(&self.attributes), names(&other.attributes));
        if mine != theirs || self.path.is_some() != other.path.is_some() {
            return Err(format!("it has the columns {theirs}, the first has {mine}"));
        }
        let pairs = self.attributes.iter_mut().chain(&mut self.path);
        for (series, more) in pairs.zip(other.attributes.iter().chain(&other.path)) {
            series.append(more).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

/// The column of images, and everything but them.
fn read(parquet: &Parquet, columns: &ImageColumns) -> Result<(usize, Known)> {
    let missing = |name: &str| {
        parquet.wrong(format!(
            "expected a column {name:?}; the table has {}",
            parquet.describe()
        ))
    };
    let name = columns.image.as_str();
    if !parquet.has(name) {
        return Err(missing(name));
    }
    let leaf = parquet.leaf(&[name, "bytes"]).or(parquet.leaf(&[name]));
    let leaf = leaf.filter(|&l| parquet.is_binary(l)).ok_or_else(|| {
        parquet.wrong(format!(
            "expected images in column {name:?} as bytes or as a struct with a field \"bytes\"; the table has {}",
            parquet.describe()
        ))
    })?;
    let mut budget = parquet.budget();
    let mut labels = None;
    let mut label_leaf = None;
    if let Some(name) = &columns.label {
        if !parquet.has(name) {
            return Err(missing(name));
        }
        let leaf = parquet.leaf(&[name]).filter(|&l| parquet.is_whole(l));
        let leaf = leaf.ok_or_else(|| {
            parquet.wrong(format!(
                "expected whole numbers in column {name:?}; the table has {}",
                parquet.describe()
            ))
        })?;
        label_leaf = Some(leaf);
        labels = Some(labels_of(
            parquet,
            &parquet.column(leaf, name, &mut budget)?,
        )?);
    }
    let path = parquet.leaf(&[name, "path"]);
    let path = path.filter(|&l| parquet.is_binary(l));
    let path = path.map(|l| parquet.column(l, "path", &mut budget));
    let mut attributes = Vec::new();
    for (leaf_of, name) in parquet.attributes() {
        if leaf_of != leaf && Some(leaf_of) != label_leaf {
            attributes.push(parquet.column(leaf_of, &name, &mut budget)?);
        }
    }
    let classes = match (parquet.hub(), &columns.label) {
        (Some(text), Some(label)) => class_names(text, label),
        _ => Vec::new(),
    };
    let known = Known {
        labels,
        classes,
        splits: Vec::new(),
        split: Vec::new(),
        path: path.transpose()?,
        attributes,
    };
    Ok((leaf, known))
}

fn labels_of(parquet: &Parquet, labels: &Series) -> Result<Vec<u32>> {
    // Beyond 2⁶³ becomes nothing, which is refused as well.
    let wide = labels.cast(&DataType::Int64)?;
    let labels = wide.i64()?.iter().enumerate();
    labels
        .map(|(row, label)| {
            label.and_then(|l| u32::try_from(l).ok()).ok_or_else(|| {
                let found = label.map_or("nothing".into(), |l| l.to_string());
                parquet.wrong(format!(
                    "row {row} has {found} for label, expected a whole number from 0 to {}; a table without labels is read with `label: None`",
                    u32::MAX
                ))
            })
        })
        .collect()
}

/// The names of a label's classes in the hub's description of a data set; none where it has none.
fn class_names(text: &str, label: &str) -> Vec<String> {
    let description: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let names = &description["info"]["features"][label]["names"];
    let names = names.as_array().map(Vec::as_slice).unwrap_or_default();
    let names = names.iter().map(|n| n.as_str().map(String::from));
    names.collect::<Option<_>>().unwrap_or_default()
}

/// `train` of `train-00000-of-00002.parquet`, as the hub names its files.
fn split_of(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let (stem, of) = stem.rsplit_once("-of-")?;
    let (split, number) = stem.rsplit_once('-')?;
    let is_number = |s: &str| {
        let digits = s.split('-').next().unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    (is_number(number) && is_number(of) && !split.is_empty()).then(|| split.into())
}
