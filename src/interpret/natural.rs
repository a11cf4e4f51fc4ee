//! [`Fid`], a measure of how natural images are.

use crate::backbone::Greybox;
use crate::metric::frechet_distance;
use crate::ops::scalar;
use crate::ops::widened as wide;
use crate::{Error, Result};
use candle_core::Tensor;

/// Measures how natural images are: the Fréchet distance between them and real images, in the
/// features of a network's layer.
///
/// With [`fid_inception`](crate::backbone::fid_inception) and its layer `pool`, this is the FID
/// of the literature (arXiv 1706.08500). With another network it is a different measure and
/// should be called so. [`Fid::in_units`] then makes its values comparable.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::backbone::plain_small;
/// use invariances::interpret::Fid;
/// let network = plain_small(10, &Params::new(0).root())?.frozen()?;
/// let digits = Digits::strokes(32, 0)?;
/// let real = digits.batch(Split::Validation, 0, 300)?.images;
/// let fid = Fid::new(&network.at("pool")?, &real)?.in_units()?;
/// let test = digits.batch(Split::Test, 0, 300)?.images;
/// let noise = Rng::new(0).normal((300, 3, 32, 32), &Device::Cpu)?;
/// assert!(fid.of(&test)? < fid.of(&noise)?);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Fid {
    greybox: Greybox,
    real: Tensor,
    unit: f64,
}

impl Fid {
    /// Measures the distance to these real images, (n, 3, h, w) in [−1, 1], in the features of
    /// the greybox.
    ///
    /// # Errors
    /// [`Error::Shape`] for no images, or if they do not fit the network; [`Error::Invalid`] for
    /// a single image.
    pub fn new(greybox: &Greybox, real: &Tensor) -> Result<Self> {
        let real = wide(&greybox.features(real)?)?;
        if real.dims()[0] < 2 {
            return Err(Error::invalid(
                "expected at least two real images for a Fréchet distance, found 1",
            ));
        }
        Ok(Self {
            greybox: greybox.clone(),
            real,
            unit: 1.0,
        })
    }

    /// Returns the same measure in units of the variance of the real images' features, summed
    /// over the features. For example, a set that repeats one image whose features are the mean
    /// has distance 1.
    ///
    /// # Errors
    /// [`Error::Invalid`] if all real images have the same features.
    pub fn in_units(&self) -> Result<Self> {
        let variance = scalar(&self.real.var(0)?.sum_all()?)?;
        let size = scalar(&self.real.sqr()?.mean(0)?.sum_all()?)?;
        // A variance at the level of rounding errors counts as zero.
        if variance.is_nan() || variance <= 1e-9 * size {
            return Err(Error::invalid(
                "all real images have the same features: there is no variance to use as the unit",
            ));
        }
        Ok(Self {
            unit: variance,
            ..self.clone()
        })
    }

    /// The name of the measure, in words.
    pub fn name(&self) -> String {
        let (network, layer) = (self.greybox.network().name(), self.greybox.layer());
        match self.unit == 1.0 {
            true if network == "fid_inception" => "FID".into(),
            true => format!("Fréchet distance on {layer} of {network}"),
            false => {
                format!("Fréchet distance on {layer} of {network}, in units of its variance")
            }
        }
    }

    /// The distance of these images to the real images. Compare only values for equal numbers of
    /// images: with fewer images the distance is larger.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than two images; [`Error::Shape`] if the images do not fit the
    /// network.
    pub fn of(&self, images: &Tensor) -> Result<f64> {
        let features = self.greybox.features(images)?;
        Ok(frechet_distance(&self.real, &features)? / self.unit)
    }
}
