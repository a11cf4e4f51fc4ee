//! [`Resampled`]: a statistic of images with its bootstrap replicates, from which follow its
//! confidence interval, its comparison with another statistic, and a p-value.
//!
//! Statistics with the same number of images and the same seed are paired: replicate r of both
//! uses the same images. The interval of their difference is then narrower than two separate
//! intervals suggest.

use super::{student_p, student_quantile};
use crate::ops::Rng;
use crate::{Error, Result};
use invariances_figure::Estimate;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;

/// The least number of equal values that decide a claim.
const CERTAIN: usize = 100;

/// Number of resamples of a mean.
const RESAMPLES: usize = 2000;

/// Number of resamples whose indices are in memory at the same time.
const BATCH: usize = 64;

/// A statistic of images with its bootstrap replicates: the same statistic of images drawn with
/// replacement (Efron 1979).
///
/// Two statistics with the same `n` and the same seed are paired: replicate r of both uses the
/// same images. Statistics of different `n` are independent. The indices of the images come from
/// the stream `Rng::named(seed, "bootstrap of {n}")`.
///
/// ```
/// use invariances::metric::Resampled;
/// let before: Vec<f64> = (0..100).map(|i| f64::from(i % 7)).collect();
/// let after: Vec<f64> = before.iter().map(|v| v + 0.5).collect();
/// let (before, after) = (Resampled::mean(&before, 0), Resampled::mean(&after, 0));
/// let gain = after.minus(&before).estimate();
/// assert!((gain.low - 0.5).abs() < 1e-9 && (gain.high - 0.5).abs() < 1e-9);
/// assert!(before.estimate().high > after.estimate().low); // separate intervals overlap
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Resampled {
    value: f64,
    replicates: Vec<f64>,
    n: usize,
    seed: u64,
}

impl Resampled {
    /// Computes the mean of values with 2000 replicates.
    ///
    /// Pass one value per image: samples of one image are not independent, see
    /// [`Resampled::mean_of_groups`]. If there are no values, or if one is NaN or infinite, the
    /// value and all replicates are NaN.
    pub fn mean(values: &[f64], seed: u64) -> Self {
        let n = values.len();
        let value = values.iter().sum::<f64>() / n as f64;
        if !value.is_finite() {
            return Self::unknown(n, seed);
        }
        let mut rng = stream(n, seed);
        let replicates = (0..RESAMPLES)
            .map(|_| (0..n).map(|_| values[rng.below(n)]).sum::<f64>() / n as f64)
            .collect();
        Self {
            value,
            replicates,
            n,
            seed,
        }
    }

    /// Computes the mean of values with 2000 replicates in which whole groups are resampled, for
    /// values that are independent between groups only. An example are several frames of each
    /// person.
    ///
    /// `groups` has the group of each value. `n` is the number of groups. A replicate is the mean
    /// of all values of the drawn groups, so a larger group has more weight, as in the value.
    /// Groups are ordered by their number. Values that are NaN or infinite have the same effect
    /// as in [`Resampled::mean`].
    ///
    /// ```
    /// use invariances::metric::Resampled;
    /// // Ten people, 30 equal frames of each: no more certain than one frame of each.
    /// let people: Vec<u32> = (0..300).map(|i| i / 30).collect();
    /// let values: Vec<f64> = people.iter().map(|&p| f64::from(p)).collect();
    /// let e = Resampled::mean_of_groups(&values, &people, 0)?.estimate();
    /// assert_eq!(e.n, 10);
    /// assert!(e.high - e.low > 2.0);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] unless there is one group per value.
    pub fn mean_of_groups(values: &[f64], groups: &[u32], seed: u64) -> Result<Self> {
        if values.len() != groups.len() {
            return Err(Error::invalid(format!(
                "expected one group per value, found {} values and {} groups",
                values.len(),
                groups.len()
            )));
        }
        // Sum and number of the values of each group.
        let mut totals: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (&value, &group) in values.iter().zip(groups) {
            let total = totals.entry(group).or_default();
            total.0 += value;
            total.1 += 1.0;
        }
        let totals: Vec<(f64, f64)> = totals.into_values().collect();
        let n = totals.len();
        let value = quotient(totals.iter().copied());
        if !value.is_finite() {
            return Ok(Self::unknown(n, seed));
        }
        let mut rng = stream(n, seed);
        let replicates = (0..RESAMPLES)
            .map(|_| quotient((0..n).map(|_| totals[rng.below(n)])))
            .collect();
        Ok(Self {
            value,
            replicates,
            n,
            seed,
        })
    }

    /// Computes any statistic of n images with its replicates.
    ///
    /// `of` computes the statistic of the images with these indices. The value is `of` all images
    /// (0 … n−1), each replicate is `of` n indices drawn with replacement.
    ///
    /// ```
    /// use invariances::metric::Resampled;
    /// let x = [1.0, 2.0, 4.0, 8.0, 16.0];
    /// let largest = Resampled::statistic(x.len(), 200, 0, |images| {
    ///     Ok(images.iter().map(|&i| x[i]).fold(0.0, f64::max))
    /// })?;
    /// assert_eq!(largest.value(), 16.0);
    /// assert_eq!(largest.replicates().len(), 200);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for no images or no resamples; an error of `of`.
    pub fn statistic(
        n: usize,
        resamples: usize,
        seed: u64,
        mut of: impl FnMut(&[usize]) -> Result<f64>,
    ) -> Result<Self> {
        check_counts(n, resamples)?;
        let mut rng = stream(n, seed);
        let mut indices: Vec<usize> = (0..n).collect();
        let value = of(&indices)?;
        let mut replicates = Vec::new();
        for _ in 0..resamples {
            indices.fill_with(|| rng.below(n));
            replicates.push(of(&indices)?);
        }
        Ok(Self {
            value,
            replicates,
            n,
            seed,
        })
    }

    /// [`Resampled::statistic`] with the replicates computed in parallel: the same result.
    pub(crate) fn parallel(
        n: usize,
        resamples: usize,
        seed: u64,
        of: impl Fn(&[usize]) -> Result<f64> + Sync,
    ) -> Result<Self> {
        check_counts(n, resamples)?;
        let mut rng = stream(n, seed);
        let all: Vec<usize> = (0..n).collect();
        let value = of(&all)?;
        let mut replicates: Vec<f64> = Vec::new();
        while replicates.len() < resamples {
            let count = BATCH.min(resamples - replicates.len());
            let indices: Vec<usize> = (0..count * n).map(|_| rng.below(n)).collect();
            let computed: Result<Vec<f64>> = indices.par_chunks(n).map(&of).collect();
            replicates.extend(computed?);
        }
        Ok(Self {
            value,
            replicates,
            n,
            seed,
        })
    }

    /// Creates a statistic without replicates: a value without an interval, such as a constant.
    pub fn exact(value: f64) -> Self {
        Self {
            value,
            replicates: Vec::new(),
            n: 1,
            seed: 0,
        }
    }

    /// Shifts the replicates so that their mean is the value.
    ///
    /// Use it for statistics that repeated images bias, such as the Fréchet distance: a resample
    /// contains about 63 % of the images, so its distance is larger than that of all images.
    pub fn centred(&self) -> Self {
        let Some((mean, _)) = self.moments() else {
            return self.clone();
        };
        let shift = self.value - mean;
        Self {
            replicates: self.replicates.iter().map(|r| r + shift).collect(),
            ..self.clone()
        }
    }

    /// The value of the statistic for all images.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The value of the statistic for each resample; empty for a value without an interval.
    pub fn replicates(&self) -> &[f64] {
        &self.replicates
    }

    /// Number of images, or of groups, that are resampled; 1 for a value without an interval.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Returns the value with the 2.5 and 97.5 percentiles of the replicates, a 95 % interval.
    ///
    /// Without replicates it is [`Estimate::exact`]. If the value or a replicate is NaN, both
    /// ends of the interval are NaN.
    pub fn estimate(&self) -> Estimate {
        if self.replicates.is_empty() {
            return Estimate::exact(self.value);
        }
        let (mut low, mut high) = (f64::NAN, f64::NAN);
        if !self.value.is_nan() && self.replicates.iter().all(|r| !r.is_nan()) {
            let mut sorted = self.replicates.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let outside = sorted.len() * 25 / 1000;
            low = sorted[outside];
            high = sorted[sorted.len() - 1 - outside];
        }
        Estimate {
            mean: self.value,
            low,
            high,
            n: self.n,
        }
    }

    /// Returns the standard deviation of the replicates, which estimates the standard error of
    /// the value; nothing for fewer than two replicates.
    pub fn deviation(&self) -> Option<f64> {
        self.moments()
            .map(|(_, deviation)| deviation)
            .filter(|_| self.replicates.len() > 1)
    }

    /// Computes a function of several statistics, replicate by replicate.
    ///
    /// `of` takes one number per part. The number of replicates is the smallest of the parts that
    /// have any, and so is `n`. A part without replicates is a constant.
    ///
    /// The interval is correct for parts that are paired (same `n`, same seed, same images in the
    /// same order) and for parts that are independent.
    ///
    /// ```
    /// use invariances::metric::Resampled;
    /// let kept = Resampled::mean(&[0.8, 0.9, 0.7, 0.8], 0);
    /// let chance = Resampled::exact(0.1);
    /// let corrected = Resampled::combine(&[&kept, &chance], |v| (v[0] - v[1]) / (1.0 - v[1]));
    /// assert!((corrected.value() - 0.7 / 0.9).abs() < 1e-9);
    /// assert_eq!(corrected.replicates().len(), 2000);
    /// ```
    pub fn combine(parts: &[&Self], of: impl Fn(&[f64]) -> f64) -> Self {
        let values: Vec<f64> = parts.iter().map(|p| p.value).collect();
        let value = of(&values);
        let random = || parts.iter().filter(|p| !p.replicates.is_empty());
        let counts = random().map(|p| p.replicates.len()).min();
        let (Some(first), Some(count)) = (random().next(), counts) else {
            return Self::exact(value);
        };
        let replicates = (0..count)
            .map(|r| {
                let values: Vec<f64> = parts
                    .iter()
                    .map(|p| p.replicates.get(r).copied().unwrap_or(p.value))
                    .collect();
                of(&values)
            })
            .collect();
        Self {
            value,
            replicates,
            n: random().map(|p| p.n).min().unwrap_or(first.n),
            seed: first.seed,
        }
    }

    /// Returns the difference to another statistic, see [`Resampled::combine`].
    pub fn minus(&self, other: &Self) -> Self {
        Self::combine(&[self, other], |v| v[0] - v[1])
    }

    /// Returns the ratio to another statistic, see [`Resampled::combine`].
    pub fn over(&self, other: &Self) -> Self {
        Self::combine(&[self, other], |v| v[0] / v[1])
    }

    /// Computes the two-sided p-value of the hypothesis that the statistic is `at`.
    ///
    /// It is that of Student's t with n − 1 degrees of freedom, for the standard deviation of the
    /// replicates times √(n / (n − 1)), since resampling n values gives a deviation that is too
    /// small by this factor. If the replicates are all equal (up to rounding), it is 1 if the value
    /// is `at`, and 0 for another value if there are at least 100 images: fewer equal values decide
    /// nothing. Returns nothing there, for one image, for fewer than two replicates, and if the
    /// value, a replicate or `at` is NaN.
    pub fn p_value(&self, at: f64) -> Option<f64> {
        let (deviation, degrees) = self.standard_error()?;
        let distance = (self.value - at).abs();
        if deviation.is_nan() || distance.is_nan() {
            return None;
        }
        let rounding = 1e-12 * self.value.abs().max(at.abs());
        if deviation > rounding {
            Some(student_p(distance / deviation, degrees))
        } else if distance <= rounding {
            Some(1.0)
        } else {
            (self.n >= CERTAIN).then_some(0.0)
        }
    }

    /// Computes the 95 % interval by which [`Resampled::p_value`] decides: it excludes a number just
    /// if that number's p-value is below 0.05. It is symmetric, and for few images it is wider than
    /// the percentiles of [`Resampled::estimate`]. Nothing if there is no p-value.
    ///
    /// ```
    /// use invariances::metric::Resampled;
    /// let statistic = Resampled::mean(&[0.1, 0.4, 0.3, 0.2, 0.5], 0);
    /// let (low, high) = statistic.interval().unwrap_or_default();
    /// assert!((statistic.p_value(high).unwrap_or(1.0) - 0.05).abs() < 1e-6);
    /// assert!(low < statistic.estimate().low);
    /// ```
    pub fn interval(&self) -> Option<(f64, f64)> {
        let (deviation, degrees) = self.standard_error()?;
        let width = deviation * student_quantile(degrees);
        (width.is_finite() && self.value.is_finite() && (deviation > 0.0 || self.n >= CERTAIN))
            .then_some((self.value - width, self.value + width))
    }

    /// The standard error, corrected for few images, and its degrees of freedom.
    fn standard_error(&self) -> Option<(f64, f64)> {
        let deviation = self.deviation()?;
        let n = self.n as f64;
        (self.n > 1).then(|| (deviation * (n / (n - 1.0)).sqrt(), n - 1.0))
    }

    fn unknown(n: usize, seed: u64) -> Self {
        Self {
            value: f64::NAN,
            replicates: vec![f64::NAN; RESAMPLES],
            n,
            seed,
        }
    }

    /// Mean and standard deviation of the replicates.
    fn moments(&self) -> Option<(f64, f64)> {
        // Differences to the first one: the deviation of equal replicates is exactly 0.
        let first = *self.replicates.first()?;
        let count = self.replicates.len() as f64;
        let shift = self.replicates.iter().map(|r| r - first).sum::<f64>() / count;
        let squares: f64 = self
            .replicates
            .iter()
            .map(|r| (r - first - shift).powi(2))
            .sum();
        Some((first + shift, (squares / (count - 1.0)).sqrt()))
    }
}

/// The indices of the images of all resamples, one resample after the other.
fn stream(n: usize, seed: u64) -> Rng {
    Rng::named(seed, &format!("bootstrap of {n}"))
}

/// The sum of the first numbers by the sum of the second ones.
fn quotient(totals: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (sum, count) = totals.fold((0.0, 0.0), |a, t| (a.0 + t.0, a.1 + t.1));
    sum / count
}

fn check_counts(n: usize, resamples: usize) -> Result<()> {
    if n == 0 || resamples == 0 {
        return Err(Error::invalid(format!(
            "expected at least one image and one resample for a bootstrap, found {n} images and \
             {resamples} resamples"
        )));
    }
    Ok(())
}

impl From<&Resampled> for Estimate {
    fn from(statistic: &Resampled) -> Self {
        statistic.estimate()
    }
}

impl From<Resampled> for Estimate {
    fn from(statistic: Resampled) -> Self {
        statistic.estimate()
    }
}

impl From<f64> for Resampled {
    fn from(value: f64) -> Self {
        Self::exact(value)
    }
}

impl From<&Resampled> for Resampled {
    fn from(statistic: &Resampled) -> Self {
        statistic.clone()
    }
}

impl fmt::Display for Resampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.estimate(), f)
    }
}
