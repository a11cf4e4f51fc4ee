//! Invertible layers and the networks made of them.
//!
//! The interface is [`Flow`]: an invertible map with its log-determinant. Each layer has its own
//! file, and [`Composed`] makes a flow of any layers. A [`Coupling`] is generic over the map of a
//! single element ([`Univariate`]).
//!
//! Two networks are built from the layers: [`Cinn`], the conditional invertible network `t`
//! of Rombach, Esser, Ommer 2020 ([arXiv 2008.01777](https://arxiv.org/abs/2008.01777), section
//! 3), and [`FactorInn`], the factor network `e`, which splits a code into semantic factors
//! (Esser, Rombach, Ommer 2020, [arXiv 2004.13166](https://arxiv.org/abs/2004.13166)). Parameters
//! have the names of the authors' checkpoints.
//!
//! [`CouplingConfig`], [`Mixing`] and [`FlowActivation`] choose the layers of a block; the
//! defaults are the authors'. [`Memory`] chooses whether the backward pass stores or recomputes
//! activations.
//!
//! # Adding a layer
//!
//! 1. Implement [`Flow`] in a file of its own; `activation.rs` is the shortest example. The layer
//!    can then be used in [`Composed`]. Outside of this crate, this is all that is needed. An
//!    element-wise map in a coupling implements [`Univariate`] instead.
//! 2. To use it in t and e, implement the internal trait `Layer` (`layer.rs`): `detached`, and
//!    `parameters` if it has any. The defaults of the other methods compute gradients by a graph
//!    of the layer and run on every device. `permutation.rs` overrides those for GPUs.
//! 3. Add a setting to `config.rs` ([`FlowActivation`], [`CouplingConfig`] or [`Mixing`]), and build
//!    the layer for it in the function `block` of `chain.rs`. [`CinnConfig`] and [`FactorConfig`]
//!    contain these settings.
//! 4. Add it to the property tests in `tests/flow.rs`.

mod activation;
mod actnorm;
mod attention;
mod chain;
mod chain_op;
mod cinn;
mod composed;
mod config;
mod coupling;
mod embedder;
mod factor;
mod fused;
mod layer;
mod lu;
mod matching;
mod permutation;
mod statistics;
mod tarflow;
mod univariate;
mod velocity;

pub use activation::InvertibleLeakyRelu;
pub use actnorm::ActNorm;
pub use cinn::{Cinn, CinnConfig, Conditioning};
pub use composed::{Composed, Inverse};
pub use config::{CouplingConfig, FlowActivation, Memory, Mixing};
pub use coupling::{AffineCoupling, Coupling, CouplingNets, SplineCoupling};
pub use embedder::{Condition, Embedder};
pub use factor::{FactorConfig, FactorInn, factor_dims};
pub use lu::LuMixing;
pub use matching::{FlowMatching, FlowMatchingConfig};
pub use permutation::Permutation;
pub use statistics::constant_columns;
pub use tarflow::{TarFlow, TarFlowConfig};
pub use univariate::{Affine, RationalQuadratic, Univariate};

use crate::ops::gradients::is_collected;
use crate::ops::{Placement, Rng, repeated, scalar};
use crate::{Error, Outline, Result};
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// An invertible map with its log-determinant.
///
/// `x` and `v` are (batch, code); the log-determinant is (batch,), in nats. `condition` is the
/// second input of a conditional map. An unconditional flow ignores it; a conditional flow
/// returns an error if it is `None`.
pub trait Flow: Send + Sync {
    /// Returns `v` and log|det ∂v/∂x|.
    ///
    /// # Errors
    /// [`Error::Shape`] if a shape does not fit; [`Error::Invalid`] if a required condition is
    /// missing.
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)>;

    /// Returns `v` alone. For a flow whose log-determinant is expensive ([`FlowMatching`]) this
    /// takes much less time than [`Flow::forward`].
    ///
    /// # Errors
    /// As [`Flow::forward`].
    fn latent(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.forward(x, condition)?.0)
    }

    /// Returns the `x` for which `forward(x)` is `v`.
    ///
    /// # Errors
    /// As [`Flow::forward`].
    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor>;

    /// The dimension of `x`; `None` for a map that accepts any dimension.
    fn dim(&self) -> Option<usize>;

    /// The device and number type of the parameters, or `None` for a map without parameters.
    fn placement(&self) -> Option<Placement> {
        None
    }

    /// Returns the same flow for evaluation: it shares the parameters, and its results keep no
    /// graph, which saves time and memory. By default `None`: then results are detached after
    /// the evaluation.
    fn frozen(&self) -> Option<Arc<dyn Flow>> {
        None
    }

    /// Returns the flow for evaluation and its condition, with what depends on the condition alone
    /// computed once: the condition of the returned flow is the returned tensor, one row for each
    /// row of `condition`. By default these are [`Flow::frozen`] (`None`: the flow itself) and the
    /// condition.
    ///
    /// # Errors
    /// As [`Flow::forward`].
    fn embedded(&self, condition: &Tensor) -> Result<(Option<Arc<dyn Flow>>, Tensor)> {
        let condition = match self.placement() {
            Some(at) => at.take(condition)?,
            None => condition.clone(),
        };
        Ok((self.frozen(), condition))
    }

    /// Whether a log-density costs many times as much as `v` alone, as it does for
    /// [`FlowMatching`]. A [`Certificate`](crate::interpret::Certificate) then uses no densities
    /// of it.
    fn density_is_slow(&self) -> bool {
        false
    }

    /// Initialises the layers that start from data (every [`ActNorm`] that is not yet
    /// initialised), from a batch of inputs. By default there are none.
    ///
    /// # Errors
    /// As [`Flow::forward`], and [`Error::Shape`] for a batch of one, which has no standard
    /// deviation.
    fn initialize(&self, _x: &Tensor, _condition: Option<&Tensor>) -> Result<()> {
        Ok(())
    }

    /// Describes the layers, as `Display` prints them.
    fn outline(&self) -> Outline {
        Outline::of_type::<Self>()
    }

    /// Samples `n` values of x per row of the condition, (batch·n, code), or (n, code) without a
    /// condition. Samples of one row are consecutive. `v` is drawn from the standard normal
    /// distribution and inverted. The samples have the device and number type of the condition,
    /// or, without a condition, those of [`Flow::placement`] (f32 on the CPU for a map without
    /// parameters). They keep no graph: for a gradient, draw v and call [`Flow::inverse`].
    ///
    /// # Errors
    /// As [`Flow::inverse`], [`Error::Invalid`] if no samples are requested, and
    /// [`Error::Unsupported`] if the map accepts any dimension.
    fn sample(&self, condition: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let code = self.dim().ok_or_else(|| {
            Error::unsupported(
                "`sample` is not supported by a layer for codes of any size: draw v of the \
                 required size and call `inverse`",
            )
        })?;
        let x = match condition {
            None => {
                let at = self.placement().unwrap_or(Placement {
                    device: Device::Cpu,
                    dtype: DType::F32,
                });
                let v = normal(n, code, rng, at.dtype, &at.device)?;
                self.inverse(&v, None)?
            }
            Some(c) => {
                let v = normal(n * c.dim(0)?, code, rng, c.dtype(), c.device())?;
                self.inverse(&v, Some(&repeated(c, n)?))?
            }
        };
        Ok(x.detach())
    }

    /// Returns the log-density of `x` in nats, (batch,), for a standard normal `v`:
    /// log N(v; 0, 1) + log|det ∂v/∂x|.
    ///
    /// # Errors
    /// As [`Flow::forward`], and [`Error::Invalid`] if `x` contains NaN or infinity.
    fn log_prob(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        check_finite(x, "x")?;
        let (v, logdet) = self.forward(x, condition)?;
        let v = v.flatten_from(1)?;
        let constant = 0.5 * v.dim(1)? as f64 * (2.0 * std::f64::consts::PI).ln();
        Ok((logdet - ((v.sqr()?.sum(1)? * 0.5)? + constant)?)?)
    }

    /// Returns the negative log₂-density per dimension, (batch,): the code length of a sample in
    /// bits per dimension, up to a constant that depends on the resolution of the data.
    ///
    /// # Errors
    /// As [`Flow::log_prob`].
    fn bits_per_dimension(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let dimensions = (x.elem_count() / x.dim(0)?.max(1)).max(1) as f64;
        let nats = self.log_prob(x, condition)?;
        Ok((nats / (-dimensions * std::f64::consts::LN_2))?)
    }

    /// Returns the loss that training minimises, a scalar with its graph: by default the mean
    /// negative log-density of a batch in nats. `rng` is for losses that sample
    /// ([`FlowMatching`]).
    ///
    /// # Errors
    /// As [`Flow::log_prob`].
    fn loss(&self, x: &Tensor, condition: Option<&Tensor>, _rng: &mut Rng) -> Result<Tensor> {
        let mean = self.log_prob(x, condition)?.mean_all()?;
        Ok(mean.neg()?)
    }
}

/// A shared flow is a flow, so that it can be a part of another one.
impl Flow for Arc<dyn Flow> {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        (**self).forward(x, condition)
    }

    fn latent(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        (**self).latent(x, condition)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        (**self).inverse(v, condition)
    }

    fn dim(&self) -> Option<usize> {
        (**self).dim()
    }

    fn placement(&self) -> Option<Placement> {
        (**self).placement()
    }

    fn frozen(&self) -> Option<Arc<dyn Flow>> {
        (**self).frozen()
    }

    fn embedded(&self, condition: &Tensor) -> Result<(Option<Arc<dyn Flow>>, Tensor)> {
        (**self).embedded(condition)
    }

    fn density_is_slow(&self) -> bool {
        (**self).density_is_slow()
    }

    fn initialize(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<()> {
        (**self).initialize(x, condition)
    }

    fn outline(&self) -> Outline {
        (**self).outline()
    }

    fn sample(&self, condition: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        (**self).sample(condition, n, rng)
    }

    fn log_prob(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        (**self).log_prob(x, condition)
    }

    fn bits_per_dimension(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        (**self).bits_per_dimension(x, condition)
    }

    fn loss(&self, x: &Tensor, condition: Option<&Tensor>, rng: &mut Rng) -> Result<Tensor> {
        (**self).loss(x, condition, rng)
    }
}

/// Samples standard normal values, (rows, code).
fn normal(
    rows: usize,
    code: usize,
    rng: &mut Rng,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    if rows == 0 {
        return Err(Error::invalid(
            "expected at least 1 sample of at least 1 z, found 0",
        ));
    }
    Ok(rng.normal((rows, code), device)?.to_dtype(dtype)?)
}

/// Returns the batch size of `x`; an error unless `x` is (batch, `width`) with at least one row.
fn rows(x: &Tensor, width: usize, what: &str) -> Result<usize> {
    match x.dims() {
        [0, w] if *w == width => Err(Error::shape(format!(
            "expected {what} of shape (batch, {width}) with at least 1 row, found 0 rows: check \
             how the rows were selected"
        ))),
        [batch, w] if *w == width => Ok(*batch),
        found => Err(Error::shape(format!(
            "expected {what} of shape (batch, {width}), found {found:?}"
        ))),
    }
}

/// Returns an error if `x` contains NaN or infinity, which would otherwise propagate silently.
/// In a training step on a GPU the check is skipped, because it would wait for the GPU; the trainer
/// detects such values in the loss.
fn check_finite(x: &Tensor, what: &str) -> Result<()> {
    if !x.device().is_cpu() && is_collected() {
        return Ok(());
    }
    // 0·x is 0 for every finite number, and NaN for NaN and infinity.
    let spread = (x.detach() * 0.0)?.sum_all()?;
    if scalar(&spread)? == 0.0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "expected finite values in {what}, found NaN or infinity in a tensor of shape {:?}: check \
         how it was computed",
        x.dims()
    )))
}

/// Returns an error unless there is one condition per code.
fn check_batch(code: &Tensor, condition: &Tensor) -> Result<()> {
    let (codes, conditions) = (code.dim(0)?, condition.dim(0)?);
    if codes == conditions {
        return Ok(());
    }
    Err(Error::shape(format!(
        "expected one condition per code, found {conditions} conditions for {codes} codes"
    )))
}

/// Returns the condition of a map that needs one; an error if there is none.
fn required<'a>(condition: Option<&'a Tensor>, what: &str) -> Result<&'a Tensor> {
    condition.ok_or_else(|| Error::invalid(format!("expected a condition for {what}, found none")))
}
