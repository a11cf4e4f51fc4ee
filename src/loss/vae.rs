use crate::autoencoder::Posterior;
use crate::{Error, Result};
use candle_core::Tensor;

/// The parts of a VAE's loss, each a mean over the batch.
#[derive(Clone, Debug)]
pub struct VaeLoss {
    /// What is minimised, a scalar in nats per image.
    pub loss: Tensor,
    /// Mean squared error per pixel and channel, a scalar; images in [−1, 1].
    pub mse: Tensor,
    /// KL divergence in nats per image, a scalar.
    pub kl: Tensor,
}

/// −log N(x; x̂, exp(γ)) summed over pixels and channels, plus the KL divergence; γ is a learned scalar,
/// so that the two terms find their balance (the calibrated likelihood of arXiv 2006.13202; the paper's
/// VAE loss has the same scalar). Constants are left out.
///
/// # Errors
/// [`Error::Invalid`] where the image shapes differ.
pub fn vae_loss(
    x: &Tensor,
    decoded: &Tensor,
    posterior: &Posterior,
    gamma: &Tensor,
) -> Result<VaeLoss> {
    if x.dims() != decoded.dims() || x.rank() != 4 {
        return Err(Error::invalid(format!(
            "the VAE loss compares images of one shape (batch, channels, h, w), found {:?} and {:?}",
            x.dims(),
            decoded.dims()
        )));
    }
    let numbers = (x.elem_count() / x.dims()[0].max(1)) as f64;
    let mse = (x - decoded)?.sqr()?.mean_all()?;
    let kl = posterior.kl()?.mean_all()?;
    Ok(VaeLoss {
        loss: (normal_nll(&mse, gamma, numbers)? + &kl)?,
        mse,
        kl,
    })
}

/// −log of a normal likelihood of so many numbers with this mean squared error and the variance exp(γ), without constants.
pub(crate) fn normal_nll(error: &Tensor, gamma: &Tensor, numbers: f64) -> Result<Tensor> {
    let gamma = gamma.reshape(())?;
    Ok(((error / gamma.exp()?)? + &gamma)?.affine(0.5 * numbers, 0.)?)
}
