//! [`Fid`], a measure of how natural images are.

use crate::backbone::Greybox;
use crate::metric::{FrechetReference, Resampled, frechet_distance};
use crate::ops::widened as wide;
use crate::ops::{host, scalar};
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

    /// Returns [`Fid::of`] with bootstrap replicates over these images, for its interval. The real
    /// images stay fixed, so the interval does not include the choice of the real images.
    ///
    /// The images go through the network once. The replicates are shifted so that their mean is
    /// the distance ([`Resampled::centred`]): repeated images increase the distance. Two calls
    /// with the same number of images and the same seed are paired: their difference
    /// ([`Resampled::minus`]) has the interval of paired images.
    ///
    /// 200 resamples take seconds for 128 features. The time grows with the cube of the number of
    /// features.
    ///
    /// ```
    /// use invariances::prelude::*;
    /// use invariances::backbone::plain_small;
    /// use invariances::interpret::Fid;
    /// let network = plain_small(10, &Params::new(0).root())?.frozen()?;
    /// let digits = Digits::strokes(32, 0)?;
    /// let real = digits.batch(Split::Validation, 0, 100)?.images;
    /// let fid = Fid::new(&network.at("pool")?, &real)?;
    /// let test = digits.batch(Split::Test, 0, 100)?.images;
    /// let distance = fid.resampled(&test, 20, 0)?.estimate();
    /// assert!(distance.low < distance.mean && distance.mean < distance.high);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Fid::of`]; [`Error::Invalid`] for no resamples.
    pub fn resampled(&self, images: &Tensor, resamples: usize, seed: u64) -> Result<Resampled> {
        let features = host(&self.greybox.features(images)?)?;
        let n = features.dims()[0];
        let (real, unit) = (FrechetReference::new(&self.real, &features)?, self.unit);
        let distance = |images: &[usize]| -> Result<f64> {
            let indices: Vec<u32> = images.iter().map(|&i| i as u32).collect();
            let indices = Tensor::from_vec(indices, n, features.device())?;
            Ok(real.distance(&features.index_select(&indices, 0)?)? / unit)
        };
        Ok(Resampled::parallel(n, resamples, seed, distance)?.centred())
    }
}
