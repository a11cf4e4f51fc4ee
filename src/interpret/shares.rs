//! [`FreeShares`], the shares of factors that a layer leaves free, each with its floor and its
//! ceiling.

use super::free::{share_of, spread_of};
use super::targets::unknown;
use super::{Targets, Unexplained};
use crate::figure::{Bars, Estimate, Table};
use crate::metric::Resampled;
use crate::ops::Rng;
use crate::{Error, Result};
use candle_core::{Device, Tensor};

/// The shares of factors that one layer leaves free, by the samples of t
/// ([`free_share`](super::free_share)), and what they are compared with:
///
/// - **Floor**: the share that cannot be read from z ([`Unexplained`]). A perfect t leaves exactly
///   this free; what its samples leave free beyond it, t has not used of z.
/// - **Ceiling**: the share of the same samples when they are regrouped at random over the
///   originals, as if each z were that of another image. It is about 1 if the samples together
///   vary as much as the originals.
///
/// All intervals are over the originals; that the variance of the factor is known from the same
/// originals only is taken into account. The interval of the ceiling is a little too small, since
/// regrouped samples of one original are in several groups.
///
/// A perfect t is one for codes that are sampled from E's posterior, while reconstructions are
/// those of its mean. What the posterior's noise changes in a factor is free for t and not for the
/// regression: the gap contains it.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::interpret::{FreeShares, Targets};
/// // Two originals with two samples each: the first factor is that of the original.
/// let column = |values: &[f32]| Tensor::new(values, &Device::Cpu);
/// let originals = Targets::default().with("fixed", &column(&[0.0, 1.0])?)?.with("free", &column(&[0.0, 1.0])?)?;
/// let samples = Targets::default()
///     .with("fixed", &column(&[0.0, 0.0, 1.0, 1.0])?)?
///     .with("free", &column(&[0.0, 1.0, 1.0, 0.0])?)?;
/// let shares = FreeShares::of(&samples, &originals, 2)?;
/// assert_eq!(shares.share("fixed", 0)?.value(), 0.0);
/// assert_eq!(shares.share("free", 0)?.value(), 1.0);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FreeShares {
    factors: Vec<Factor>,
}

#[derive(Clone, Debug)]
struct Factor {
    name: String,
    share: Vec<f64>,
    ceiling: Vec<f64>,
    /// What each original contributes to the variance, 1 on average.
    spread: Vec<f64>,
    floor: Option<Floor>,
}

impl Factor {
    fn of_samples(&self, seed: u64) -> Resampled {
        ratio(&self.share, &self.spread, seed)
    }

    fn of_regrouped(&self, seed: u64) -> Resampled {
        ratio(&self.ceiling, &self.spread, seed)
    }

    fn of_floor(&self, seed: u64) -> Option<Resampled> {
        self.floor
            .as_ref()
            .map(|f| ratio(&f.share, &f.spread, seed))
    }
}

/// The mean share, in each resample by the variance of the resampled images.
pub(super) fn ratio(share: &[f64], spread: &[f64], seed: u64) -> Resampled {
    Resampled::mean(share, seed).over(&Resampled::mean(spread, seed))
}

#[derive(Clone, Debug)]
struct Floor {
    share: Vec<f64>,
    spread: Vec<f64>,
    is_flat: bool,
}

impl FreeShares {
    /// Computes the free share of each factor of the samples, `per_image` of them for each
    /// original, the first original's first; and its ceiling. The regrouping for the ceiling is
    /// always the same for the same number of samples.
    ///
    /// # Errors
    /// As [`free_share`](super::free_share), with the name of the factor; [`Error::Unknown`] for a
    /// factor that was not measured on the originals; [`Error::Invalid`] for no factors.
    pub fn of(samples: &Targets, originals: &Targets, per_image: usize) -> Result<Self> {
        let names = samples.names();
        if names.is_empty() {
            return Err(Error::invalid(
                "expected at least one factor that was measured on the samples, found none",
            ));
        }
        let order = Rng::named(0, "regrouped samples").permutation(samples.count());
        let order = Tensor::new(order, &Device::Cpu)?;
        let each = names.into_iter().map(|name| {
            let (samples, originals) = (samples.get(&name)?, originals.get(&name)?);
            let regrouped = samples.index_select(&order, 0)?;
            Ok(Factor {
                share: share_of(&name, &samples, &originals, per_image)?,
                ceiling: share_of(&name, &regrouped, &originals, per_image)?,
                spread: spread_of(&originals)?.unwrap_or_default(),
                floor: None,
                name,
            })
        });
        let factors = each.collect::<Result<_>>()?;
        Ok(Self { factors })
    }

    /// Adds the floor of each factor that the regression predicts. If its held-out images are the
    /// originals, floor and share are paired, and [`FreeShares::gap`] has a smaller interval.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the regression predicts none of the factors.
    pub fn with_floor(mut self, floor: &Unexplained) -> Result<Self> {
        let known = floor.names();
        let mut is_any = false;
        for factor in &mut self.factors {
            if known.contains(&factor.name) {
                is_any = true;
                factor.floor = Some(Floor {
                    share: floor.share(&factor.name)?,
                    spread: floor.spread(&factor.name)?,
                    is_flat: floor.is_flat(&factor.name)?,
                });
            }
        }
        if !is_any {
            return Err(Error::unknown(format!(
                "expected a floor of at least one of {}, found floors of {}: rename the factors \
                 with `Targets::renamed`",
                self.names().join(", "),
                known.join(", ")
            )));
        }
        Ok(self)
    }

    /// The names of the factors.
    pub fn names(&self) -> Vec<String> {
        self.factors.iter().map(|f| f.name.clone()).collect()
    }

    /// The mean share of a factor's variance that the samples leave free.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn share(&self, name: &str, seed: u64) -> Result<Resampled> {
        Ok(self.factor(name)?.of_samples(seed))
    }

    /// The mean share of a factor's variance that cannot be read from z, over the held-out images
    /// of the regression; `None` if no floor was given for this factor.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn floor(&self, name: &str, seed: u64) -> Result<Option<Resampled>> {
        Ok(self.factor(name)?.of_floor(seed))
    }

    /// The mean share of the same samples, regrouped at random over the originals.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn ceiling(&self, name: &str, seed: u64) -> Result<Resampled> {
        Ok(self.factor(name)?.of_regrouped(seed))
    }

    /// The share minus the floor: 0 for a perfect t, larger if t does not use all of z. `None` if
    /// no floor was given for this factor.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a factor that does not exist.
    pub fn gap(&self, name: &str, seed: u64) -> Result<Option<Resampled>> {
        let (share, floor) = (self.share(name, seed)?, self.floor(name, seed)?);
        Ok(floor.map(|floor| share.minus(&floor)))
    }

    /// A table with a row per factor: floor, whether the learning curve of the floor is flat
    /// ([`Unexplained::is_flat`]), share and ceiling.
    pub fn table(&self, seed: u64) -> Table {
        let header = [
            "factor",
            "not readable from z",
            "flat curve",
            "samples",
            "samples, shuffled z",
        ];
        let mut table = Table::new(header);
        for factor in &self.factors {
            let floor = factor.of_floor(seed);
            let floor = floor.map_or("–".into(), |floor| floor.to_string());
            let is_flat = match &factor.floor {
                Some(floor) if floor.is_flat => "yes",
                Some(_) => "no",
                None => "–",
            };
            table = table.row([
                factor.name.clone(),
                floor,
                is_flat.into(),
                factor.of_samples(seed).to_string(),
                factor.of_regrouped(seed).to_string(),
            ]);
        }
        table.caption(
            "Shares of a factor's variance, with 95 % intervals over the images. Flat curve: \
             twice as many images changed what a regression cannot read from z by less than 0.02.",
        )
    }

    /// A chart with a group per factor and three series: what is not readable from z (left out if
    /// no floor was given), the samples, and the samples with shuffled z. 1 is all of the variance.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no factors; never for shares from [`FreeShares::of`].
    pub fn bars(&self, title: &str, seed: u64) -> Result<Bars> {
        if self.factors.is_empty() {
            return Err(Error::invalid(
                "expected at least one factor for a chart, found none",
            ));
        }
        let factors = || self.factors.iter();
        let mut bars = Bars::new(title, self.names());
        if factors().any(|f| f.floor.is_some()) {
            let floors = factors().map(|f| match f.of_floor(seed) {
                Some(floor) => floor.estimate(),
                None => Estimate::exact(f64::NAN),
            });
            bars = bars.series("not readable from z", &floors.collect::<Vec<Estimate>>());
        }
        let samples: Vec<Estimate> = factors().map(|f| f.of_samples(seed).estimate()).collect();
        let shuffled: Vec<Estimate> = factors().map(|f| f.of_regrouped(seed).estimate()).collect();
        Ok(bars
            .series("samples", &samples)
            .series("samples, shuffled z", &shuffled)
            .reference(1.0, "all of it")
            .y_label("share of variance"))
    }

    fn factor(&self, name: &str) -> Result<&Factor> {
        let known = self.factors.iter().map(|f| f.name.as_str());
        let found = self.factors.iter().find(|f| f.name == name);
        found.ok_or_else(|| unknown(name, "factor", known))
    }
}
