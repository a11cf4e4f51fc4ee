//! Treats parquet files with a column of image files as one list of images, with a cache of
//! pages.

use super::columns::{Chosen, ImageColumns};
use super::labels::{Labels, Merged};
use super::parquet::{Page, Parquet, Place, Values};
use crate::{Error, Result};
use invariances_core::names::shown;
use invariances_core::say;
use polars::prelude::*;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Size limit of the page cache in bytes. The last page is always kept.
pub(super) const KEPT: usize = 64 << 20;

/// A list of parquet files.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    /// The first row of each file, then the number of rows.
    starts: Vec<usize>,
    /// The selected columns.
    columns: Chosen,
    /// Whether the classes are the distinct values of a text column.
    text: bool,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Shard {
    parquet: Parquet,
    /// The column of the images' bytes.
    leaf: usize,
}

/// Identifies a page: the index of its file, its row group and its page.
pub(super) type Key = (usize, usize, usize);

#[derive(Debug, Default)]
struct Cache {
    pages: VecDeque<(Key, Arc<Page>)>,
    /// The dictionary that was used last.
    dictionary_values: Option<((usize, usize), Arc<Values>)>,
}

/// What is known about the images, other than their bytes.
#[derive(Debug)]
pub(super) struct Known {
    pub labels: Option<Vec<u32>>,
    pub classes: Vec<String>,
    /// The rows that have a label, if rows without one are left out.
    pub rows: Option<Vec<u32>>,
    pub splits: Vec<String>,
    /// Per image: the number of its split. Empty if there are no splits.
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
        let mut tables: Option<Tables> = None;
        let mut chosen: Option<Chosen> = None;
        let mut labels = Vec::new();
        let mut files = Vec::new();
        let mut starts = vec![0usize];
        let mut split_names: Vec<Option<String>> = Vec::new();
        for path in paths {
            let path = path.as_ref();
            let parquet = Parquet::open(path)?;
            // The first file determines the columns for all files, so that a column does not
            // change its meaning.
            let chosen = match &chosen {
                Some(chosen) => chosen,
                None => chosen.insert(Chosen::choose(&parquet, columns)?),
            };
            let (leaf, part, part_labels) = read(&parquet, chosen)?;
            let rows = starts.last().copied().unwrap_or(0) + parquet.len();
            if u32::try_from(rows).is_err() {
                return Err(Error::content(
                    path,
                    "expected at most 2^32 rows in all files, found more",
                ));
            }
            match &mut tables {
                None => tables = Some(part),
                Some(tables) => tables.append(part).map_err(|what| {
                    let first = paths[0].as_ref().display();
                    parquet.wrong(format!("differs from {first}: {what}"))
                })?,
            }
            labels.extend(part_labels);
            split_names.push(split_of(path));
            starts.push(rows);
            files.push(Shard { parquet, leaf });
        }
        let none = || Error::invalid("expected at least one file");
        let (tables, chosen) = (tables.ok_or_else(none)?, chosen.ok_or_else(none)?);
        let refer = |file: usize, what: String| files[file].parquet.wrong(what);
        let merged = Labels::merge(labels, columns.skip_unlabelled, &chosen, refer)?;
        let Merged {
            labels,
            classes,
            text,
            rows,
            note,
        } = merged;
        let (mut splits, mut split): (Vec<String>, Vec<u32>) = Default::default();
        // The splits are known for all files or for none.
        if let Some(names) = split_names.into_iter().collect::<Option<Vec<String>>>() {
            for (name, rows) in names.iter().zip(starts.windows(2)) {
                let number = splits.iter().position(|n| n == name);
                let number = number.unwrap_or_else(|| {
                    splits.push(name.clone());
                    splits.len() - 1
                });
                split.resize(rows[1], number as u32);
            }
        }
        let known = Known {
            labels,
            classes,
            rows,
            splits,
            split,
            path: tables.path,
            attributes: tables.attributes,
        };
        let shards = Self {
            files,
            starts,
            columns: chosen,
            text,
            cache: Mutex::default(),
        };
        if columns.is_auto() {
            say(&shards.describe(note.as_deref()));
        }
        Ok((shards, known))
    }

    /// Describes the files, their number of rows and the selected columns in one line.
    fn describe(&self, labels: Option<&str>) -> String {
        let first = self
            .files
            .first()
            .and_then(|f| f.parquet.path().file_name());
        let first = shown(&first.unwrap_or_default().to_string_lossy());
        let more = match self.files.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let (columns, rows) = (self.columns.describe(), self.len());
        let labels = labels.map_or(String::new(), |labels| format!(", {labels}"));
        format!("{first}{more}: {columns}, {rows} rows{labels}")
    }

    pub(super) fn has_text_labels(&self) -> bool {
        self.text
    }

    /// Returns the selected columns if they are not the usual ones, `image` and `label`.
    pub(super) fn unusual_columns(&self) -> Option<(&str, &str)> {
        let image = self.columns.image.as_str();
        let label = self.columns.label.as_deref().unwrap_or_default();
        ((image, label) != ("image", "label")).then_some((image, label))
    }

    pub(super) fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    pub(super) fn paths(&self) -> Vec<&Path> {
        self.files.iter().map(|f| f.parquet.path()).collect()
    }

    /// Returns the file that contains a row, and the row's index in that file.
    pub(super) fn file_of(&self, row: usize) -> (&Path, usize) {
        let (file, row) = self.locate(row);
        (self.files[file].parquet.path(), row)
    }

    fn locate(&self, row: usize) -> (usize, usize) {
        let file = self.starts.partition_point(|&s| s <= row).max(1) - 1;
        let file = file.min(self.files.len() - 1);
        (file, row - self.starts[file])
    }

    /// Returns the page that contains a row, and the row's index in that page.
    pub(super) fn place(&self, row: usize) -> Result<(Key, usize)> {
        let (file, row) = self.locate(row);
        let shard = &self.files[file];
        let place = shard.parquet.place(shard.leaf, row)?;
        Ok(((file, place.group, place.page), place.row))
    }

    /// Returns a page, from the cache if possible.
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
        let dictionary_values = if parquet.needs_dictionary(*leaf, place)? {
            let cached = lock()
                .dictionary_values
                .clone()
                .filter(|(k, _)| *k == (file, group));
            match cached {
                Some((_, dictionary_values)) => Some(dictionary_values),
                None => {
                    let dictionary_values = parquet.dictionary_values(group, *leaf)?.map(Arc::new);
                    lock().dictionary_values =
                        dictionary_values.clone().map(|w| ((file, group), w));
                    dictionary_values
                }
            }
        } else {
            None
        };
        let page = Arc::new(parquet.page(*leaf, place, dictionary_values.as_deref())?);
        let mut cache = lock();
        cache.pages.push_back((key, page.clone()));
        let mut size: usize = cache.pages.iter().map(|(_, p)| p.size()).sum();
        while size > KEPT && cache.pages.len() > 1 {
            size -= cache.pages.pop_front().map_or(0, |(_, p)| p.size());
        }
        Ok(page)
    }
}

/// The columns other than images and labels.
#[derive(Debug)]
struct Tables {
    path: Option<Series>,
    attributes: Vec<Series>,
}

impl Tables {
    fn append(&mut self, other: Self) -> std::result::Result<(), String> {
        let names = |series: &[Series]| {
            let names = series
                .iter()
                .map(|s| format!("{}: {}", s.name(), s.dtype()));
            names.collect::<Vec<_>>().join(", ")
        };
        let (mine, theirs) = (names(&self.attributes), names(&other.attributes));
        if mine != theirs || self.path.is_some() != other.path.is_some() {
            return Err(format!("expected the columns {mine}, found {theirs}"));
        }
        let pairs = self.attributes.iter_mut().chain(&mut self.path);
        for (series, more) in pairs.zip(other.attributes.iter().chain(&other.path)) {
            series.append(more).map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}

/// Reads everything from a file except the images, and finds the image column.
fn read(parquet: &Parquet, chosen: &Chosen) -> Result<(usize, Tables, Option<Labels>)> {
    let leaf = chosen.image_leaf(parquet)?;
    let label_leaf = chosen.label_leaf(parquet)?;
    let mut budget = parquet.budget();
    let mut labels = None;
    if let Some(leaf) = label_leaf {
        let values = parquet.column(leaf, "label", &mut budget)?;
        let names = chosen.class_names(parquet);
        labels = Some(Labels::read(&values, names).map_err(|what| parquet.wrong(what))?);
    }
    let path = parquet.leaf(&[&chosen.image, "path"]);
    let path = path.filter(|&l| parquet.is_binary(l));
    let path = path.map(|l| parquet.column(l, "path", &mut budget));
    let mut attributes = Vec::new();
    for (leaf_of, name) in parquet.attributes() {
        if leaf_of != leaf && Some(leaf_of) != label_leaf {
            attributes.push(parquet.column(leaf_of, &name, &mut budget)?);
        }
    }
    let tables = Tables {
        path: path.transpose()?,
        attributes,
    };
    Ok((leaf, tables, labels))
}

/// Returns the split from a file name of the Hugging Face Hub: `train` for
/// `train-00000-of-00002.parquet`.
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
