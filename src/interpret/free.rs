//! Samples of images with the same representation ([`Samples`]), and what varies between them:
//! the share of a factor's variance that a layer leaves free ([`free_share`]).

use super::Targets;
use crate::autoencoder::Autoencoder;
use crate::backbone::{Network, device_of, rows_on};
use crate::flow::Flow;
use crate::metric::{IndependentClassifier, agreement};
use crate::ops::widened as wide;
use crate::ops::{Placement, Rng, scalar, values};
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Images drawn for the representation z of an original: D(t⁻¹(v | z)) with v ~ N(0, 1), several
/// per original. How near their own representations are to z is measured by
/// [`Fidelity`](super::Fidelity).
#[derive(Clone, Debug)]
pub struct Samples {
    images: Tensor,
    per_image: usize,
    /// The codes that t drew, (batch · per image, code); `None` for images of another method.
    codes: Option<Tensor>,
}

impl Samples {
    /// Draws `per_image` samples for each representation z (batch, n) and decodes them. The
    /// images are on D's device.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit t or D; [`Error::Invalid`] if `per_image` is 0.
    pub fn draw(
        t: &dyn Flow,
        autoencoder: &dyn Autoencoder,
        z: &Tensor,
        per_image: usize,
        rng: &mut Rng,
    ) -> Result<Self> {
        if per_image == 0 {
            return Err(Error::invalid(
                "expected at least one sample per image, found 0",
            ));
        }
        Self::of_codes(&t.sample(Some(z), per_image, rng)?, autoencoder, per_image)
    }

    /// Decodes codes (batch · per image, code), those of the first original first.
    pub(super) fn of_codes(
        codes: &Tensor,
        autoencoder: &dyn Autoencoder,
        per_image: usize,
    ) -> Result<Self> {
        Ok(Self {
            images: autoencoder.images_of(codes)?,
            per_image,
            codes: Some(codes.detach()),
        })
    }

    /// The codes of the samples, or `None` for images that were not drawn by t.
    pub(super) fn codes(&self) -> Option<&Tensor> {
        self.codes.as_ref()
    }

    /// Wraps images from another method, so that they can be measured in the same way. The shape
    /// is (batch · per image, 3, h, w), with the images of the first original first.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are no images, or if their number is not a multiple of
    /// `per_image`.
    pub fn of(images: &Tensor, per_image: usize) -> Result<Self> {
        let count = images.dims4()?.0;
        if per_image == 0 || count == 0 || count % per_image != 0 {
            return Err(Error::shape(format!(
                "expected at least one original with {per_image} images each, found {count} images in total"
            )));
        }
        Ok(Self {
            images: images.detach(),
            per_image,
            codes: None,
        })
    }

    /// All samples (batch · per image, 3, h, w), those of the first original first.
    pub fn images(&self) -> Tensor {
        self.images.clone()
    }

    /// The number of samples for each original.
    pub fn per_image(&self) -> usize {
        self.per_image
    }

    /// The samples of these originals only, in the order of `originals`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an original that does not exist; [`Error::Shape`] for no originals.
    pub fn select(&self, originals: &[u32]) -> Result<Self> {
        let (count, n) = (
            self.images.dims4()?.0 / self.per_image,
            self.per_image as u32,
        );
        if let Some(index) = originals.iter().find(|i| **i as usize >= count) {
            return Err(Error::invalid(format!(
                "no original {index}: there are samples of {count} originals, counted from 0"
            )));
        }
        let rows: Vec<u32> = originals.iter().flat_map(|i| i * n..(i + 1) * n).collect();
        let rows = Tensor::new(rows, self.images.device())?;
        let codes = match &self.codes {
            Some(codes) => {
                let rows = rows.to_device(codes.device())?;
                Some(codes.index_select(&rows, 0)?)
            }
            None => None,
        };
        let images = self.images.index_select(&rows, 0)?;
        let selected = Self::of(&images, self.per_image)?;
        Ok(Self { codes, ..selected })
    }

    /// For each original, the share of its samples in which the independent classifier `independent`
    /// predicts the value `wanted` of the attribute `question` (an index, one per original).
    ///
    /// # Errors
    /// [`Error::Unknown`] for an attribute that the classifier does not predict; [`Error::Shape`]
    /// if the number of values is not the number of originals.
    pub fn shows(
        &self,
        independent: &IndependentClassifier,
        question: &str,
        wanted: &[u32],
    ) -> Result<Vec<f64>> {
        let attributes = independent.attributes();
        let names: Vec<&str> = attributes.iter().map(|a| a.name.as_str()).collect();
        if !names.contains(&question) {
            return Err(Error::unknown(format!(
                "no attribute {question:?}: the independent classifier predicts {}",
                names.join(", ")
            )));
        }
        let count = self.images.dims4()?.0 / self.per_image;
        if wanted.len() != count {
            return Err(Error::shape(format!(
                "expected one value for each of {count} originals, found {} values",
                wanted.len()
            )));
        }
        let predicted = &independent.names(&self.images)?[question];
        let each = predicted.chunks(self.per_image).zip(wanted);
        Ok(each
            .map(|(predicted, wanted)| {
                predicted.iter().filter(|p| *p == wanted).count() as f64 / predicted.len() as f64
            })
            .collect())
    }

    /// The rows of a grid: for each original its image from each tensor in `before` (each
    /// (batch, 3, h, w)), then its samples. All of them are moved to the device of the samples.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the shapes differ.
    pub fn rows(&self, before: &[Tensor]) -> Result<Tensor> {
        let (n, c, h, w) = self.images.dims4()?;
        let placement = Placement::of(&self.images);
        let mut parts = Vec::new();
        for images in before {
            parts.push(placement.take(images)?.unsqueeze(1)?);
        }
        parts.push(
            self.images
                .reshape((n / self.per_image, self.per_image, c, h, w))?,
        );
        Ok(Tensor::cat(&parts, 1)?.flatten(0, 1)?)
    }

    /// The positions in [`Samples::rows`] of the samples whose class predicted by `network`
    /// differs from `labels` (u32, one per original). `before` is the number of images before the
    /// samples in each row.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the number of labels is not the number of originals.
    pub fn misread(
        &self,
        network: &dyn Network,
        labels: &Tensor,
        before: usize,
    ) -> Result<Vec<usize>> {
        let kept = self.keeps_class(network, labels)?;
        let position = |n: usize| {
            (n / self.per_image) * (before + self.per_image) + before + n % self.per_image
        };
        let wrong = kept.iter().enumerate().filter(|(_, k)| **k == 0.0);
        Ok(wrong.map(|(n, _)| position(n)).collect())
    }

    /// For each original, the share of its samples that `network` assigns to the class in
    /// `labels` (u32, one per original).
    pub fn keep_class(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<f64>> {
        let kept = self.keeps_class(network, labels)?;
        Ok(kept
            .chunks(self.per_image)
            .map(|c| c.iter().sum::<f64>() / c.len() as f64)
            .collect())
    }

    /// For each attribute that the independent classifier `independent` predicts, the share of it that z
    /// leaves free ([`free_share`]), one value per original. It is the rate at which the
    /// predictions for two samples of one z differ, divided by the rate at which they differ for
    /// two originals. The value is 1 if the samples of one z differ as much as the originals do,
    /// and 0 if the prediction is the same for all samples.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the prediction is the same for all originals; [`Error::Shape`] for
    /// fewer than two samples or originals.
    pub fn free(
        &self,
        independent: &IndependentClassifier,
        originals: &Tensor,
    ) -> Result<BTreeMap<String, Vec<f64>>> {
        let samples = Targets::of(independent, &self.images)?;
        let originals = Targets::of(independent, originals)?;
        let mut free = BTreeMap::new();
        for name in samples.names() {
            let (samples, originals) = (samples.get(&name)?, originals.get(&name)?);
            let share = share_of(&name, &samples, &originals, self.per_image)?;
            free.insert(name, share);
        }
        Ok(free)
    }

    /// The pixel-wise mean and standard deviation of the samples of each original:
    /// (batch, 3, h, w), and (batch, h, w) over all channels together. Where the deviation is 0,
    /// z determines the pixel.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a single sample per original.
    pub fn moments(&self) -> Result<(Tensor, Tensor)> {
        if self.per_image < 2 {
            return Err(Error::invalid(format!(
                "expected at least two samples per image for a standard deviation, found {}",
                self.per_image
            )));
        }
        let (n, c, h, w) = self.images.dims4()?;
        let grouped = self
            .images
            .reshape((n / self.per_image, self.per_image, c, h, w))?;
        let deviation = grouped.var(1)?.mean(1)?.sqrt()?;
        Ok((grouped.mean(1)?, deviation))
    }

    /// For each sample, 1 if `network` predicts the class of its original, else 0.
    fn keeps_class(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<f64>> {
        let repeated = labels
            .unsqueeze(1)?
            .repeat((1, self.per_image))?
            .flatten_all()?;
        let mut kept = Vec::new();
        let device = device_of(network, &self.images);
        for start in (0..self.images.dims()[0]).step_by(256) {
            let count = 256.min(self.images.dims()[0] - start);
            let classes = network.classify(&rows_on(&device, &self.images, start, count)?)?;
            kept.extend(agreement(&classes, &repeated.narrow(0, start, count)?)?);
        }
        Ok(kept)
    }
}

/// The share of a factor's variance that z leaves free, one value per original. It is the
/// variance of the factor over the samples of one z (unbiased), divided by its variance over the
/// originals, both summed over the factor's components (three for a colour). 1 means free, 0
/// means fixed by z.
///
/// `of_samples` is (batch · per_image, components), `of_originals` (batch, components).
///
/// # Errors
/// [`Error::Shape`] if the shapes do not fit or if there are fewer than two samples or originals;
/// [`Error::Invalid`] if the factor does not vary over the originals.
pub fn free_share(
    of_samples: &Tensor,
    of_originals: &Tensor,
    per_image: usize,
) -> Result<Vec<f64>> {
    match (of_samples.dims(), of_originals.dims()) {
        (&[n, c], &[b, d]) if c == d && b >= 2 && per_image >= 2 && n == b * per_image => {}
        (s, o) => {
            return Err(Error::shape(format!(
                "expected a factor of the samples (batch · {per_image}, components) and of the originals (batch, components), with at least two samples per original and two originals, found {s:?} and {o:?}"
            )));
        }
    }
    share_within(of_samples, of_originals, per_image)
}

/// [`free_share`] of one factor; errors have its name.
pub(super) fn share_of(
    name: &str,
    of_samples: &Tensor,
    of_originals: &Tensor,
    per_image: usize,
) -> Result<Vec<f64>> {
    free_share(of_samples, of_originals, per_image).map_err(|e| {
        let message = format!("factor {name}: {e}");
        match e {
            Error::Shape(_) => Error::shape(message),
            _ => Error::invalid(message),
        }
    })
}

/// The variance within each group of `per_image` rows of `of_samples` (n, components), divided by
/// the variance of `all` (m, components).
pub(super) fn share_within(
    of_samples: &Tensor,
    all: &Tensor,
    per_image: usize,
) -> Result<Vec<f64>> {
    let (n, components) = of_samples.dims2()?;
    let within = wide(of_samples)?
        .reshape((n / per_image, per_image, components))?
        .var(1)?
        .sum(1)?;
    let Some(total) = variance_of(all)? else {
        return Err(Error::invalid(
            "the factor does not vary over the originals: a share of its variance is not defined",
        ));
    };
    Ok(values(&within)?.into_iter().map(|w| w / total).collect())
}

/// For each row of `all` (m, components) its squared distance to the mean row, in units of the
/// mean over all rows: what a row contributes to the variance. Nothing if the rows do not vary.
pub(super) fn spread_of(all: &Tensor) -> Result<Option<Vec<f64>>> {
    let Some(variance) = variance_of(all)? else {
        return Ok(None);
    };
    let all = wide(all)?;
    let rows = all.dim(0)? as f64;
    let unit = variance * (rows - 1.0) / rows;
    let centred = all.broadcast_sub(&all.mean_keepdim(0)?)?;
    let squares = values(&centred.sqr()?.sum(1)?)?;
    Ok(Some(squares.into_iter().map(|s| s / unit).collect()))
}

/// The variance of `all` (m, components) over its rows, summed over the components. `None` for
/// fewer than two rows, if the rows differ by rounding errors at most, or if it is not finite.
pub(super) fn variance_of(all: &Tensor) -> Result<Option<f64>> {
    if all.dim(0)? < 2 {
        return Ok(None);
    }
    let all = wide(all)?;
    let total = scalar(&all.var(0)?.sum_all()?)?;
    let size = scalar(&all.sqr()?.mean(0)?.sum_all()?)?;
    // The mean of equal numbers can differ from them in the last digit, which in f32 gives a
    // variance of up to 1e-13 of their square.
    Ok((total.is_finite() && total > 1e-12 * size).then_some(total))
}
