//! The loss of a VAE with a calibrated normal likelihood.

use crate::autoencoder::Posterior;
use crate::ops::Placement;
use crate::ops::widened as wide;
use crate::{Error, Result};
use candle_core::Tensor;

/// The terms of a VAE's loss, each averaged over the batch.
#[derive(Clone, Debug)]
pub struct VaeLoss {
    /// The loss to minimise, a scalar in nats per image.
    pub loss: Tensor,
    /// Mean squared error per pixel and channel, a scalar, for images in [−1, 1].
    pub mse: Tensor,
    /// KL divergence in nats per image, a scalar.
    pub kl: Tensor,
}

/// Computes −log N(x; x̂, exp(γ)), summed over pixels and channels, plus the KL divergence.
///
/// The learned scalar γ balances the two terms (the calibrated likelihood of arXiv 2006.13202;
/// the paper's VAE loss has the same scalar). Constants are omitted. The terms are on the device
/// of `decoded`, and in f32 if it has half precision.
///
/// # Errors
/// [`Error::Shape`] if the shapes of the images differ.
pub fn vae_loss(
    x: &Tensor,
    decoded: &Tensor,
    posterior: &Posterior,
    gamma: &Tensor,
) -> Result<VaeLoss> {
    if x.dims() != decoded.dims() || x.rank() != 4 {
        return Err(Error::shape(format!(
            "expected images and reconstructions of the same shape (batch, channels, h, w), found \
             {:?} and {:?}",
            x.dims(),
            decoded.dims()
        )));
    }
    let elements = (x.elem_count() / x.dims()[0].max(1)) as f64;
    let decoded = wide(decoded)?;
    let at = Placement::of(&decoded);
    let mse = (at.take(x)? - &decoded)?.sqr()?.mean_all()?;
    let kl = at.take(&posterior.kl()?.mean_all()?)?;
    Ok(VaeLoss {
        loss: (normal_nll(&mse, gamma, elements)? + &kl)?,
        mse,
        kl,
    })
}

/// Computes the negative log of a normal likelihood of `elements` values with mean squared error
/// `error` and variance exp(γ), without constants.
pub(crate) fn normal_nll(error: &Tensor, gamma: &Tensor, elements: f64) -> Result<Tensor> {
    let error = wide(error)?;
    let gamma = Placement::of(&error).take(&gamma.reshape(())?)?;
    Ok(((error / gamma.exp()?)? + &gamma)?.affine(0.5 * elements, 0.)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Rng, scalar};
    use candle_core::{DType, Device};

    #[test]
    fn losses_of_half_precision_are_summed_in_f32() -> Result<()> {
        let mut rng = Rng::new(0);
        let mut normal = |shape: &[usize]| rng.normal(shape, &Device::Cpu);
        let (x, decoded) = (normal(&[2, 3, 64, 64])?, normal(&[2, 3, 64, 64])?);
        let (mean, logvar) = (normal(&[2, 400])?, normal(&[2, 400])?);
        let gamma = Tensor::new(&[-2f32], &Device::Cpu)?;
        let loss = vae_loss(&x, &decoded, &Posterior::new(&mean, &logvar)?, &gamma)?;
        for dtype in [DType::BF16, DType::F16] {
            let half = |t: &Tensor| t.to_dtype(dtype);
            let posterior = Posterior::new(&half(&mean)?, &half(&logvar)?)?;
            let other = vae_loss(&x, &half(&decoded)?, &posterior, &half(&gamma)?)?;
            assert_eq!(other.loss.dtype(), DType::F32);
            let (a, b) = (scalar(&loss.loss)?, scalar(&other.loss)?);
            assert!((a - b).abs() < 0.01 * a.abs(), "{dtype:?}: {a} {b}");
        }
        Ok(())
    }
}
