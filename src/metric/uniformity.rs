//! Tests of uniformity ([`uniform`], [`uniform_ranks`]), and the normal and Student's
//! distributions.

use crate::ops::Rng;
use crate::{Error, Result};
use rayon::prelude::*;
use statrs::function::{beta::checked_beta_reg, erf::erfc};

/// Number of simulated sets of ranks.
const SETS: usize = 999;

/// A test of uniformity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uniformity {
    /// The Kolmogorov–Smirnov distance: the largest difference between the empirical and the
    /// uniform distribution function, in [0, 1].
    pub statistic: f64,
    /// The p-value of the hypothesis that the values are uniform.
    pub p: f64,
}

/// Tests if values are a sample of the uniform distribution on [0, 1], with the one-sample
/// Kolmogorov–Smirnov test.
///
/// The p-value is that of Kolmogorov's limiting distribution at (√n + 0.12 + 0.11/√n) D, the
/// correction of Stephens (1970) for n values. Around p = 0.5 it differs from the exact one by up
/// to about 0.14/√n, at p ≤ 0.1 by up to about 0.01/√n. The values must be independent and
/// continuous; for ranks see [`uniform_ranks`].
///
/// ```
/// use invariances::metric::uniform;
/// let even: Vec<f64> = (0..50).map(|i| (f64::from(i) + 0.5) / 50.0).collect();
/// assert!(uniform(&even)?.p > 0.99);
/// let squares: Vec<f64> = even.iter().map(|v| v * v).collect();
/// assert!(uniform(&squares)?.p < 0.01);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] for no values, and for a value that is NaN or outside [0, 1].
pub fn uniform(values: &[f64]) -> Result<Uniformity> {
    if values.is_empty() {
        return Err(Error::invalid(
            "expected at least one value to test for uniformity, found 0",
        ));
    }
    if let Some(value) = values.iter().find(|v| !(0.0..=1.0).contains(*v)) {
        return Err(Error::invalid(format!(
            "expected values in [0, 1] to test for uniformity, found {value}: pass values of a \
             distribution function, for example of `normal_cdf`"
        )));
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let statistic = sorted
        .iter()
        .enumerate()
        .map(|(i, v)| (v - i as f64 / n).max((i + 1) as f64 / n - v))
        .fold(0.0, f64::max);
    let corrected = (n.sqrt() + 0.12 + 0.11 / n.sqrt()) * statistic;
    Ok(Uniformity {
        statistic,
        p: kolmogorov(corrected),
    })
}

/// The probability that a number with Kolmogorov's limiting distribution is larger than x.
fn kolmogorov(x: f64) -> f64 {
    // There the probability is 1 up to 1e-12, and the series converges slowly.
    if x < 0.2 {
        return 1.0;
    }
    let series: f64 = (1..=50)
        .map(|k| {
            let term = (-2.0 * (f64::from(k) * x).powi(2)).exp();
            if k % 2 == 0 { -term } else { term }
        })
        .sum();
    (2.0 * series).clamp(0.0, 1.0)
}

/// Tests if ranks are uniform on 0 … levels − 1, as in simulation-based calibration (arXiv
/// 1804.06788): the rank of a value among L samples has L + 1 levels.
///
/// The statistic is the largest difference between the empirical distribution function and that
/// of the discrete uniform distribution. The p-value is (1 + m)/(1 + 999), where m of 999
/// simulated sets of ranks have at least this statistic, so it is at least 0.001.
///
/// ```
/// use invariances::metric::uniform_ranks;
/// let even: Vec<usize> = (0..60).map(|i| i % 10).collect();
/// assert_eq!(uniform_ranks(&even, 10, 0)?.statistic, 0.0);
/// let low: Vec<usize> = (0..60).map(|i| i % 5).collect();
/// assert_eq!(uniform_ranks(&low, 10, 0)?.statistic, 0.5);
/// assert_eq!(uniform_ranks(&low, 10, 0)?.p, 0.001);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] for no ranks, and for a rank that is not below `levels`.
pub fn uniform_ranks(ranks: &[usize], levels: usize, seed: u64) -> Result<Uniformity> {
    if ranks.is_empty() {
        return Err(Error::invalid(
            "expected at least one rank to test for uniformity, found 0",
        ));
    }
    if let Some(rank) = ranks.iter().find(|&&r| r >= levels) {
        return Err(Error::invalid(format!(
            "expected ranks below the number of levels, {levels}, found {rank}: ranks among L \
             samples have L + 1 levels"
        )));
    }
    let n = ranks.len();
    let mut sorted = ranks.to_vec();
    sorted.sort_unstable();
    let found = largest_difference(&sorted, levels);
    let extreme = (0..SETS)
        .into_par_iter()
        .filter(|&set| {
            let mut rng = Rng::at(seed, "uniform ranks", set as u64);
            let mut ranks: Vec<usize> = (0..n).map(|_| rng.below(levels)).collect();
            ranks.sort_unstable();
            largest_difference(&ranks, levels) >= found
        })
        .count();
    Ok(Uniformity {
        statistic: found as f64 / (n as f64 * levels as f64),
        p: (1 + extreme) as f64 / (1 + SETS) as f64,
    })
}

/// The largest difference of the distribution functions, times the numbers of ranks and levels:
/// an integer, so that equal differences are equal.
fn largest_difference(sorted: &[usize], levels: usize) -> i128 {
    let (n, levels) = (sorted.len() as i128, levels as i128);
    let (mut below, mut largest) = (0i128, 0i128);
    // Between two ranks that occur the difference is monotonic: its extremes are at a rank that
    // occurs and at the level before it.
    for ties in sorted.chunk_by(|a, b| a == b) {
        let rank = ties[0] as i128;
        let before = below * levels - rank * n;
        below += ties.len() as i128;
        let at = below * levels - (rank + 1) * n;
        largest = largest.max(before.abs()).max(at.abs());
    }
    largest
}

/// Computes the distribution function of the standard normal distribution at x.
///
/// ```
/// use invariances::metric::normal_cdf;
/// assert_eq!(normal_cdf(0.0), 0.5);
/// assert!((normal_cdf(1.959964) - 0.975).abs() < 1e-7);
/// ```
pub fn normal_cdf(x: f64) -> f64 {
    0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Computes the two-sided p-value of Student's t with these degrees of freedom.
///
/// It is NaN if t is NaN or the degrees of freedom are not positive. For more than 10⁶ degrees of
/// freedom it is the normal approximation of Abramowitz and Stegun (1964), 26.7.8. For |t| up to 10
/// the relative error is below 10⁻⁷.
///
/// ```
/// use invariances::metric::student_p;
/// assert!((student_p(1.0, 1.0) - 0.5).abs() < 1e-12); // Cauchy distribution
/// assert!((student_p(-2.228139, 10.0) - 0.05).abs() < 1e-7);
/// ```
pub fn student_p(t: f64, degrees: f64) -> f64 {
    if t.is_nan() || degrees.is_nan() || degrees <= 0.0 {
        return f64::NAN;
    }
    if t.is_infinite() {
        return 0.0;
    }
    let squared = t * t;
    if degrees > 1e6 {
        let scale = (1.0 - 0.25 / degrees) / (1.0 + 0.5 * squared / degrees).sqrt();
        return 2.0 * normal_cdf(-t.abs() * scale);
    }
    // Two forms of the same incomplete beta function; each is precise on its side.
    let half = 0.5 * degrees;
    let p = if squared <= 3.0 {
        checked_beta_reg(0.5, half, squared / (degrees + squared)).map(|below| 1.0 - below)
    } else {
        checked_beta_reg(half, 0.5, degrees / (degrees + squared))
    };
    p.unwrap_or(f64::NAN)
}

/// The number that Student's t exceeds in absolute value with a probability of 5 %.
pub(super) fn student_quantile(degrees: f64) -> f64 {
    // The p-value falls with |t|, so bisection finds where it is 0.05; for one degree of freedom
    // that is at 12.7.
    let (mut low, mut high) = (0.0, 16.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        match student_p(middle, degrees) > 0.05 {
            true => low = middle,
            false => high = middle,
        }
    }
    0.5 * (low + high)
}
