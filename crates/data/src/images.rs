//! Labelled images from parquet files or folders: selection, decoding, batches and hashes.

use super::columns::ImageColumns;
use super::decode;
use super::folder::{Folder, Names};
use super::memory;
use super::shards::{KEPT, Shards};
use super::{Batch, Batches, Factors, Order};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use image::{DynamicImage, ImageFormat, RgbImage};
use invariances_core::files::write_atomic;
use invariances_core::names::shown;
use invariances_ops::Rng;
use polars::prelude::*;
use rayon::prelude::*;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::Cursor;
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

#[derive(Debug)]
struct Number {
    name: String,
    values: Numbers,
}

#[derive(Debug)]
enum Numbers {
    Whole(Vec<u32>),
    Real(Vec<f32>),
}

/// Maximum size of a batch's images in pixels.
const LARGEST: u32 = 4096;

/// No limit on the sides of an image; only the memory limit applies.
const ANY: u32 = u32::MAX;

/// Maximum number of a batch's images that are in memory as 8-bit images at a time, in addition
/// to the batch itself.
const STAGE: usize = 64;

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

    /// Returns a data frame with one row per image: the columns `row` (its number in this
    /// selection, u32), `label` (u32), `class`, `split` and `path` (text), then the attributes.
    /// Unknown values are null. An attribute with one of these names is renamed to `column_row`
    /// and so on.
    pub fn frame(&self) -> Result<DataFrame> {
        const OURS: [&str; 5] = ["row", "label", "class", "split", "path"];
        let set = &self.set;
        let count = self.len();
        let pick = IdxCa::from_vec("".into(), self.origins());
        let row: Vec<u32> = (0..count as u32).collect();
        let label = match self.labels() {
            Some(labels) => Series::new("label".into(), labels),
            None => Series::full_null("label".into(), count, &DataType::UInt32),
        };
        // Each name is stored once, regardless of the number of rows that have it.
        let named = |name: &str, names: &[String], numbers: Option<&[u32]>| -> Result<Series> {
            let Some(numbers) = numbers.filter(|_| !names.is_empty()) else {
                return Ok(Series::full_null(name.into(), count, &DataType::String));
            };
            let number = |row: &u32| {
                let number = numbers.get(*row as usize).copied();
                number.filter(|&n| (n as usize) < names.len())
            };
            let numbers: Vec<Option<u32>> = match &self.rows {
                Some(rows) => rows.iter().map(number).collect(),
                None => (0..count as u32).map(|r| number(&r)).collect(),
            };
            let numbers = IdxCa::from_iter_options("".into(), numbers.into_iter());
            Ok(Series::new(name.into(), names).take(&numbers)?)
        };
        let path = match (&set.path, &set.source) {
            (Some(path), _) => path.take(&pick)?,
            (None, Source::Folder(folder)) => {
                let names = pick.iter().flatten().map(|r| folder.name(r as usize));
                Series::new("path".into(), names.collect::<Vec<_>>())
            }
            _ => Series::full_null("path".into(), count, &DataType::String),
        };
        let mut columns = vec![
            Column::new("row".into(), row),
            label.into_column(),
            named("class", &set.classes, set.labels.as_deref())?.into_column(),
            named("split", &set.splits, Some(&set.split))?.into_column(),
            path.with_name("path".into()).into_column(),
        ];
        for attribute in &set.attributes {
            let mut name = attribute.name().to_string();
            if OURS.contains(&name.as_str()) {
                name = format!("column_{name}");
            }
            let values = attribute.take(&pick)?.with_name(name.into());
            columns.push(values.into_column());
        }
        Ok(DataFrame::new(count, columns)?)
    }

    /// Selects the images with these row numbers, in this order. Rows may be repeated.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that does not exist.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(self.view(self.origins_of(rows)?))
    }

    /// Selects the images for which a mask is true, such as
    /// `images.frame()?.column("label")?.u32()?.equal(3)` (with `use polars::prelude::*;`).
    ///
    /// # Errors
    /// [`Error::Shape`] unless the mask has one value per image.
    pub fn filter(&self, mask: &BooleanChunked) -> Result<Self> {
        if mask.len() != self.len() {
            return Err(Error::shape(format!(
                "expected a mask with one value for each of {} images, found {}",
                self.len(),
                mask.len()
            )));
        }
        let rows = self.origins().into_iter().zip(mask.iter());
        Ok(self.view(
            rows.filter(|(_, m)| *m == Some(true))
                .map(|(r, _)| r)
                .collect(),
        ))
    }

    /// Selects the images of a class by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown name (the message lists the known names), and for images
    /// without labels.
    pub fn of_class(&self, name: &str) -> Result<Self> {
        let set = &self.set;
        let Some(labels) = &set.labels else {
            return Err(Error::unknown(format!(
                "no class {name:?}: these images have no labels; set the label column, such as `ImageColumns {{ label: Some(\"label\".into()), ..Default::default() }}`"
            )));
        };
        let number = number_of("class", name, &set.classes)?;
        Ok(self.of(labels, number))
    }

    /// Selects the images of a split by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown name; the message lists the known names.
    pub fn of_split(&self, name: &str) -> Result<Self> {
        let number = number_of("split", name, &self.set.splits)?;
        Ok(self.of(&self.set.split, number))
    }

    fn of(&self, numbers: &[u32], number: u32) -> Self {
        let mut rows = self.origins();
        rows.retain(|&r| numbers.get(r as usize) == Some(&number));
        self.view(rows)
    }

    /// Splits the images at random into two disjoint parts. The first contains the fraction
    /// `share` of the images, the second the others. Both keep the order of the images. The
    /// result depends on `seed`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `share` is from 0 to 1.
    pub fn split(&self, seed: u64, share: f64) -> Result<(Self, Self)> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::invalid(format!(
                "expected a share from 0 to 1, found {share}"
            )));
        }
        let count = (self.len() as f64 * share).round() as usize;
        let mut first = vec![false; self.len()];
        let order = Rng::named(seed, "images/split").permutation(self.len());
        for &row in order.iter().take(count) {
            first[row as usize] = true;
        }
        let part = |wanted: bool| {
            let rows = self.origins().into_iter().zip(&first);
            self.view(
                rows.filter(|(_, f)| **f == wanted)
                    .map(|(r, _)| r)
                    .collect(),
            )
        };
        Ok((part(true), part(false)))
    }

    fn view(&self, rows: Vec<u32>) -> Self {
        Self {
            set: self.set.clone(),
            rows: Some(Arc::new(rows)),
        }
    }

    /// Returns the row numbers in the whole set of the images in this view.
    pub(super) fn origins(&self) -> Vec<u32> {
        match &self.rows {
            Some(rows) => rows.to_vec(),
            None => (0..self.len() as u32).collect(),
        }
    }

    fn origins_of(&self, rows: &[usize]) -> Result<Vec<u32>> {
        let count = self.len();
        let origin = |&row: &usize| match &self.rows {
            _ if row >= count => Err(Error::invalid(format!(
                "no row {row}: there are {count} rows, counted from 0"
            ))),
            Some(rows) => Ok(rows[row]),
            None => Ok(row as u32),
        };
        rows.iter().map(origin).collect()
    }

    /// Returns a short hash of the files' content, the selected columns and the selection.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read.
    pub fn hash(&self) -> Result<String> {
        let of_file = |path: &Path| {
            let mut hash = blake3::Hasher::new();
            let file = File::open(path).and_then(|file| hash.update_reader(file).map(drop));
            file.map_err(|e| Error::io(path, e))?;
            Ok::<_, Error>(hash.finalize())
        };
        let mut hash = blake3::Hasher::new();
        match &self.set.source {
            Source::Shards(shards) => {
                let paths = shards.paths();
                let columns = shards.unusual_columns();
                // A single complete file with the usual columns: the hash of the file alone,
                // which identifies the networks that were trained on it.
                if let ([path], None, None) = (paths.as_slice(), &self.rows, columns) {
                    return Ok(of_file(path)?.to_hex()[..16].into());
                }
                // The same file with other labels is another dataset.
                if let Some((image, label)) = columns {
                    hash.update(serde_json::json!([image, label]).to_string().as_bytes());
                }
                for path in paths {
                    hash.update(of_file(path)?.as_bytes());
                }
            }
            Source::Folder(folder) => {
                for row in 0..folder.len() {
                    hash.update(folder.name(row).as_bytes());
                    hash.update(&[0]);
                    hash.update(blake3::hash(&folder.read(row)?).as_bytes());
                }
                // The same images with other class numbers are another dataset.
                for name in folder.numbering() {
                    hash.update(name.as_bytes());
                    hash.update(&[0]);
                }
            }
        }
        for row in self.rows.iter().flat_map(|rows| rows.iter()) {
            hash.update(&row.to_le_bytes());
        }
        Ok(hash.finalize().to_hex()[..16].into())
    }

    /// Returns one image at its own size: (3, height, width), f32 in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that does not exist; [`Error::Content`] if its image cannot
    /// be read.
    pub fn image(&self, row: usize) -> Result<Tensor> {
        let rows = self.origins_of(&[row])?;
        let images = self
            .set
            .decoded(&rows, ANY, None, |image| Ok(decode::rgb(image)))?;
        match images.first() {
            Some(image) => decode::tensor(image),
            None => Err(Error::invalid(format!("no row {row}"))),
        }
    }

    /// Decodes a batch of images of one size in parallel, in the order of the rows.
    ///
    /// The shorter side is resized to `size` pixels with an antialiasing filter; then the centre
    /// is cropped. The factors are `row` (the row number in this selection) and the attributes
    /// that are numbers or booleans (0 and 1); a missing number is NaN. Labels are 0 if the set
    /// has no labels.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that does not exist, for no rows, if memory is insufficient,
    /// or for a size outside 1 to 4096 pixels. [`Error::Content`] if an image cannot be read; of
    /// several such images, the first.
    pub fn batch(&self, rows: &[usize], size: usize) -> Result<Batch> {
        let side = check_size(size)?;
        let origins = self.origins_of(rows)?;
        if origins.is_empty() {
            return Err(Error::invalid("expected at least one row, found none"));
        }
        let mut pixels = room(origins.len(), size)?;
        // Decode in stages, so that only a part of the batch is in memory twice.
        let area = 3 * size * size;
        for (rows, pixels) in origins.chunks(STAGE).zip(pixels.chunks_mut(STAGE * area)) {
            let images = self.set.decoded(rows, ANY, Some(side), |image| {
                Ok(decode::square(decode::rgb(image), side))
            })?;
            fill(&images, pixels, area);
        }
        self.finish(rows, &origins, pixels, size)
    }

    /// Like [`Images::batch`], for files that were read already.
    pub(super) fn batch_of(&self, files: &[(u32, Vec<u8>)], size: usize) -> Result<Batch> {
        let side = check_size(size)?;
        let rows: Vec<usize> = files.iter().map(|(row, _)| *row as usize).collect();
        let origins = self.origins_of(&rows)?;
        let mut pixels = room(files.len(), size)?;
        let area = 3 * size * size;
        let done: Vec<Result<()>> = pixels
            .par_chunks_mut(area)
            .zip(files.par_iter().zip(&origins))
            .map(|(pixels, ((_, bytes), &origin))| {
                decode::decode(bytes, ANY, Some(side), |image| {
                    decode::planes(&decode::square(decode::rgb(image), side), pixels);
                })
                .map_err(|e| self.set.wrong(origin, e))
            })
            .collect();
        done.into_iter().collect::<Result<()>>()?;
        self.finish(&rows, &origins, pixels, size)
    }

    fn finish(
        &self,
        rows: &[usize],
        origins: &[u32],
        pixels: Vec<f32>,
        size: usize,
    ) -> Result<Batch> {
        let count = rows.len();
        let labels: Vec<u32> = match &self.set.labels {
            Some(labels) => origins.iter().map(|&r| labels[r as usize]).collect(),
            None => vec![0; count],
        };
        let rows = rows.iter().map(|&r| r as u32).collect();
        let mut factors = Factors::new().with_whole("row", rows)?;
        for Number { name, values } in &self.set.numbers {
            let name = if name == "row" { "column_row" } else { name };
            factors = match values {
                Numbers::Whole(v) => {
                    factors.with_whole(name, origins.iter().map(|&r| v[r as usize]).collect())?
                }
                Numbers::Real(v) => {
                    factors.with_real(name, origins.iter().map(|&r| v[r as usize]).collect())?
                }
            };
        }
        Ok(Batch {
            images: Tensor::from_vec(pixels, (count, 3, size, size), &Device::Cpu)?,
            labels: Tensor::from_vec(labels, count, &Device::Cpu)?,
            factors,
        })
    }

    /// Iterates once over all images, in batches of `batch` images (the last may be smaller) of
    /// `size` pixels, as returned by [`Images::batch`]. While the caller uses a batch, a second
    /// one waits and a third is decoded by other threads.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the batch size is 0, or if the image size is 0 or above 4096. Errors
    /// of single images are returned by the iterator.
    pub fn batches(&self, batch: usize, size: usize, order: Order) -> Result<Batches> {
        check_size(size)?;
        if batch == 0 {
            return Err(Error::invalid(
                "expected at least one image per batch, found 0",
            ));
        }
        room(batch.min(self.len().max(1)), size)?;
        Batches::start(self, batch, size, order)
    }

    /// Whether the classes are the distinct values of a text column.
    pub(super) fn has_text_labels(&self) -> bool {
        matches!(&self.set.source, Source::Shards(shards) if shards.has_text_labels())
    }

    pub(super) fn source(&self) -> &Source {
        &self.set.source
    }

    /// Decodes each image, of at most `longest` pixels per side, and applies `f`.
    pub(super) fn decoded<T: Send>(
        &self,
        rows: &[usize],
        longest: u32,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.set.decoded(&self.origins_of(rows)?, longest, None, f)
    }

    /// Tries to decode each image; one result per row, in the order of the rows.
    pub(super) fn attempts(&self) -> Result<Vec<Result<()>>> {
        self.set.attempts(&self.origins(), ANY, None, |_| Ok(()))
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

impl Set {
    /// Creates an error about a row that contains the path of its file.
    fn wrong(&self, row: u32, what: String) -> Error {
        match &self.source {
            Source::Shards(shards) => {
                let (path, row) = shards.file_of(row as usize);
                Error::content(path, format!("row {row}: {what}"))
            }
            Source::Folder(folder) => Error::content(folder.path(row as usize), what),
        }
    }

    /// Decodes the images in parallel and applies `f`; results are in the order of the rows.
    /// `resized` is the size to which `f` resizes an image, if it does.
    fn decoded<T: Send>(
        &self,
        rows: &[u32],
        longest: u32,
        resized: Option<u32>,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        // If several rows fail, the error of the first row is returned, regardless of which
        // failed first.
        self.attempts(rows, longest, resized, f)?
            .into_iter()
            .collect()
    }

    /// Like [`Set::decoded`], with a separate result for each image.
    fn attempts<T: Send>(
        &self,
        rows: &[u32],
        longest: u32,
        resized: Option<u32>,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<Result<T>>> {
        let one = |row: u32, bytes: &[u8]| {
            decode::decode(bytes, longest, resized, &f).map_err(|e| self.wrong(row, e))?
        };
        let shards = match &self.source {
            Source::Folder(folder) => {
                let images = rows.par_iter();
                let images = images.map(|&row| one(row, &folder.read(row as usize)?));
                return Ok(images.collect());
            }
            Source::Shards(shards) => shards,
        };
        // Reads each page once and keeps about `KEPT` bytes of pages in memory at a time.
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&i| rows[i]);
        let mut out: Vec<Option<Result<T>>> = (0..rows.len()).map(|_| None).collect();
        let mut next = 0;
        while next < order.len() {
            let mut pages = HashMap::new();
            let mut jobs = Vec::new();
            let mut size = 0;
            while let Some(&i) = order.get(next) {
                let (key, row) = shards.place(rows[i] as usize)?;
                let page = match pages.entry(key) {
                    Entry::Occupied(page) => page.into_mut(),
                    Entry::Vacant(_) if size > KEPT => break,
                    Entry::Vacant(place) => {
                        let page = shards.page(key)?;
                        size += page.size();
                        place.insert(page)
                    }
                };
                jobs.push((i, page.clone(), row));
                next += 1;
            }
            let done: Vec<(usize, Result<T>)> = jobs
                .into_par_iter()
                .map(|(i, page, row)| {
                    let image = match page.bytes(row) {
                        Some(bytes) => one(rows[i], bytes),
                        None => Err(self.missing(rows[i])),
                    };
                    (i, image)
                })
                .collect();
            for (i, image) in done {
                out[i] = Some(image);
            }
        }
        Ok(out.into_iter().flatten().collect())
    }

    fn missing(&self, row: u32) -> Error {
        match &self.source {
            Source::Shards(shards) => {
                let name = self
                    .path
                    .as_ref()
                    .and_then(|p| p.str().ok()?.get(row as usize));
                // `datasets` can write tables that refer to image files on the machine on which
                // they were made.
                let advice = name.map_or(String::new(), |name| {
                    format!(
                        ", only the path {:?}: write the table with the bytes of its images",
                        shown(name)
                    )
                });
                let (path, row) = shards.file_of(row as usize);
                Error::content(path, format!("row {row} has no image{advice}"))
            }
            Source::Folder(folder) => Error::content(folder.path(row as usize), "no image"),
        }
    }
}

impl Images {
    /// Returns the error for an image of this selection that is missing in the table.
    pub(super) fn missing(&self, position: u32) -> Error {
        match self.origins_of(&[position as usize]) {
            Ok(rows) => self.set.missing(rows.first().copied().unwrap_or(0)),
            Err(error) => error,
        }
    }
}

fn fill(images: &[RgbImage], pixels: &mut [f32], area: usize) {
    let pairs = pixels.par_chunks_mut(area).zip(images.par_iter());
    pairs.for_each(|(pixels, image)| decode::planes(image, pixels));
}

fn check_size(size: usize) -> Result<u32> {
    let side = u32::try_from(size).ok();
    side.filter(|s| (1..=LARGEST).contains(s)).ok_or_else(|| {
        Error::invalid(format!(
            "expected images of 1 to {LARGEST} pixels per side, found {size}"
        ))
    })
}

/// Allocates zeros for `count` images of `size`×`size` pixels; an error if memory is
/// insufficient.
fn room(count: usize, size: usize) -> Result<Vec<f32>> {
    let mut pixels: Vec<f32> = Vec::new();
    let wanted = (3 * size * size).checked_mul(count);
    if let Some(wanted) = wanted
        && pixels.try_reserve_exact(wanted).is_ok()
    {
        pixels.resize(wanted, 0.0);
        return Ok(pixels);
    }
    Err(Error::invalid(format!(
        "not enough memory for {count} images of {size}×{size} pixels: request fewer at a time"
    )))
}

fn number_of(what: &str, name: &str, names: &[String]) -> Result<u32> {
    let number = names.iter().position(|n| n == name);
    number.map(|n| n as u32).ok_or_else(|| {
        let known: Vec<&str> = names.iter().take(20).map(String::as_str).collect();
        Error::unknown(match known.as_slice() {
            [] => format!("no {what} {name:?}: the dataset has no {what} names"),
            known => format!("no {what} {name:?}; the names are {}", known.join(", ")),
        })
    })
}

/// Returns the attributes that are numbers or booleans. A column is whole if all its values are
/// integers from 0 to 2³² − 1.
fn numbers(attributes: &[Series]) -> Vec<Number> {
    let number = |series: &Series| {
        let is_number = series.dtype().is_primitive_numeric() || series.dtype().is_bool();
        if !is_number {
            return None;
        }
        let values = if series.dtype().is_float() {
            None
        } else {
            let whole = series.cast(&DataType::UInt32).ok()?;
            (whole.null_count() == 0)
                .then(|| whole.u32().ok()?.iter().collect::<Option<Vec<u32>>>())
        };
        let values = match values.flatten() {
            Some(whole) => Numbers::Whole(whole),
            None => {
                let real = series.cast(&DataType::Float32).ok()?;
                let real = real.f32().ok()?.iter().map(|v| v.unwrap_or(f32::NAN));
                Numbers::Real(real.collect())
            }
        };
        Some(Number {
            name: series.name().to_string(),
            values,
        })
    };
    attributes.iter().filter_map(number).collect()
}

impl Batch {
    /// Writes a parquet table that [`Images::parquet`] can read: images as PNG, labels (unless
    /// `columns.label` is `None`), and the factors as further columns. The file is written
    /// atomically. Columns with automatic selection are named `image` and `label`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the images have shape (n, 3, height, width) and there are n
    /// labels; [`Error::Io`] if the file cannot be written.
    pub fn write_parquet(&self, path: impl AsRef<Path>, columns: &ImageColumns) -> Result<()> {
        let images = png_files(&self.images)?;
        let labels = self.labels.to_device(&Device::Cpu)?.to_dtype(DType::I64)?;
        let labels = labels.to_vec1::<i64>()?;
        let count = images.len();
        if labels.len() != count {
            return Err(Error::shape(format!(
                "expected one label per image, found {} labels for {count} images",
                labels.len()
            )));
        }
        let bytes = Series::new("bytes".into(), images);
        let names = Series::full_null("path".into(), count, &DataType::String);
        let name = columns.image.or("image").into();
        let image = StructChunked::from_series(name, count, [bytes, names].iter())?;
        let mut table = vec![image.into_series().into_column()];
        if let Some(name) = &columns.label {
            table.push(Column::new(name.or("label").into(), labels));
        }
        let factors = self.factors.frame()?;
        if factors.width() > 0 {
            table.extend(factors.columns().iter().cloned());
        }
        let mut frame = DataFrame::new_infer_height(table)?;
        let mut file = Vec::new();
        ParquetWriter::new(&mut file).finish(&mut frame)?;
        write_atomic(path, &file)
    }
}

/// Encodes each image of (n, 3, height, width) in [−1, 1] as a PNG file.
fn png_files(images: &Tensor) -> Result<Vec<Vec<u8>>> {
    let (count, height, width) = match images.dims() {
        &[n, 3, h, w] => (n, h, w),
        other => {
            return Err(Error::shape(format!(
                "expected images of shape (n, 3, height, width), found {other:?}"
            )));
        }
    };
    let values = images
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let area = height * width;
    (0..count)
        .into_par_iter()
        .map(|n| {
            let planes = &values[3 * area * n..][..3 * area];
            let image = RgbImage::from_fn(width as u32, height as u32, |x, y| {
                let i = y as usize * width + x as usize;
                let level = |c: usize| ((planes[c * area + i] + 1.0) * 127.5).round() as u8;
                image::Rgb([level(0), level(1), level(2)])
            });
            let mut file = Cursor::new(Vec::new());
            image
                .write_to(&mut file, ImageFormat::Png)
                .map_err(|e| Error::invalid(format!("cannot write image {n} as PNG: {e}")))?;
            Ok(file.into_inner())
        })
        .collect()
}
