//! Invertible layers and the networks made of them.
//!
//! The contract is [`Flow`]: a map that can be undone and that knows by how much it stretches volume.
//! Each layer is one file; [`Cinn`] puts them together into `t`, the conditional invertible network of
//! Rombach, Esser, Ommer 2020 ([arXiv 2008.01777](https://arxiv.org/abs/2008.01777), section 3).
//! Parameters have the names of the authors' checkpoints.

mod activation;
mod actnorm;
mod cinn;
mod coupling;
mod embedder;
mod permutation;

pub use activation::InvertibleLeakyRelu;
pub use actnorm::ActNorm;
pub use cinn::{Cinn, CinnConfig, Conditioning, FlowActivation};
pub use coupling::Coupling;
pub use embedder::{Condition, Embedder};
pub use permutation::Permutation;

use crate::{Error, Result};
use candle_core::Tensor;

/// A map that can be inverted, with the logarithm of its volume change.
///
/// Shapes: `x` and `v` are (batch, code), the log-determinant is (batch,), in nats. `condition` is what
/// the map depends on besides `x`; a flow that depends on nothing ignores it, one that needs it and
/// gets `None` returns an error.
pub trait Flow: Send + Sync {
    /// `v` and log|det ∂v/∂x|.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a shape or the condition does not fit.
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)>;

    /// `x` with `forward(x) = v`.
    ///
    /// # Errors
    /// As [`Flow::forward`].
    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor>;

    /// The log-density of `x` in nats, (batch,), when `v` is standard normal:
    /// log N(v; 0, 1) + log|det ∂v/∂x|.
    ///
    /// # Errors
    /// As [`Flow::forward`], and [`Error::Invalid`] where `x` holds NaN or infinity.
    fn log_prob(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        check_finite(x, "x")?;
        let (v, logdet) = self.forward(x, condition)?;
        let v = v.flatten_from(1)?;
        let constant = 0.5 * v.dim(1)? as f64 * (2.0 * std::f64::consts::PI).ln();
        Ok((logdet - ((v.sqr()?.sum(1)? * 0.5)? + constant)?)?)
    }

    /// −log₂ of the density per dimension, (batch,): what a sample costs in bits, up to the resolution
    /// of the data.
    ///
    /// # Errors
    /// As [`Flow::log_prob`].
    fn bits_per_dimension(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let dimensions = (x.elem_count() / x.dim(0)?.max(1)).max(1) as f64;
        let nats = self.log_prob(x, condition)?;
        Ok((nats / (-dimensions * std::f64::consts::LN_2))?)
    }
}

/// The batch size of `x`, which must be (batch, `width`) and not empty.
fn rows(x: &Tensor, width: usize, what: &str) -> Result<usize> {
    match x.dims() {
        [0, w] if *w == width => Err(Error::invalid(format!(
            "{what} must be (batch, {width}) with at least 1 row, found none; look at what selected the rows"
        ))),
        [batch, w] if *w == width => Ok(*batch),
        found => Err(Error::invalid(format!(
            "{what} must be (batch, {width}), found {found:?}"
        ))),
    }
}

/// An error where `x` holds NaN or infinity, which would otherwise spread without a word.
fn check_finite(x: &Tensor, what: &str) -> Result<()> {
    // 0·x is 0 for every number, and NaN for what is none.
    let spread = (x.detach() * 0.0)?.sum_all()?;
    if spread
        .to_dtype(candle_core::DType::F64)?
        .to_scalar::<f64>()?
        == 0.0
    {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} of shape {:?} holds NaN or infinity; look at where it was computed",
        x.dims()
    )))
}
