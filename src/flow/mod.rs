//! Invertible layers and the networks made of them.
//!
//! The contract is [`Flow`]: a map that can be undone and that knows by how much it stretches volume.
//! Each layer is one file. Two networks are made of them: [`Cinn`], the conditional `t` of Rombach, Esser,
//! Ommer 2020 ([arXiv 2008.01777](https://arxiv.org/abs/2008.01777), section 3), and [`FactorInn`], the `e` that
//! splits a code into semantic factors (Esser, Rombach, Ommer 2020, [arXiv 2004.13166](https://arxiv.org/abs/2004.13166)).
//! Parameters have the names of the authors' checkpoints.
//!
//! What a block is made of is chosen by [`Coupling`], [`Mixing`] and [`FlowActivation`]; the defaults are the
//! authors'. How the backward pass gets what it needs is chosen by [`Memory`].

mod activation;
mod actnorm;
mod chain;
mod cinn;
mod coupling;
mod embedder;
mod factor;
mod layer;
mod lu;
mod permutation;
mod spline;
mod statistics;

pub use activation::InvertibleLeakyRelu;
pub use actnorm::ActNorm;
pub use chain::{Coupling, FlowActivation, Memory, Mixing};
pub use cinn::{Cinn, CinnConfig, Conditioning};
pub use coupling::AffineCoupling;
pub use embedder::{Condition, Embedder};
pub use factor::{FactorConfig, FactorInn, factor_dims};
pub use lu::LuMixing;
pub use permutation::Permutation;
pub use spline::SplineCoupling;
pub use statistics::constant_columns;

use crate::ops::{Rng, repeated};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};

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

    /// How many numbers `x` has; nothing for a map that takes any number of them.
    fn code(&self) -> Option<usize>;

    /// `n` draws of x for each row of the condition, (batch·n, code), those of one row side by side, or (n, code)
    /// without a condition: `v` is drawn from the standard normal and inverted. Without a condition they are f32
    /// on the CPU, but for a network, whose parameters decide.
    ///
    /// # Errors
    /// As [`Flow::inverse`], and [`Error::Invalid`] for no draw, or a map that takes any number of numbers.
    fn sample(&self, condition: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let code = self.code().ok_or_else(|| {
            Error::invalid("this layer takes any number of numbers: draw v of the size you want, and give it to `inverse`")
        })?;
        match condition {
            None => {
                let v = normal(n, code, rng, DType::F32, &Device::Cpu)?;
                self.inverse(&v, None)
            }
            Some(c) => {
                let v = normal(n * c.dim(0)?, code, rng, c.dtype(), c.device())?;
                self.inverse(&v, Some(&repeated(c, n)?))
            }
        }
    }

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

/// Standard normal numbers, (rows, code).
fn normal(
    rows: usize,
    code: usize,
    rng: &mut Rng,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    if rows == 0 {
        return Err(Error::invalid(
            "sampling needs at least 1 sample of at least 1 z, found none",
        ));
    }
    Ok(rng.normal((rows, code), device)?.to_dtype(dtype)?)
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
    if spread.to_dtype(DType::F64)?.to_scalar::<f64>()? == 0.0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} of shape {:?} holds NaN or infinity; look at where it was computed",
        x.dims()
    )))
}

/// An error unless there are as many conditions as codes.
fn check_batch(code: &Tensor, condition: &Tensor) -> Result<()> {
    let (codes, conditions) = (code.dim(0)?, condition.dim(0)?);
    if codes == conditions {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{codes} codes need as many conditions, found {conditions}"
    )))
}

/// The condition of a map that needs one.
fn given<'a>(condition: Option<&'a Tensor>, what: &str) -> Result<&'a Tensor> {
    condition
        .ok_or_else(|| Error::invalid(format!("{what} depends on a condition, and none was given")))
}
