//! Means with bootstrap confidence intervals.

use crate::ops::Rng;
pub use invariances_figure::Estimate;

/// Computes the mean of values with a 95 % percentile interval from 2000 seeded bootstrap
/// resamples.
///
/// Pass one value per image, not one per sample of an image: samples of one image are not
/// independent. If there are no values, or if one is NaN or infinite, all results are NaN.
///
/// ```
/// use invariances::metric::bootstrap_mean;
/// let kept: Vec<f64> = (0..100).map(|i| f64::from(i % 10 != 0)).collect();
/// let e = bootstrap_mean(&kept, 0);
/// assert!((e.mean - 0.9).abs() < 1e-12 && e.low > 0.8 && e.high < 0.97);
/// assert_eq!(e, bootstrap_mean(&kept, 0));
/// ```
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Estimate {
    const RESAMPLES: usize = 2000;
    let n = values.len();
    let mean = values.iter().sum::<f64>() / n as f64;
    if !mean.is_finite() {
        return Estimate {
            mean: f64::NAN,
            low: f64::NAN,
            high: f64::NAN,
            n,
        };
    }
    let mut rng = Rng::named(seed, "bootstrap");
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| (0..n).map(|_| values[rng.below(n)]).sum::<f64>() / n as f64)
        .collect();
    means.sort_by(f64::total_cmp);
    Estimate {
        mean,
        low: means[RESAMPLES * 25 / 1000],
        high: means[RESAMPLES * 975 / 1000 - 1],
        n,
    }
}
