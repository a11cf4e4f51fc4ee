//! The Fréchet distance between two samples of features (FID for Inception features).

use crate::ops::{host, values};
use crate::{Error, Result};
use candle_core::Tensor;
use nalgebra::DMatrix;

/// The largest number of features; a covariance of this size takes 2 GiB.
const MAX_FEATURES: usize = 1 << 14;

/// Computes the Fréchet distance between two samples of features, each modelled as a Gaussian
/// (arXiv 1706.08500, equation 6).
///
/// The distance is |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), in f64, with unbiased covariances. a is
/// (n, f) and b is (m, f), with n and m at least 2.
///
/// The distance is called FID if the features are those of [`crate::backbone::fid_inception`]'s
/// `pool`. For features of another network, state the network. Small samples increase the
/// distance, so compare only values of equal sample sizes. The trace of the root is computed as
/// that of (Σ₁^½ Σ₂ Σ₁^½)^½, whose eigenvalues are real and non-negative even if a covariance
/// lacks full rank.
///
/// ```
/// use invariances::{candle_core::Device, metric::frechet_distance, ops::Rng};
/// let a = Rng::new(0).normal((500, 4), &Device::Cpu)?;
/// assert!(frechet_distance(&a, &a)? < 1e-6);
/// let shifted = (&a + 1.0)?; // shifted by 1 in each of four features
/// assert!((frechet_distance(&a, &shifted)? - 4.0).abs() < 1e-4);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the numbers of features differ or exceed 16384, or a sample has fewer than
/// two rows; [`Error::Invalid`] if a value is NaN or infinite.
pub fn frechet_distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    FrechetReference::new(a, b)?.distance(b)
}

/// The first sample of [`frechet_distance`], for the distances of several samples to it.
pub(crate) struct FrechetReference {
    mean: Vec<f64>,
    trace: f64,
    /// The root of the covariance.
    root: DMatrix<f64>,
}

impl FrechetReference {
    /// Checks that both samples fit each other, and computes the moments of a.
    pub(crate) fn new(a: &Tensor, b: &Tensor) -> Result<Self> {
        let fits = match (a.dims(), b.dims()) {
            ([n, f], [m, g]) => f == g && *f > 0 && *n >= 2 && *m >= 2,
            _ => false,
        };
        if !fits {
            return Err(Error::shape(format!(
                "expected features of shapes (n, f) and (m, f) with at least two rows each, found \
                 {:?} and {:?}",
                a.dims(),
                b.dims()
            )));
        }
        let features = a.dims()[1];
        if features > MAX_FEATURES {
            return Err(Error::shape(format!(
                "expected at most {MAX_FEATURES} features (their covariance matrix must fit into \
                 memory), found {features}: pool the layer's output or use a later layer"
            )));
        }
        let (mean, covariance) = moments(a)?;
        let trace = covariance.trace();
        let eigen = covariance.symmetric_eigen();
        let roots = eigen.eigenvalues.map(|v| v.max(0.0).sqrt());
        let root =
            &eigen.eigenvectors * DMatrix::from_diagonal(&roots) * eigen.eigenvectors.transpose();
        Ok(Self { mean, trace, root })
    }

    /// Computes the distance to a sample whose shape [`FrechetReference::new`] has checked.
    pub(crate) fn distance(&self, b: &Tensor) -> Result<f64> {
        let (mean, covariance) = moments(b)?;
        let means: f64 = self
            .mean
            .iter()
            .zip(&mean)
            .map(|(a, b)| (a - b).powi(2))
            .sum();
        let both = &self.root * &covariance * &self.root;
        // Symmetric up to rounding.
        let both = (&both + both.transpose()) * 0.5;
        let root_trace: f64 = both
            .symmetric_eigenvalues()
            .iter()
            .map(|v| v.max(0.0).sqrt())
            .sum();
        let distance = means + self.trace + covariance.trace() - 2.0 * root_trace;
        // Rounding can make the distance of equal samples negative.
        Ok(distance.max(0.0))
    }
}

/// Computes the mean and the unbiased covariance.
fn moments(x: &Tensor) -> Result<(Vec<f64>, DMatrix<f64>)> {
    let (n, f) = x.dims2()?;
    let x = host(x)?;
    let mean = x.mean_keepdim(0)?;
    let centred = x.broadcast_sub(&mean)?;
    let covariance = (centred.t()?.matmul(&centred)? / (n - 1) as f64)?;
    let elements = values(&covariance)?;
    if elements.iter().any(|v| !v.is_finite()) {
        return Err(Error::invalid(
            "expected finite features for the Fréchet distance, found NaN or infinity",
        ));
    }
    Ok((values(&mean)?, DMatrix::from_row_slice(f, f, &elements)))
}
