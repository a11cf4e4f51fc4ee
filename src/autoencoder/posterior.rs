use crate::ops::Rng;
use crate::{Error, Result};
use candle_core::Tensor;

/// A diagonal Gaussian over codes: mean and log-variance, each (batch, code).
///
/// The log-variance is clamped to [−30, 10], as in the original.
#[derive(Clone, Debug)]
pub struct Posterior {
    mean: Tensor,
    logvar: Tensor,
}

impl Posterior {
    /// From mean and log-variance, both (batch, code).
    ///
    /// # Errors
    /// [`Error::Invalid`] where the two differ in shape.
    pub fn new(mean: &Tensor, logvar: &Tensor) -> Result<Self> {
        if mean.dims() != logvar.dims() || mean.rank() != 2 {
            return Err(Error::invalid(format!(
                "a posterior needs mean and log-variance (batch, code), found {:?} and {:?}",
                mean.dims(),
                logvar.dims()
            )));
        }
        Ok(Self {
            // Halves of one tensor, as a rule: contiguous ones can be indexed.
            mean: mean.contiguous()?,
            logvar: logvar.clamp(-30f32, 10f32)?.contiguous()?,
        })
    }

    /// The most probable code of each image, (batch, code).
    pub fn mode(&self) -> Tensor {
        self.mean.clone()
    }

    /// The log-variance, (batch, code).
    pub fn logvar(&self) -> Tensor {
        self.logvar.clone()
    }

    /// A code drawn for each image, differentiable in mean and log-variance.
    pub fn sample(&self, rng: &mut Rng) -> Result<Tensor> {
        let noise = rng
            .normal(self.mean.shape(), self.mean.device())?
            .to_dtype(self.mean.dtype())?;
        Ok((&self.mean + (self.logvar.affine(0.5, 0.)?.exp()? * noise)?)?)
    }

    /// KL divergence to the standard normal in nats, (batch,).
    pub fn kl(&self) -> Result<Tensor> {
        let terms = ((self.mean.sqr()? + self.logvar.exp()?)? - &self.logvar)?;
        Ok(terms.affine(0.5, -0.5)?.sum(1)?)
    }

    /// The codes of the images at `indices`, e.g. of a batch of training.
    pub fn select(&self, indices: &Tensor) -> Result<Self> {
        Ok(Self {
            mean: self.mean.index_select(indices, 0)?,
            logvar: self.logvar.index_select(indices, 0)?,
        })
    }
}
