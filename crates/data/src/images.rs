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

/// Images from parquet files in the form of the hub's data sets, or from folders of classes.
///
/// Labels, classes and attributes are in memory, the images are not: they are read when they are asked for, from a
/// parquet file page by page (about 1 MiB as most writers have it, 1 GiB at most). Pages read last are kept up to
/// 64 MiB. So memory is bounded by a page and a batch, whatever the length of the files.
///
/// **Images** are PNG, JPEG, WebP, BMP, TIFF, GIF or PNM files; the content decides, not the extension.
/// Grey images and those of 16 bits become 8 bits of red, green and blue; transparent pixels are shown
/// over white; of several frames or pages the first is read; images are turned as their EXIF
/// orientation says. A file that is cut short, or damaged so that it cannot be decoded, is an error with
/// its path: missing pixels are never filled in. [`Images::readable`] leaves out such files.
///
/// **Memory**: all images that are decoded at the same time use at most [`Images::DECODING_LIMIT`] bytes
/// together, beside their files (at most 256 MiB each) and the result. An image that alone needs more is
/// an error. A JPEG photograph of 6000 × 4000 pixels uses 72 MB, twice that if it has to be turned, and
/// at most three times that if it is progressive.
///
/// A selection ([`Images::select`], [`Images::filter`], [`Images::split`] and others) is a view of the same files and
/// takes four bytes a row; its rows are counted from 0 again.
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
    /// Of the whole set, where it is not all of it.
    rows: Option<Arc<Vec<u32>>>,
}

#[derive(Debug)]
struct Set {
    source: Source,
    labels: Option<Vec<u32>>,
    classes: Vec<String>,
    splits: Vec<String>,
    /// By row: the number of its split; empty where there are none.
    split: Vec<u32>,
    path: Option<Series>,
    attributes: Vec<Series>,
    /// The attributes that batches have as factors.
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

/// The largest size of a batch's images in pixels.
const LARGEST: u32 = 4096;

/// No limit on an image's sides but that of memory.
const ANY: u32 = u32::MAX;

/// The most images of a batch at once in memory as 8 bits, beside the batch itself.
const STAGE: usize = 64;

impl Images {
    /// The most bytes of memory that all images being decoded use together, beside their files and the
    /// result: 1 GiB.
    pub const DECODING_LIMIT: u64 = memory::LIMIT;

    /// The images of parquet files, which together are one set, in this order.
    ///
    /// [`ImageColumns`] says which columns hold the images and the labels. By default both are
    /// found in the first file, by the Hugging Face metadata, the columns' types and their names,
    /// and the choice is printed in one line; the other files must have the same columns. Without a
    /// label column the set has no labels.
    ///
    /// Classes have the names that the hub's `ClassLabel` keeps in the file, if it does; text
    /// labels are their own names, numbered in sorted order over all files. Files that are named as
    /// the hub names them (`train-00000-of-00002.parquet`) say their split. Further columns of
    /// numbers, text and flags are attributes; others (lists, structures, dates) are left out.
    /// Columns may be written in plain, with a dictionary or in runs, which is what the writers of
    /// pyarrow, polars and the hub do; other encodings are refused.
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
    /// [`Error::Io`] for a file that cannot be read, [`Error::Content`] for one that is no parquet table, lacks the columns, has a
    /// label that is not a whole number from 0 to 2³² − 1, a boolean or text, lacks a label where
    /// other rows have one ([`ImageColumns::skip_unlabelled`] leaves such rows out), or has not the
    /// columns and classes of the first.
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

    /// The number of images.
    pub fn len(&self) -> usize {
        match &self.rows {
            Some(rows) => rows.len(),
            None => self.set.source.len(),
        }
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The classes' names, by label; empty where they are not known.
    pub fn classes(&self) -> Vec<String> {
        self.set.classes.clone()
    }

    /// The label of each image; `None` where the set has none, such as a table without a label
    /// column or a test split whose labels are all −1.
    pub fn labels(&self) -> Option<Vec<u32>> {
        let labels = self.set.labels.as_ref()?;
        Some(match &self.rows {
            None => labels.clone(),
            Some(rows) => rows.iter().map(|&r| labels[r as usize]).collect(),
        })
    }

    /// What is known of each image, a row each, without the image: `row` (its number here, u32), `label` (u32), `class`, `split`
    /// and `path` (text), then the attributes. What is not known is null. An attribute with one of these names is called
    /// `column_row` and so on.
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
        // Names are kept once, however many rows have them.
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

    /// The images with these numbers, in this order; one may be there more than once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that is not there.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        Ok(self.view(self.origins_of(rows)?))
    }

    /// The images for which a mask is true, such as `images.frame()?.column("label")?.u32()?.equal(3)` (with
    /// `use polars::prelude::*;`).
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is a value for each image.
    pub fn filter(&self, mask: &BooleanChunked) -> Result<Self> {
        if mask.len() != self.len() {
            return Err(Error::invalid(format!(
                "expected a mask with a value for each of {} images, found {}",
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

    /// The images of a class, by its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is not known, with those that are, and for images without
    /// labels.
    pub fn of_class(&self, name: &str) -> Result<Self> {
        let set = &self.set;
        let Some(labels) = &set.labels else {
            return Err(Error::invalid(format!(
                "no class {name:?}: these images have no labels; name the label column, such as `ImageColumns {{ label: Some(\"label\".into()), ..Default::default() }}`"
            )));
        };
        let number = number_of("class", name, &set.classes)?;
        Ok(self.of(labels, number))
    }

    /// The images of a split, by its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is not known, with those that are.
    pub fn of_split(&self, name: &str) -> Result<Self> {
        let number = number_of("split", name, &self.set.splits)?;
        Ok(self.of(&self.set.split, number))
    }

    fn of(&self, numbers: &[u32], number: u32) -> Self {
        let mut rows = self.origins();
        rows.retain(|&r| numbers.get(r as usize) == Some(&number));
        self.view(rows)
    }

    /// Two disjoint parts: a share of the images, drawn at random by the seed, and the others; both in the order that they have here.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the share is from 0 to 1.
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

    /// The rows of the whole set that are here.
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

    /// A short hash of the files' content, of the columns that were chosen and of the selection.
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
                // A file's own hash, by which what was trained on it is known.
                if let ([path], None, None) = (paths.as_slice(), &self.rows, columns) {
                    return Ok(of_file(path)?.to_hex()[..16].into());
                }
                // Other labels of the same file are other data.
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
                // Other numbers of the classes are other labels.
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

    /// One image in its own size: (3, height, width), f32 in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that is not there, [`Error::Content`] where it holds no image that can be read.
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

    /// Images of one size, decoded in parallel, in the order of the rows: the shorter side resized to `size` pixels with an antialiasing
    /// filter, then the middle cropped. Factors are `row` (the number here) and the attributes that are numbers or flags (0 and 1);
    /// a number that is missing is NaN. Labels are 0 where the set has none.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that is not there, no row, more than memory holds, or a size that is not 1 to 4096 pixels;
    /// [`Error::Content`] where a row holds no image that can be read, the first of several.
    pub fn batch(&self, rows: &[usize], size: usize) -> Result<Batch> {
        let side = check_size(size)?;
        let origins = self.origins_of(rows)?;
        if origins.is_empty() {
            return Err(Error::invalid("expected at least one row, found none"));
        }
        let mut pixels = room(origins.len(), size)?;
        // In stages, so that what is decoded is not all in memory twice.
        let area = 3 * size * size;
        for (rows, pixels) in origins.chunks(STAGE).zip(pixels.chunks_mut(STAGE * area)) {
            let images = self.set.decoded(rows, ANY, Some(side), |image| {
                Ok(decode::square(decode::rgb(image), side))
            })?;
            fill(&images, pixels, area);
        }
        self.finish(rows, &origins, pixels, size)
    }

    /// As [`Images::batch`], for files that were read already.
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

    /// All images once, in batches of `batch` images of `size` pixels (the last may have fewer), as [`Images::batch`] has them.
    /// The next batch is decoded by other threads while one is used, and one more waits.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a batch or a size of 0, or a size beyond 4096; what is wrong with images comes from the iterator.
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

    /// Whether the classes are the distinct texts of a label column.
    pub(super) fn has_text_labels(&self) -> bool {
        matches!(&self.set.source, Source::Shards(shards) if shards.has_text_labels())
    }

    pub(super) fn source(&self) -> &Source {
        &self.set.source
    }

    /// `f` of each image of at most `longest` pixels a side.
    pub(super) fn decoded<T: Send>(
        &self,
        rows: &[usize],
        longest: u32,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.set.decoded(&self.origins_of(rows)?, longest, None, f)
    }

    /// Whether each image can be decoded, in the order of the rows.
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
    /// An error about a row, with the file that it is in.
    fn wrong(&self, row: u32, what: String) -> Error {
        match &self.source {
            Source::Shards(shards) => {
                let (path, row) = shards.file_of(row as usize);
                Error::content(path, format!("row {row} is {what}"))
            }
            Source::Folder(folder) => Error::content(folder.path(row as usize), what),
        }
    }

    /// `f` of each image, decoded in parallel, in the order of the rows; `resized` is the size that `f`
    /// makes of it, if any.
    fn decoded<T: Send>(
        &self,
        rows: &[u32],
        longest: u32,
        resized: Option<u32>,
        f: impl Fn(DynamicImage) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        // Of several bad rows the first is named, whichever was met first.
        self.attempts(rows, longest, resized, f)?
            .into_iter()
            .collect()
    }

    /// As [`Set::decoded`], with the error of each image by itself.
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
        // Each page is read once, and as many are in memory as the cache may have.
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
                // `datasets` can write tables that refer to the image files of the machine they
                // were made on.
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
    /// An image's file from a page, with what is wrong where there is none.
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
            "images can have 1 to {LARGEST} pixels a side, found {size}"
        ))
    })
}

/// Room for so many images.
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
        "{count} images of {size}×{size} pixels are more than memory holds: ask for fewer at a time"
    )))
}

fn number_of(what: &str, name: &str, names: &[String]) -> Result<u32> {
    let number = names.iter().position(|n| n == name);
    number.map(|n| n as u32).ok_or_else(|| {
        let known: Vec<&str> = names.iter().take(20).map(String::as_str).collect();
        Error::invalid(match known.as_slice() {
            [] => format!("no {what} {name:?}: the names are not known here"),
            known => format!("no {what} {name:?}; known are: {}", known.join(", ")),
        })
    })
}

/// The attributes that are numbers or flags: whole where all of them are whole numbers from 0 to 2³² − 1.
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
    /// Writes a parquet table that [`Images::parquet`] reads: images as PNG, labels (unless `columns.label` is `None`), and the factors as
    /// further columns; whole or not at all. Columns that are to be found are called `image` and
    /// `label`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the images are (n, 3, height, width) with n labels, [`Error::Io`] where the file cannot be written.
    pub fn write_parquet(&self, path: impl AsRef<Path>, columns: &ImageColumns) -> Result<()> {
        let images = png_files(&self.images)?;
        let labels = self.labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let count = images.len();
        if labels.len() != count {
            return Err(Error::invalid(format!(
                "expected a label per image, found {} labels for {count} images",
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

/// Each image of (n, 3, height, width) in [−1, 1] as a PNG file.
fn png_files(images: &Tensor) -> Result<Vec<Vec<u8>>> {
    let (count, height, width) = match images.dims() {
        &[n, 3, h, w] => (n, h, w),
        other => {
            return Err(Error::invalid(format!(
                "expected images of shape (n, 3, height, width), found {other:?}"
            )));
        }
    };
    let values = images
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
                .map_err(|e| Error::invalid(format!("image {n} cannot be written as PNG: {e}")))?;
            Ok(file.into_inner())
        })
        .collect()
}
