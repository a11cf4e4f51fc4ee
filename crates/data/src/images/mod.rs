//! Labelled images from parquet files or folders: where they come from, their labels and classes.
//!
//! `select` and `frame` have the selections, `batch` the images as tensors, `decoding` the reading
//! and decoding of files, `factors` the attributes in a batch, `hash` the hash of a set, and
//! `write` the parquet files that this crate writes.

mod batch;
mod decoding;
mod factors;
mod frame;
mod hash;
mod select;
mod write;

use super::columns::ImageColumns;
use super::folder::{Folder, Names};
use super::memory;
use super::shards::Shards;
use crate::Result;
use factors::{Number, numbers};
use polars::prelude::Series;
use std::path::Path;
use std::sync::Arc;

/// Images from parquet files in the form of datasets on the Hugging Face Hub, or from a folder
/// with one folder per class.
///
/// Labels, classes and attributes are kept in memory; images are read when they are needed. A
/// parquet file is read page by page (about 1 MiB with most writers, at most 1 GiB). The most
/// recently read pages are cached, up to 64 MiB. Memory use is therefore bounded by a page and a
/// batch, independent of the length of the files.
///
/// **Images** are PNG, JPEG, WebP, BMP, TIFF, GIF or PNM files. The format is detected from the
/// content, not from the extension. Grey images and 16-bit images are converted to 8-bit RGB.
/// Transparent pixels are blended with white. Of several frames or pages the first is read.
/// Images are rotated according to their EXIF orientation. A file that is truncated, or so
/// damaged that it cannot be decoded, is an error that contains its path: missing pixels are
/// never filled in. [`Images::readable`] leaves out such files.
///
/// **Memory**: all images that are decoded at the same time use at most
/// [`Images::DECODING_LIMIT`] bytes together, in addition to their files (at most 256 MiB each)
/// and the result. An image that needs more than this limit on its own is an error. A JPEG
/// photograph of 6000 × 4000 pixels uses 72 MB, twice that if it must be rotated, and at most
/// three times that if it is progressive.
///
/// A selection ([`Images::select`], [`Images::filter`], [`Images::split`] and others) is a view
/// of the same files and takes four bytes per row. Its rows are numbered from 0.
///
/// ```
/// use invariances_data::*;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("digits.parquet");
/// let drawn = Digits::strokes(32, 0)?.batch(Split::Train, 0, 20)?;
/// drawn.write_parquet(&path, &ImageColumns::default())?;
///
/// let images = Images::parquet(&[path], &ImageColumns::default())?;
/// assert_eq!(images.frame()?.height(), 20);
/// let (train, test) = images.split(0, 0.8)?;
/// assert_eq!((train.len(), test.len()), (16, 4));
/// for batch in train.batches(6, 28, Order::Shuffled(1))? {
///     let batch = batch?;
///     assert_eq!(batch.images.dims()[1..], [3, 28, 28]);
/// }
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Images {
    set: Arc<Set>,
    /// Rows of the whole set in this view; `None` for the whole set.
    rows: Option<Arc<Vec<u32>>>,
}

#[derive(Debug)]
struct Set {
    source: Source,
    labels: Option<Vec<u32>>,
    classes: Vec<String>,
    splits: Vec<String>,
    /// Per row: the number of its split. Empty if there are no splits.
    split: Vec<u32>,
    path: Option<Series>,
    attributes: Vec<Series>,
    /// The attributes that batches contain as factors.
    numbers: Vec<Number>,
}

#[derive(Debug)]
pub(super) enum Source {
    Shards(Shards),
    Folder(Folder),
}

impl Images {
    /// Maximum number of bytes that all images being decoded use together, in addition to their
    /// files and the result: 1 GiB.
    pub const DECODING_LIMIT: u64 = memory::LIMIT;

    /// Opens the images of one or more parquet files as one set, in this order.
    ///
    /// [`ImageColumns`] selects the columns with the images and the labels. By default both
    /// are found in the first file, from the Hugging Face metadata, the column types and the
    /// column names, and the choice is printed in one line. The other files must have the same
    /// columns. Without a label column the set has no labels.
    ///
    /// Class names are those of a `ClassLabel` in the Hugging Face metadata, if there is one.
    /// Text labels are their own class names, numbered in sorted order over all files. Files that
    /// are named as on the Hugging Face Hub (`train-00000-of-00002.parquet`) determine the split.
    /// Other columns of numbers, text or booleans are attributes; columns of other types (lists,
    /// structs, dates) are left out. Columns may use the encodings plain, dictionary or
    /// run-length, which are those that pyarrow, polars and the Hub write. Other encodings are an
    /// error.
    ///
    /// ```no_run
    /// use invariances_data::*;
    /// // CIFAR-100: `img`, `fine_label` and `coarse_label`.
    /// let fine = Images::parquet(&["train.parquet"], &ImageColumns::default())?;
    /// let coarse = ImageColumns { label: Some("coarse_label".into()), ..Default::default() };
    /// let coarse = Images::parquet(&["train.parquet"], &coarse)?;
    /// assert_eq!((fine.classes().len(), coarse.classes().len()), (100, 20));
    /// # Ok::<(), invariances_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read. [`Error::Content`] for a file that is not a
    /// parquet table or lacks the columns; that has a label other than an integer from 0 to
    /// 2³² − 1, a boolean or text; that lacks a label where other rows have one
    /// ([`ImageColumns::skip_unlabelled`] leaves out such rows); or whose columns or classes
    /// differ from those of the first file.
    ///
    /// [`Error::Io`]: crate::Error::Io
    /// [`Error::Content`]: crate::Error::Content
    pub fn parquet<P: AsRef<Path>>(paths: &[P], columns: &ImageColumns) -> Result<Self> {
        let (shards, known) = Shards::open(paths, columns)?;
        let rows = known.rows.map(Arc::new);
        let set = Self::new(Set {
            source: Source::Shards(shards),
            labels: known.labels,
            classes: known.classes,
            splits: known.splits,
            split: known.split,
            path: known.path,
            numbers: numbers(&known.attributes),
            attributes: known.attributes,
        });
        Ok(Self { rows, ..set })
    }

    pub(super) fn of_folder(folder: Folder, names: Names) -> Self {
        Self::new(Set {
            source: Source::Folder(folder),
            labels: Some(names.labels),
            classes: names.classes,
            splits: names.splits,
            split: names.split,
            path: None,
            attributes: Vec::new(),
            numbers: Vec::new(),
        })
    }

    fn new(set: Set) -> Self {
        Self {
            set: Arc::new(set),
            rows: None,
        }
    }

    /// Returns the number of images.
    pub fn len(&self) -> usize {
        match &self.rows {
            Some(rows) => rows.len(),
            None => self.set.source.len(),
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the class names, indexed by label; empty if they are not known.
    pub fn classes(&self) -> Vec<String> {
        self.set.classes.clone()
    }

    /// Returns the label of each image; `None` if the set has no labels, as for a table without a
    /// label column or a test split whose labels are all −1.
    pub fn labels(&self) -> Option<Vec<u32>> {
        let labels = self.set.labels.as_ref()?;
        Some(match &self.rows {
            None => labels.clone(),
            Some(rows) => rows.iter().map(|&r| labels[r as usize]).collect(),
        })
    }

    /// Whether the classes are the distinct values of a text column.
    pub(super) fn has_text_labels(&self) -> bool {
        matches!(&self.set.source, Source::Shards(shards) if shards.has_text_labels())
    }

    pub(super) fn source(&self) -> &Source {
        &self.set.source
    }

    pub(super) fn folder_source(&self) -> Option<&Folder> {
        match &self.set.source {
            Source::Folder(folder) => Some(folder),
            Source::Shards(_) => None,
        }
    }
}

impl Source {
    fn len(&self) -> usize {
        match self {
            Self::Shards(shards) => shards.len(),
            Self::Folder(folder) => folder.len(),
        }
    }
}
