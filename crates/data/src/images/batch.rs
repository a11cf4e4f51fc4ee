//! Images as tensors: one image, a batch, or all batches.

use super::Images;
use super::decoding::ANY;
use super::factors::{Number, Numbers};
use crate::{Batch, Batches, Error, Factors, Order, Result, decode};
use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;

/// Maximum size of a batch's images in pixels.
const LARGEST: u32 = 4096;

/// Maximum number of a batch's images that are in memory as 8-bit images at a time, in addition
/// to the batch itself.
const STAGE: usize = 64;

impl Images {
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
    pub(crate) fn batch_of(&self, files: &[(u32, Vec<u8>)], size: usize) -> Result<Batch> {
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
