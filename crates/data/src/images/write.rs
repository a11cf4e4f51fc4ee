//! Writes a batch as a parquet file.

use crate::{Batch, Error, ImageColumns, Result};
use candle_core::{DType, Device, Tensor};
use image::{ImageFormat, RgbImage};
use invariances_core::files::write_atomic;
use polars::prelude::*;
use rayon::prelude::*;
use std::io::Cursor;
use std::path::Path;

impl Batch {
    /// Writes a parquet table that [`Images::parquet`] can read: images as PNG, labels (unless
    /// `columns.label` is `None`), and the factors as further columns. The file is written
    /// atomically. Columns with automatic selection are named `image` and `label`.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the images have shape (n, 3, height, width) and there are n
    /// labels; [`Error::Io`] if the file cannot be written.
    ///
    /// [`Images::parquet`]: crate::Images::parquet
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
