//! [`holm`]: p-values of several tests, adjusted for their number.

/// Adjusts the p-values of several tests with Holm's method (Holm 1979, "A Simple Sequentially
/// Rejective Multiple Test Procedure").
///
/// If all hypotheses with an adjusted p-value of at most α are rejected, the probability of at
/// least one false rejection is at most α. The tests need not be independent. The result has the
/// order of `p`. A p-value that is NaN stays NaN and does not count as a test.
///
/// ```
/// use invariances::metric::holm;
/// assert_eq!(holm(&[0.25, 0.125, 0.5]), [0.5, 0.375, 0.5]);
/// ```
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).filter(|&i| !p[i].is_nan()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![f64::NAN; p.len()];
    let mut largest = 0f64;
    for (rank, &i) in order.iter().enumerate() {
        let remaining = (order.len() - rank) as f64;
        largest = largest.max(p[i] * remaining).min(1.0);
        adjusted[i] = largest;
    }
    adjusted
}
