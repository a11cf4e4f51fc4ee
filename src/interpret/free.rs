use crate::autoencoder::Autoencoder;
use crate::backbone::Network;
use crate::flow::Cinn;
use crate::metric::agreement;
use crate::ops::Rng;
use crate::{Error, Result};
use candle_core::Tensor;

/// Images that a layer cannot tell from their originals: D(t⁻¹(v | z)) with v ~ N(0, 1), some per original.
#[derive(Clone, Debug)]
pub struct Samples {
    images: Tensor,
    per_image: usize,
}

impl Samples {
    /// Draws `per_image` samples for each representation z (batch, n) and decodes them.
    ///
    /// # Errors
    /// [`Error::Invalid`] where t or D takes another shape, or none are asked for.
    pub fn draw(
        t: &Cinn,
        autoencoder: &impl Autoencoder,
        z: &Tensor,
        per_image: usize,
        rng: &mut Rng,
    ) -> Result<Self> {
        if per_image == 0 {
            return Err(Error::invalid("0 samples per image: ask for at least one"));
        }
        let codes = t.sample(z, per_image, rng)?;
        let count = codes.dims()[0];
        let mut images = Vec::new();
        for start in (0..count).step_by(128) {
            let codes = codes.narrow(0, start, 128.min(count - start))?;
            images.push(autoencoder.decode(&codes)?.detach().clamp(-1f32, 1f32)?);
        }
        Ok(Self {
            images: Tensor::cat(&images, 0)?,
            per_image,
        })
    }

    /// All samples (batch · per image, 3, h, w): those of the first original first.
    pub fn images(&self) -> Tensor {
        self.images.clone()
    }

    /// How many samples there are for each original.
    pub fn per_image(&self) -> usize {
        self.per_image
    }

    /// Rows for a grid: for each original its image from each of `before` (each (batch, 3, h, w)), then its samples.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the shapes differ.
    pub fn rows(&self, before: &[Tensor]) -> Result<Tensor> {
        let (n, c, h, w) = self.images.dims4()?;
        let mut parts = Vec::new();
        for images in before {
            parts.push(images.unsqueeze(1)?);
        }
        parts.push(
            self.images
                .reshape((n / self.per_image, self.per_image, c, h, w))?,
        );
        Ok(Tensor::cat(&parts, 1)?.flatten(0, 1)?)
    }

    /// Where in [`Samples::rows`] with `before` images ahead of each row's samples `network` names another class than
    /// `labels` (u32, one per original).
    ///
    /// # Errors
    /// [`Error::Tensor`] where the labels are not as many as the originals.
    pub fn misread(
        &self,
        network: &dyn Network,
        labels: &Tensor,
        before: usize,
    ) -> Result<Vec<usize>> {
        let kept = self.kept(network, labels)?;
        let place = |n: usize| {
            (n / self.per_image) * (before + self.per_image) + before + n % self.per_image
        };
        let wrong = kept.iter().enumerate().filter(|(_, k)| **k == 0.0);
        Ok(wrong.map(|(n, _)| place(n)).collect())
    }

    /// For each original the share of its samples to which `network` gives the class `labels` (u32, one per original).
    pub fn keep_class(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<f64>> {
        let kept = self.kept(network, labels)?;
        Ok(kept
            .chunks(self.per_image)
            .map(|c| c.iter().sum::<f64>() / c.len() as f64)
            .collect())
    }

    /// For each sample 1 where `network` gives it the class of its original.
    fn kept(&self, network: &dyn Network, labels: &Tensor) -> Result<Vec<f64>> {
        let repeated = labels
            .unsqueeze(1)?
            .repeat((1, self.per_image))?
            .flatten_all()?;
        let mut kept = Vec::new();
        for start in (0..self.images.dims()[0]).step_by(256) {
            let count = 256.min(self.images.dims()[0] - start);
            let classes = network.classify(&self.images.narrow(0, start, count)?)?;
            kept.extend(agreement(&classes, &repeated.narrow(0, start, count)?)?);
        }
        Ok(kept)
    }
}

/// The share of a factor's variance that z leaves free, one value per original: the variance of the factor
/// over the samples of one z (unbiased), over its variance across originals; summed over the factor's
/// components (three for a colour). 1 is free, 0 is fixed by z.
///
/// `of_samples` is (batch · per_image, components), `of_originals` (batch, components).
///
/// # Errors
/// [`Error::Invalid`] where the shapes do not fit or there are fewer than two samples or originals.
pub fn free_share(
    of_samples: &Tensor,
    of_originals: &Tensor,
    per_image: usize,
) -> Result<Vec<f64>> {
    let (batch, parts) = match (of_samples.dims(), of_originals.dims()) {
        (&[n, c], &[b, d]) if c == d && b >= 2 && per_image >= 2 && n == b * per_image => (b, c),
        (s, o) => {
            return Err(Error::invalid(format!(
                "a free share needs a factor of samples (batch · {per_image}, parts) and of originals (batch, parts), at least two of each; found {s:?} and {o:?}"
            )));
        }
    };
    let within = of_samples
        .reshape((batch, per_image, parts))?
        .var(1)?
        .sum(1)?;
    let total = of_originals
        .var(0)?
        .sum_all()?
        .to_dtype(candle_core::DType::F64)?
        .to_scalar::<f64>()?;
    if total <= 0.0 || !total.is_finite() {
        return Err(Error::invalid(
            "the factor does not vary over the originals: no share of its variance can be stated",
        ));
    }
    let within = within.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>()?;
    Ok(within.into_iter().map(|w| w / total).collect())
}
