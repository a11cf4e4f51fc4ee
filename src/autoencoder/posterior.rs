//! The distribution of codes that an encoder returns, and sampling of codes from a fitted normal
//! distribution.

use crate::ops::widened as wide;
use crate::ops::{Rng, host, values};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use nalgebra::DMatrix;

/// A diagonal Gaussian distribution of codes: mean and log-variance, each (batch, code).
///
/// The log-variance is clamped to [−30, 10], as in the authors' network. Both are on the same
/// device, that of the encoder; samples are there too.
#[derive(Clone, Debug)]
pub struct Posterior {
    mean: Tensor,
    logvar: Tensor,
}

impl Posterior {
    /// Creates the distribution from the mean and log-variance, both (batch, code).
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ or are not two-dimensional.
    pub fn new(mean: &Tensor, logvar: &Tensor) -> Result<Self> {
        if mean.dims() != logvar.dims() || mean.rank() != 2 {
            return Err(Error::shape(format!(
                "expected a mean and a log-variance of the same shape (batch, code), found {:?} \
                 and {:?}",
                mean.dims(),
                logvar.dims()
            )));
        }
        Ok(Self {
            // Both are usually halves of one tensor; `select` needs contiguous ones.
            mean: mean.contiguous()?,
            logvar: logvar.clamp(-30f32, 10f32)?.contiguous()?,
        })
    }

    /// Returns the most probable code of each image, (batch, code).
    pub fn mode(&self) -> Tensor {
        self.mean.clone()
    }

    /// Returns the log-variance, (batch, code).
    pub fn logvar(&self) -> Tensor {
        self.logvar.clone()
    }

    /// Samples one code per image, differentiable in the mean and the log-variance.
    pub fn sample(&self, rng: &mut Rng) -> Result<Tensor> {
        let noise = rng
            .normal(self.mean.shape(), self.mean.device())?
            .to_dtype(self.mean.dtype())?;
        Ok((&self.mean + (self.logvar.affine(0.5, 0.)?.exp()? * noise)?)?)
    }

    /// Returns the KL divergence to the standard normal distribution in nats, (batch,). In half
    /// precision it is computed in f32.
    pub fn kl(&self) -> Result<Tensor> {
        let (mean, logvar) = (wide(&self.mean)?, wide(&self.logvar)?);
        let terms = ((mean.sqr()? + logvar.exp()?)? - &logvar)?;
        Ok(terms.affine(0.5, -0.5)?.sum(1)?)
    }

    /// Returns the codes of the images at `indices`, for example those of a training batch.
    pub fn select(&self, indices: &Tensor) -> Result<Self> {
        let indices = &indices.to_device(self.mean.device())?;
        Ok(Self {
            mean: self.mean.index_select(indices, 0)?,
            logvar: self.logvar.index_select(indices, 0)?,
        })
    }
}

/// Samples `count` codes from the normal distribution with the mean and covariance of `codes`;
/// the result is (count, code), f32 on the device of `codes`. Decoded, these codes show what D
/// makes of random codes before t has learned their true distribution.
///
/// ```
/// use invariances::{autoencoder::normal_like, candle_core::Device, ops::Rng};
/// let mut rng = Rng::new(0);
/// let codes = rng.normal((200, 3), &Device::Cpu)?.affine(0.5, 4.0)?;
/// let samples = normal_like(&codes, 500, &mut rng)?;
/// assert_eq!(samples.dims(), [500, 3]);
/// assert!((samples.mean_all()?.to_scalar::<f32>()? - 4.0).abs() < 0.2);
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for fewer than two codes; [`Error::Invalid`] for codes with NaN or infinity.
pub fn normal_like(codes: &Tensor, count: usize, rng: &mut Rng) -> Result<Tensor> {
    let (n, d) = match codes.dims() {
        &[n, d] if n > 1 && d > 0 => (n, d),
        other => {
            return Err(Error::shape(format!(
                "expected at least two codes of shape (count, code) to fit a normal distribution, \
                 found {other:?}"
            )));
        }
    };
    let device = codes.device();
    let codes = host(codes)?;
    let mean = codes.mean_keepdim(0)?;
    let centred = codes.broadcast_sub(&mean)?;
    let covariance = (centred.t()?.matmul(&centred)? / (n - 1) as f64)?;
    let covariance = DMatrix::from_row_slice(d, d, &values(&covariance)?);
    // With fewer codes than dimensions, some directions have no variance.
    let ridge = 1e-9 * (1.0 + covariance.trace() / d as f64);
    let root = (covariance + DMatrix::identity(d, d) * ridge)
        .cholesky()
        .ok_or_else(|| {
            Error::invalid(
                "the covariance of the codes has no Cholesky factor: check that the codes are finite",
            )
        })?;
    let root: Vec<f64> = root.l().transpose().as_slice().to_vec();
    // nalgebra stores matrices by column; the slice of the transpose is therefore the root by
    // rows.
    let root = Tensor::from_vec(root, (d, d), codes.device())?;
    let noise = host(&rng.normal((count, d), codes.device())?)?;
    let samples = noise.matmul(&root.t()?)?.broadcast_add(&mean)?;
    Ok(samples.to_dtype(DType::F32)?.to_device(device)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn codes_at_random_have_the_moments_of_the_real_ones() -> Result<()> {
        let mut rng = Rng::new(1);
        let mix = Tensor::new(
            &[[1f32, 2.0, 0.0], [0.0, 1.0, -3.0], [0.5, 0.0, 1.0]],
            &Device::Cpu,
        )?;
        let codes = rng.normal((4000, 3), &Device::Cpu)?.matmul(&mix)?;
        let moments = |x: &Tensor| -> Result<Vec<f32>> {
            let centred = x.broadcast_sub(&x.mean_keepdim(0)?)?;
            let covariance = (centred.t()?.matmul(&centred)? / x.dim(0)? as f64)?;
            Ok(covariance.flatten_all()?.to_vec1()?)
        };
        let (a, b) = (
            moments(&codes)?,
            moments(&normal_like(&codes, 20_000, &mut rng)?)?,
        );
        for (a, b) in a.iter().zip(&b) {
            // The largest variance is 10. Its estimate from 20,000 samples has a standard
            // deviation of 0.1.
            assert!((a - b).abs() < 0.5, "{a} {b}");
        }
        // Two codes span only a line, so their covariance has rank 1.
        let two = codes.narrow(0, 0, 2)?;
        assert_eq!(normal_like(&two, 5, &mut rng)?.dims(), [5, 3]);
        assert!(normal_like(&codes.narrow(0, 0, 1)?, 5, &mut rng).is_err());
        let nan = Tensor::new(&[[f32::NAN], [0.0]], &Device::Cpu)?;
        assert!(normal_like(&nan, 1, &mut rng).is_err());
        Ok(())
    }
}
