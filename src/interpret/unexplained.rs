//! [`Unexplained`], what a regression from z leaves unexplained of a factor: the floor of a free
//! share.

use super::free::{spread_of, variance_of};
use super::shares::ratio;
use super::targets::unknown;
use super::{ProbeConfig, Readout, Targets};
use crate::metric::Estimate;
use crate::ops::{host, values};
use crate::{Error, Result};
use candle_core::Tensor;

/// The share of the rows with which the regression is stopped early.
const VALIDATION: f64 = 0.1;

/// A learning curve is flat if doubling the number of images changes the mean share by less.
const FLAT: f64 = 0.02;

/// The share of each factor's variance that a regression from z leaves unexplained on held-out
/// images. It needs neither t nor a sample, and is the floor of a free share: samples of a perfect
/// t leave as much free as cannot be read from z.
///
/// A network with one hidden layer and finitely many images finds a part of what is in z, so the
/// true floor can be lower. The learning curve ([`Unexplained::curve`]) shows by how much more
/// images lower it.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::interpret::{Targets, Unexplained};
/// let data = |seed: u64, n: usize| -> Result<(Tensor, Targets), invariances::Error> {
///     let z = Rng::new(seed).normal((n, 2), &Device::Cpu)?;
///     let other = Rng::new(seed + 1).normal((n, 1), &Device::Cpu)?; // is not in z
///     let targets = Targets::default().with("sum", &z.sum(1)?)?.with("other", &other)?;
///     Ok((z, targets))
/// };
/// let ((z, targets), (new_z, new)) = (data(0, 200)?, data(2, 100)?);
/// let config = ProbeConfig { steps: 200, ..Default::default() };
/// let floor = Unexplained::fit(&z, &targets, &new_z, &new, &config)?;
/// let mean = |share: Vec<f64>| share.iter().sum::<f64>() / share.len() as f64;
/// assert!(mean(floor.share("sum")?) < 0.5 && mean(floor.share("other")?) > 0.8);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Unexplained {
    factors: Vec<Factor>,
}

#[derive(Clone, Debug)]
struct Factor {
    name: String,
    /// The number of images and the share of each held-out image, for a quarter, a half and all
    /// of the images.
    runs: Vec<(usize, Vec<f64>)>,
    /// What each held-out image contributes to the variance, 1 on average.
    spread: Vec<f64>,
}

/// The held-out values of a factor, scaled as in training.
struct HeldOut {
    values: Tensor,
    variance: f64,
}

impl Unexplained {
    /// Trains one [`Readout`] from z (n, …) to all factors, each scaled to a variance of 1 summed
    /// over its components, with the first quarter, the first half and all of the images. Of each
    /// a random tenth is not trained on but used for early stopping
    /// ([`ProbeConfig::validation`]); the other settings are those of `config`, with as many steps
    /// for each. Images must be in random order, as the datasets of this crate have them.
    ///
    /// The share of a held-out image is its squared error, divided by the factor's variance over
    /// the held-out images. The regression runs on the device of z.
    ///
    /// # Errors
    /// [`Error::Shape`] for fewer than 8 images or 2 held-out images, or if the shapes do not fit;
    /// [`Error::Unknown`] for a factor that was not measured on the held-out images;
    /// [`Error::Invalid`] for no factors, or for a factor that does not vary.
    pub fn fit(
        z: &Tensor,
        targets: &Targets,
        held_out_z: &Tensor,
        held_out: &Targets,
        config: &ProbeConfig,
    ) -> Result<Self> {
        let names = targets.names();
        if names.is_empty() {
            return Err(Error::invalid(
                "expected at least one factor to predict from z, found none",
            ));
        }
        let (n, new) = (targets.count(), held_out.count());
        let rows = |z: &Tensor| z.dims().first().copied().unwrap_or(0);
        if n < 8 || new < 2 || rows(z) != n || rows(held_out_z) != new {
            return Err(Error::shape(format!(
                "expected one z for each of at least 8 images and of at least 2 held-out images, \
                 found z of shapes {:?} and {:?} for {n} and {new} images",
                z.dims(),
                held_out_z.dims()
            )));
        }
        let (z, held_out_z) = (z.flatten_from(1)?, held_out_z.flatten_from(1)?);
        let (mut scaled, mut truth) = (Vec::new(), Vec::new());
        for name in &names {
            let (values, held_out) = scaled_pair(name, &targets.get(name)?, &held_out.get(name)?)?;
            scaled.push(values);
            truth.push(held_out);
        }
        let scaled = Tensor::cat(&scaled, 1)?;
        let factor = |(name, truth): (String, &HeldOut)| -> Result<Factor> {
            Ok(Factor {
                name,
                runs: Vec::new(),
                spread: spread_of(&truth.values)?.unwrap_or_default(),
            })
        };
        let each = names.into_iter().zip(&truth);
        let mut factors: Vec<Factor> = each.map(factor).collect::<Result<_>>()?;
        let config = ProbeConfig {
            validation: VALIDATION,
            ..config.clone()
        };
        for images in [n / 4, n / 2, n] {
            let (z, scaled) = (z.narrow(0, 0, images)?, scaled.narrow(0, 0, images)?);
            let readout = Readout::train(&z, &scaled, &config)?;
            let predicted = host(&readout.predict(&held_out_z)?)?;
            let mut from = 0;
            for (factor, truth) in factors.iter_mut().zip(&truth) {
                let width = truth.values.dim(1)?;
                let error = (predicted.narrow(1, from, width)? - &truth.values)?;
                let error = values(&error.sqr()?.sum(1)?)?;
                let share = error.into_iter().map(|e| e / truth.variance).collect();
                factor.runs.push((images, share));
                from += width;
            }
        }
        Ok(Self { factors })
    }

    /// The names of the factors.
    pub fn names(&self) -> Vec<String> {
        self.factors.iter().map(|f| f.name.clone()).collect()
    }

    /// The unexplained share of a factor's variance, one value per held-out image, after training
    /// on all images. Its mean is 1 for a factor that cannot be read from z at all.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn share(&self, name: &str) -> Result<Vec<f64>> {
        let runs = &self.factor(name)?.runs;
        let last = runs.last().map(|(_, share)| share.clone());
        Ok(last.unwrap_or_default())
    }

    /// What each held-out image contributes to a factor's variance, 1 on average.
    pub(super) fn spread(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.factor(name)?.spread.clone())
    }

    /// The learning curve of a factor: the number of images that the regression had (with those
    /// for early stopping), and the mean unexplained share of the held-out images.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn curve(&self, name: &str, seed: u64) -> Result<Vec<(usize, Estimate)>> {
        let factor = self.factor(name)?;
        let runs = factor.runs.iter();
        Ok(runs
            .map(|(images, share)| (*images, ratio(share, &factor.spread, seed).estimate()))
            .collect())
    }

    /// Whether the learning curve of a factor is flat: doubling the number of images, from a half
    /// to all, changed the mean share by less than 0.02.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn is_flat(&self, name: &str) -> Result<bool> {
        let runs = self.factor(name)?.runs.iter();
        let means: Vec<f64> = runs
            .map(|(_, share)| share.iter().sum::<f64>() / share.len() as f64)
            .collect();
        Ok(matches!(means[..], [.., half, all] if (all - half).abs() < FLAT))
    }

    fn factor(&self, name: &str) -> Result<&Factor> {
        let known = self.factors.iter().map(|f| f.name.as_str());
        let found = self.factors.iter().find(|f| f.name == name);
        found.ok_or_else(|| unknown(name, "factor", known))
    }
}

/// Scales a factor to a mean of 0 and a variance of 1, summed over its components, over the
/// training images; the held-out values are scaled by the same numbers.
fn scaled_pair(name: &str, values: &Tensor, held_out: &Tensor) -> Result<(Tensor, HeldOut)> {
    if values.dim(1)? != held_out.dim(1)? {
        return Err(Error::shape(format!(
            "expected the factor {name:?} to have as many components for the held-out images as \
             for the others, found shapes {:?} and {:?}",
            held_out.dims(),
            values.dims()
        )));
    }
    let varying = |values: &Tensor, images: &str| -> Result<f64> {
        variance_of(values)?.ok_or_else(|| {
            Error::invalid(format!(
                "the factor {name:?} does not vary over the {images}: a share of its variance is \
                 not defined; measure more images, or leave the factor out with `select`"
            ))
        })
    };
    let deviation = varying(values, "training images")?.sqrt();
    let mean = values.mean_keepdim(0)?;
    let scaled = |x: &Tensor| -> Result<Tensor> { Ok((x.broadcast_sub(&mean)? / deviation)?) };
    varying(held_out, "held-out images")?;
    let truth = scaled(held_out)?;
    let held_out = HeldOut {
        variance: varying(&truth, "held-out images")?,
        values: truth,
    };
    Ok((scaled(values)?, held_out))
}
