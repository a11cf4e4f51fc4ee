//! Means with bootstrap confidence intervals.

use super::Resampled;
pub use invariances_figure::Estimate;

/// Computes the mean of values with a 95 % percentile interval from 2000 seeded bootstrap
/// resamples: [`Resampled::mean`] without its replicates.
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
    Resampled::mean(values, seed).estimate()
}
