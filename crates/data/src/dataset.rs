//! The trait of datasets with known factors of variation, and their attributes.

use super::{Batch, Factors, Split};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// A dataset with known factors of variation, on which a statement such as "this network is
/// invariant to colour" can be measured.
///
/// Samples have an index without upper limit. Sample `i` of a split depends only on the settings,
/// the seed, the split and `i`. It does not depend on the batch that contains it or on the number
/// of threads.
///
/// ```
/// use invariances_data::*;
/// fn factors(dataset: &dyn Dataset) -> Result<Vec<String>, invariances_data::Error> {
///     Ok(dataset.batch(Split::Test, 0, 2)?.factors.names())
/// }
/// assert!(factors(&Digits::strokes(32, 0)?)?.contains(&"slant".to_string()));
/// assert!(factors(&Faces::new(32, 0)?)?.contains(&"smile".to_string()));
/// assert!(factors(&Creatures::new(32, 0)?)?.contains(&"texture".to_string()));
/// # Ok::<(), invariances_data::Error>(())
/// ```
///
/// # A dataset of your own
///
/// Images in a folder or a parquet file need no code: [`Photographs`](super::Photographs) makes a
/// dataset of [`Images`](super::Images). Any other source implements this trait:
///
/// ```
/// use candle_core::{Device, Tensor};
/// use invariances_data::{Attribute, Batch, Dataset, Error, Factors, Result, Split};
///
/// /// Images of one grey level each.
/// struct Greys;
///
/// impl Dataset for Greys {
///     fn size(&self) -> usize {
///         8
///     }
///     // Change it whenever the images change: networks are stored under it.
///     fn id(&self) -> String {
///         "greys 1".into()
///     }
///     fn classes(&self) -> Vec<String> {
///         vec!["dark".into(), "bright".into()]
///     }
///     fn attributes(&self) -> Vec<Attribute> {
///         vec![Attribute::class("bright", &["no", "yes"])]
///     }
///     fn concepts(&self) -> Vec<String> {
///         Vec::new()
///     }
///     fn take(&self, split: Split, indices: &[u64]) -> Result<Batch> {
///         let n = indices.len();
///         // No level of one split occurs in another one.
///         let level = |i: &u64| (3 * (i % 33) + split as u64) as f32 / 49.5 - 1.0;
///         let levels: Vec<f32> = indices.iter().map(level).collect();
///         let bright: Vec<u32> = levels.iter().map(|l| u32::from(*l > 0.0)).collect();
///         let factors = Factors::new().with_real("level", levels.clone())?;
///         let images = Tensor::from_vec(levels, (n, 1, 1, 1), &Device::Cpu)?;
///         Ok(Batch {
///             images: images.broadcast_as((n, 3, 8, 8))?.contiguous()?,
///             labels: Tensor::from_vec(bright.clone(), n, &Device::Cpu)?,
///             factors: factors.with_whole("bright", bright)?,
///         })
///     }
///     fn pairs(&self, _: Split, _: u64, _: usize, concept: &str) -> Result<(Batch, Batch)> {
///         Err(Error::unknown(format!("the dataset has no concept {concept:?}")))
///     }
/// }
///
/// let batch = Greys.batch(Split::Test, 0, 4)?;
/// assert_eq!(batch.images.dims(), [4, 3, 8, 8]);
/// assert_eq!(Greys.attributes()[0].of(&batch.factors)?, batch.labels.to_vec1::<u32>()?);
/// # Ok::<(), invariances_data::Error>(())
/// ```
pub trait Dataset: Send + Sync {
    /// Returns the height and width of the images.
    fn size(&self) -> usize;

    /// Returns an identifier of the data, which is part of the keys of networks trained on it.
    fn id(&self) -> String;

    /// Returns the class names, indexed by label; empty if the labels are numbers of persons or
    /// rows.
    fn classes(&self) -> Vec<String>;

    /// Returns the categorical attributes of an image, with their possible values.
    fn attributes(&self) -> Vec<Attribute>;

    /// Returns the names of the concepts (factors) that a pair of images can share
    /// ([`Dataset::pairs`]).
    fn concepts(&self) -> Vec<String>;

    /// Returns the samples of a split with these indices, in this order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no samples, if memory is insufficient, or for an empty split.
    fn take(&self, split: Split, indices: &[u64]) -> Result<Batch>;

    /// Returns `count` pairs of images. The two images of a row share one of the
    /// [`Dataset::concepts`] and are otherwise independent. Such pairs train networks to find what
    /// a concept is. In synthetic datasets the pairs are other images than those of
    /// [`Dataset::batch`].
    ///
    /// # Errors
    /// Those of [`Dataset::take`]; also for an unknown concept, with a list of the known ones.
    fn pairs(
        &self,
        split: Split,
        start: u64,
        count: usize,
        concept: &str,
    ) -> Result<(Batch, Batch)>;

    /// Returns the samples `start` … `start + count − 1` of a split.
    ///
    /// # Errors
    /// Those of [`Dataset::take`].
    fn batch(&self, split: Split, start: u64, count: usize) -> Result<Batch> {
        self.take(split, &indices(start, count)?)
    }
}

impl<W: Dataset + ?Sized> Dataset for Arc<W> {
    fn size(&self) -> usize {
        (**self).size()
    }

    fn id(&self) -> String {
        (**self).id()
    }

    fn classes(&self) -> Vec<String> {
        (**self).classes()
    }

    fn attributes(&self) -> Vec<Attribute> {
        (**self).attributes()
    }

    fn concepts(&self) -> Vec<String> {
        (**self).concepts()
    }

    fn take(&self, split: Split, indices: &[u64]) -> Result<Batch> {
        (**self).take(split, indices)
    }

    fn pairs(
        &self,
        split: Split,
        start: u64,
        count: usize,
        concept: &str,
    ) -> Result<(Batch, Batch)> {
        (**self).pairs(split, start, count, concept)
    }
}

/// A categorical attribute of an image: a factor, divided into a few classes by thresholds.
///
/// ```
/// use invariances_data::*;
/// let faces = Faces::new(32, 0)?;
/// let beard = faces.attributes().into_iter().find(|a| a.name == "beard").unwrap();
/// assert_eq!(beard.answers, ["none", "beard"]);
/// let answers = beard.of(&faces.batch(Split::Test, 0, 8)?.factors)?;
/// assert!(answers.iter().all(|a| *a < 2));
/// # Ok::<(), invariances_data::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// The name of the factor's column.
    pub name: String,
    /// The names of the classes.
    pub answers: Vec<String>,
    /// The thresholds between consecutive classes: one fewer than there are classes.
    pub cuts: Vec<f32>,
}

impl Attribute {
    pub(super) fn new(name: &str, answers: &[&str], cuts: &[f32]) -> Self {
        Self {
            name: name.into(),
            answers: answers.iter().map(ToString::to_string).collect(),
            cuts: cuts.to_vec(),
        }
    }

    /// Creates the attribute of a factor that is a class number; `answers` are the class names.
    pub fn class(name: &str, answers: &[&str]) -> Self {
        let cuts: Vec<f32> = (1..answers.len()).map(|n| n as f32 - 0.5).collect();
        Self::new(name, answers, &cuts)
    }

    /// Returns the class of each image.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the factors do not contain this one.
    pub fn of(&self, factors: &Factors) -> Result<Vec<u32>> {
        let class = |v: f32| self.cuts.iter().filter(|cut| v >= **cut).count() as u32;
        Ok(factors.column(&self.name)?.into_iter().map(class).collect())
    }
}

pub(super) fn unknown_concept(concept: &str, dataset: &dyn Dataset) -> Error {
    Error::unknown(format!(
        "the dataset {} has no concept {concept:?}; its concepts are {}",
        dataset.id(),
        dataset.concepts().join(", ")
    ))
}

pub(super) fn indices(start: u64, count: usize) -> Result<Vec<u64>> {
    // More images than fit in memory; limits the length of the list of indices.
    const MAX_SAMPLES: usize = 1 << 28;
    match start.checked_add(count as u64) {
        Some(end) if count <= MAX_SAMPLES => Ok((start..end).collect()),
        _ => Err(Error::invalid(format!(
            "expected at most {MAX_SAMPLES} samples at a time and indices below 2^64, found {count} samples from index {start}"
        ))),
    }
}

pub(super) fn check_size(what: &str, size: usize, min: usize) -> Result<()> {
    if (min..=128).contains(&size) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "expected {what} of {min} to 128 pixels per side, found {size}"
    )))
}

/// Renders `count` images on all threads. `draw` receives the image's number, three planes of
/// `size`² values in [−1, 1] to fill, and the scratch value that `scratch` created for its
/// thread. It returns what is known about the image.
pub(super) fn render<S: Send, W>(
    size: usize,
    count: usize,
    scratch: impl Fn() -> W + Sync + Send,
    draw: impl Fn(usize, &mut [f32], &mut W) -> S + Sync + Send,
) -> Result<(Tensor, Vec<S>)> {
    if count == 0 {
        return Err(Error::invalid("expected at least one sample, found 0"));
    }
    let numbers = 3 * size * size;
    let mut pixels: Vec<f32> = Vec::new();
    let wanted = count.checked_mul(numbers);
    if wanted.is_none_or(|n| pixels.try_reserve_exact(n).is_err()) {
        return Err(Error::invalid(format!(
            "not enough memory for {count} images of {size}×{size} pixels: request fewer at a time"
        )));
    }
    pixels.resize(count * numbers, 0.0);
    let known = pixels
        .par_chunks_mut(numbers)
        .enumerate()
        .map_init(scratch, |scratch, (k, pixels)| draw(k, pixels, scratch))
        .collect();
    let images = Tensor::from_vec(pixels, (count, 3, size, size), &Device::Cpu)?;
    Ok((images, known))
}
