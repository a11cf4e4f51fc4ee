use super::Batch;
use crate::ops::files::write_atomic;
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use image::{ImageFormat, ImageReader, RgbImage};
use polars::prelude::*;
use rayon::prelude::*;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Where a table keeps its images and labels; the hub's data sets call them `image` and `label`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageColumns {
    /// A struct {bytes, path}, or the bytes themselves: PNG or JPEG files.
    pub image: String,
    /// Whole numbers from 0.
    pub label: String,
}

impl Default for ImageColumns {
    fn default() -> Self {
        Self {
            image: "image".into(),
            label: "label".into(),
        }
    }
}

/// A parquet table of images in the form of the hub's data sets: `image` {bytes, path}, `label`.
///
/// The encoded bytes are kept; images are decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct ImageTable {
    path: PathBuf,
    images: BinaryChunked,
    labels: Vec<u32>,
    rest: DataFrame,
    hash: String,
}

/// The longest side of an image that is decoded.
const LONGEST: u32 = 4096;

impl ImageTable {
    /// Reads a table.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read, [`Error::Content`] for one that is no parquet table, lacks the columns
    /// or has a label that is missing or not a whole number from 0 to 2³² − 1.
    pub fn open(path: impl AsRef<Path>, columns: &ImageColumns) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|e| {
            Error::io(path, e).with_hint("expected a parquet file with an image and a label column")
        })?;
        let wrong = |what: String| Error::content(path, what);
        let hash = blake3::hash(&bytes).to_hex()[..16].to_string();
        let frame = read_parquet(bytes).map_err(wrong)?;

        let present = || {
            let schema = frame.schema();
            let columns = schema
                .iter()
                .map(|(name, dtype)| format!("{name}: {dtype}"));
            columns.collect::<Vec<_>>().join(", ")
        };
        let column = |name: &str| {
            frame.column(name).map_err(|_| {
                wrong(format!(
                    "expected a column {name:?}; the table has {}",
                    present()
                ))
            })
        };
        let bytes = bytes_of(column(&columns.image)?).ok_or_else(|| {
            wrong(format!(
                "expected images in column {:?} as bytes or as a struct with a field \"bytes\"; the table has {}",
                columns.image,
                present()
            ))
        })?;
        let labels = column(&columns.label)?;
        if !labels.dtype().is_integer() {
            return Err(wrong(format!(
                "expected whole numbers in column {:?}; the table has {}",
                columns.label,
                present()
            )));
        }
        let labels = labels.cast(&polars::prelude::DataType::Int64)?;
        let labels: Result<Vec<u32>> = labels
            .i64()?
            .iter()
            .enumerate()
            .map(|(row, label)| {
                label.and_then(|l| u32::try_from(l).ok()).ok_or_else(|| {
                    let found = label.map_or("nothing".into(), |l| l.to_string());
                    wrong(format!(
                        "row {row} has {found} for label, expected a whole number from 0 to {}",
                        u32::MAX
                    ))
                })
            })
            .collect();
        let rest = frame.drop(&columns.image)?.drop(&columns.label)?;
        Ok(Self {
            path: path.into(),
            images: bytes,
            labels: labels?,
            rest,
            hash,
        })
    }

    /// Writes a batch as such a table: images as PNG, labels, and the factors as further columns; whole or not at all.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless the images are (n, 3, height, width) with n labels, [`Error::Io`] where the file cannot be written.
    pub fn write(path: impl AsRef<Path>, batch: &Batch, columns: &ImageColumns) -> Result<()> {
        let path = path.as_ref();
        let images = png_files(&batch.images)?;
        let labels = batch.labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        if labels.len() != images.len() {
            return Err(Error::invalid(format!(
                "expected a label per image, found {} labels for {} images",
                labels.len(),
                images.len()
            )));
        }
        let bytes = Series::new("bytes".into(), images);
        let names = Series::full_null(
            "path".into(),
            labels.len(),
            &polars::prelude::DataType::String,
        );
        let image = StructChunked::from_series(
            columns.image.as_str().into(),
            labels.len(),
            [bytes, names].iter(),
        )?;
        let mut table = vec![
            image.into_series().into_column(),
            Column::new(columns.label.as_str().into(), labels),
        ];
        let factors = batch.factors.frame()?;
        if factors.width() > 0 {
            table.extend(factors.columns().iter().cloned());
        }
        let mut frame = DataFrame::new_infer_height(table)?;
        let mut file = Vec::new();
        ParquetWriter::new(&mut file).finish(&mut frame)?;
        write_atomic(path, &file)
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The label of each image.
    pub fn labels(&self) -> Vec<u32> {
        self.labels.clone()
    }

    /// The other columns of the table.
    pub fn rest(&self) -> DataFrame {
        self.rest.clone()
    }

    /// A short hash of the file's content.
    pub fn hash(&self) -> String {
        self.hash.clone()
    }

    /// One image: (3, height, width), f32 in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a row that is not there, [`Error::Content`] where it holds no PNG or JPEG image of at most 4096 pixels a side.
    pub fn image(&self, row: usize) -> Result<Tensor> {
        let image = self.decode(row, LONGEST)?.into_rgb8();
        let (width, height) = (image.width() as usize, image.height() as usize);
        let raw = image.as_raw();
        let area = width * height;
        let mut values = Vec::with_capacity(3 * area);
        for c in 0..3 {
            values.extend((0..area).map(|i| f32::from(raw[3 * i + c]) / 127.5 - 1.0));
        }
        Ok(Tensor::from_vec(values, (3, height, width), &Device::Cpu)?)
    }

    /// Several images of one size, decoded in parallel: (n, 3, height, width), f32 in [−1, 1].
    ///
    /// # Errors
    /// As [`ImageTable::image`], and [`Error::Content`] where sizes differ.
    pub fn images(&self, rows: &[usize]) -> Result<Tensor> {
        let images: Vec<Result<Tensor>> = rows.par_iter().map(|&row| self.image(row)).collect();
        // Of several bad rows the first is named, whichever was met first.
        let images = images.into_iter().collect::<Result<Vec<_>>>()?;
        let Some(first) = images.first() else {
            return Err(Error::invalid("expected at least one row, found none"));
        };
        if let Some(k) = images.iter().position(|i| i.dims() != first.dims()) {
            return Err(self.wrong(format!(
                "rows {} and {} hold images of different sizes, {:?} and {:?} (channels, height, width)",
                rows[0],
                rows[k],
                first.dims(),
                images[k].dims()
            )));
        }
        Ok(Tensor::stack(&images, 0)?)
    }

    /// Width, height and grey values of one image of at most `longest` pixels a side.
    pub(super) fn grey(&self, row: usize, longest: u32) -> Result<(usize, usize, Vec<u8>)> {
        let image = self.decode(row, longest)?.into_luma8();
        Ok((
            image.width() as usize,
            image.height() as usize,
            image.into_raw(),
        ))
    }

    fn wrong(&self, what: String) -> Error {
        Error::content(&self.path, what)
    }

    fn decode(&self, row: usize, longest: u32) -> Result<image::DynamicImage> {
        if row >= self.len() {
            return Err(Error::invalid(format!(
                "no row {row}: the table has {} rows, counted from 0",
                self.len()
            )));
        }
        let Some(bytes) = self.images.get(row) else {
            return Err(self.wrong(format!("row {row} has no image")));
        };
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(longest);
        limits.max_image_height = Some(longest);
        let mut reader = ImageReader::new(Cursor::new(bytes));
        reader.limits(limits);
        let reader = reader
            .with_guessed_format()
            .map_err(|e| self.wrong(format!("row {row}: {e}")))?;
        reader.decode().map_err(|e| {
            self.wrong(format!(
                "row {row} is not an image that can be read, expected PNG or JPEG of at most {longest} pixels a side: {e}"
            ))
        })
    }
}

/// The bytes of each row's image file, in one piece.
fn bytes_of(column: &Column) -> Option<BinaryChunked> {
    let series = column.as_materialized_series();
    let bytes = match series.struct_() {
        Ok(fields) => fields.field_by_name("bytes").ok()?,
        Err(_) => series.clone(),
    };
    Some(bytes.binary().ok()?.rechunk().into_owned())
}

/// A frame from the bytes of a parquet file; what is wrong with them, in words, where they are none.
fn read_parquet(bytes: Vec<u8>) -> std::result::Result<DataFrame, String> {
    if bytes.len() < 12 || !bytes.starts_with(b"PAR1") || !bytes.ends_with(b"PAR1") {
        return Err(format!(
            "not a parquet file, or one cut short ({} bytes)",
            bytes.len()
        ));
    }
    // The reader trusts the file in places and panics where that was a mistake.
    let attempt = catch_unwind(AssertUnwindSafe(|| {
        let length = bytes.len();
        let mut reader = ParquetReader::new(Cursor::new(bytes));
        let rows = reader.num_rows().map_err(|e| e.to_string())?;
        // Memory is set aside by this number. An image takes many bytes, but equal ones may be kept once.
        if rows > length.max(1 << 20) {
            return Err(format!("{rows} rows promised in {length} bytes"));
        }
        reader.finish().map_err(|e| e.to_string())
    }));
    match attempt {
        Ok(Ok(frame)) => Ok(frame),
        Ok(Err(what)) => Err(format!("a damaged parquet file: {what}")),
        Err(_) => Err("a parquet file that is damaged or holds types that cannot be read".into()),
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
