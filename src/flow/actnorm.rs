//! ActNorm: a learned scale and shift per channel, initialised from the first batch.

use super::Flow;
use super::layer::Layer;
use super::statistics::{Statistics, notice};
use crate::ops::gpu::{self, CouplingTape};
use crate::ops::{Activation, Init, Placement, Scope, batch_norm, leaky_relu, scalar};
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::{Device, Tensor, Var};
use invariances_core::say;
use std::sync::Arc;

/// An activation normalisation layer: v = scale·(x + loc) per channel, initialised so that its
/// output on the first batch has mean 0 and standard deviation 1 (Kingma, Dhariwal 2018,
/// [arXiv 1807.03039](https://arxiv.org/abs/1807.03039)).
///
/// The input is (batch, channels) or (batch, channels, height, width). The parameters are `loc`
/// and `scale`, both (1, channels, 1, 1), and the scalar flag `initialized`.
#[derive(Clone)]
pub struct ActNorm {
    channels: usize,
    loc: Tensor,
    scale: Tensor,
    initialized: Tensor,
}

impl ActNorm {
    /// Creates the layer. It is the identity until [`ActNorm::initialize`] is called.
    ///
    /// # Errors
    /// [`Error::Shape`] if parameters of these names exist with another shape.
    pub fn new(channels: usize, scope: &Scope) -> Result<Self> {
        let shape = (1, channels, 1, 1);
        Self::with(
            channels,
            scope.get(shape, "loc", Init::Const(0.0))?,
            scope.get(shape, "scale", Init::Const(1.0))?,
            scope,
        )
    }

    /// Creates a layer whose `loc` and `scale` are set by [`ActNorm::initialize`] and are not
    /// trained.
    ///
    /// # Errors
    /// As [`ActNorm::new`].
    pub fn fixed(channels: usize, scope: &Scope) -> Result<Self> {
        let shape = (1, channels, 1, 1);
        Self::with(
            channels,
            scope.buffer(shape, "loc", Init::Const(0.0))?,
            scope.buffer(shape, "scale", Init::Const(1.0))?,
            scope,
        )
    }

    fn with(channels: usize, loc: Var, scale: Var, scope: &Scope) -> Result<Self> {
        let initialized = scope.buffer((), "initialized", Init::Const(0.0))?;
        Ok(Self {
            channels,
            loc: loc.into_inner(),
            scale: scale.into_inner(),
            initialized: initialized.into_inner(),
        })
    }

    /// Returns the same layer with shared parameters; its results keep no graph.
    pub(crate) fn detached(&self) -> Self {
        Self {
            channels: self.channels,
            loc: self.loc.detach(),
            scale: self.scale.detach(),
            initialized: self.initialized.detach(),
        }
    }

    /// The number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// Returns the factor and the summand of each channel, each (channels,).
    pub(crate) fn affine(&self) -> Result<(Tensor, Tensor)> {
        let scale = self.scale.flatten_all()?;
        let shift = (&scale * self.loc.flatten_all()?)?;
        Ok((scale, shift))
    }

    /// Returns whether the layer was initialised, from data or from a checkpoint.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the flag cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        Ok(scalar(&self.initialized)? != 0.0)
    }

    /// Sets `loc` = −mean and `scale` = 1/(std + 1e-6) of this batch per channel, as the authors
    /// do. The standard deviation is unbiased and taken over the batch and all positions. If the
    /// layer is already initialised, the call does nothing.
    ///
    /// Returns the channels that are constant in this batch, as defined by
    /// [`super::constant_columns`]. Their own standard deviation would give a scale of up to 10⁶.
    /// They get the scale of the median standard deviation of the other channels instead, or 1 if
    /// every channel is constant.
    ///
    /// ```
    /// use invariances::{candle_core::{Device, Tensor}, flow::{ActNorm, Flow}, ops::Params};
    /// let norm = ActNorm::new(2, &Params::new(0).root())?;
    /// let x = Tensor::new(&[[1f32, 7.0], [3.0, 7.0], [5.0, 7.0]], &Device::Cpu)?;
    /// assert_eq!(norm.initialize(&x)?, [1]); // the second column is constant
    /// let (v, _) = norm.forward(&Tensor::new(&[[5f32, 9.0]], &Device::Cpu)?, None)?;
    /// let v = v.to_vec2::<f32>()?; // both are divided by 2, the std of the first column
    /// assert!((v[0][0] - 1.0).abs() < 1e-5 && (v[0][1] - 1.0).abs() < 1e-5);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of channels, or if there is only one value per
    /// channel, which has no standard deviation; [`Error::Invalid`] if a value is NaN or
    /// infinite.
    pub fn initialize(&self, x: &Tensor) -> Result<Vec<usize>> {
        if self.is_initialized()? {
            return Ok(Vec::new());
        }
        self.positions(x)?;
        let statistics = Statistics::of(x)?;
        let loc = statistics.mean.iter().map(|m| -m).collect();
        set(&self.loc, loc)?;
        set(&self.scale, statistics.scale)?;
        set(&self.initialized, vec![1.0])?;
        Ok(statistics.constant)
    }

    /// Calls [`ActNorm::initialize`] and prints a notice if channels of `what` are constant.
    pub(crate) fn initialize_with_notice(&self, x: &Tensor, what: &str) -> Result<()> {
        let constant = self.initialize(x)?;
        if !constant.is_empty() {
            say(&notice(what, &constant, self.channels));
        }
        Ok(())
    }

    /// Returns the number of positions per channel in `x`; an error if the channels differ.
    fn positions(&self, x: &Tensor) -> Result<usize> {
        match x.dims() {
            [_, channels] if *channels == self.channels => Ok(1),
            [_, channels, height, width] if *channels == self.channels => Ok(height * width),
            found => Err(Error::shape(format!(
                "expected an input of shape (batch, {0}) or (batch, {0}, height, width) for an \
                 ActNorm of {0} channels, found {found:?}",
                self.channels
            ))),
        }
    }

    /// Returns `loc` and `scale`, reshaped to the rank of `x`.
    fn parameters(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        if x.rank() == 2 {
            let shape = (1, self.channels);
            Ok((self.loc.reshape(shape)?, self.scale.reshape(shape)?))
        } else {
            Ok((self.loc.clone(), self.scale.clone()))
        }
    }

    /// Returns whether a result would have a graph.
    fn tracked(&self, x: &Tensor) -> bool {
        [x, &self.loc, &self.scale].iter().any(|t| t.track_op())
    }

    /// Returns only the normalised `x`, for networks that need no log-determinant.
    ///
    /// # Errors
    /// [`Error::Shape`] if `x` has another number of channels.
    pub fn normalize(&self, x: &Tensor) -> Result<Tensor> {
        self.activated(x, Activation::None)
    }

    /// Normalises `x`, then applies an activation.
    pub(crate) fn activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.positions(x)?;
        if x.rank() == 2 {
            let (loc, scale) = self.parameters(x)?;
            let y = x.broadcast_add(&loc)?.broadcast_mul(&scale)?;
            return match activation {
                Activation::None => Ok(y),
                Activation::Leaky(slope) => leaky_relu(&y, slope),
            };
        }
        // A feature map has many positions per channel. `batch_norm` makes one pass over the map
        // (forward and backward) instead of one pass per operation.
        let (scale, shift) = self.affine()?;
        let constants = [&scale.zeros_like()?, &scale.ones_like()?];
        batch_norm(x, constants, [&scale, &shift], 0.0, activation)
    }
}

fn set(parameter: &Tensor, value: Vec<f64>) -> Result<()> {
    let value = Tensor::from_vec(value, parameter.shape(), &Device::Cpu)?;
    let value = value.to_dtype(parameter.dtype())?;
    // `parameter` is a variable; `var` is the same variable and shares its storage.
    let var = Var::from_tensor(parameter)?;
    Ok(var.set(&value.to_device(parameter.device())?)?)
}

impl Flow for ActNorm {
    fn forward(&self, x: &Tensor, _: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let positions = self.positions(x)? as f64;
        let v = self.normalize(x)?;
        let logdet = (self.scale.abs()?.log()?.sum_all()? * positions)?;
        Ok((v, logdet.broadcast_as(x.dim(0)?)?))
    }

    fn inverse(&self, v: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        self.positions(v)?;
        if v.rank() == 2 && gpu::is_available(v) && !self.tracked(v) {
            return gpu::actnorm_inverse(v, &self.loc, &self.scale);
        }
        let (loc, scale) = self.parameters(v)?;
        Ok(v.broadcast_div(&scale)?.broadcast_sub(&loc)?)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.channels)
    }

    fn placement(&self) -> Option<Placement> {
        Some(Placement::of(&self.loc))
    }

    fn initialize(&self, x: &Tensor, _: Option<&Tensor>) -> Result<()> {
        self.initialize_with_notice(x, "the input of an ActNorm")
    }

    fn outline(&self) -> Outline {
        Outline::new(format!("ActNorm({})", self.channels)).with_parameters(2 * self.channels)
    }
}

shows_outline!(ActNorm);

impl Layer for ActNorm {
    fn state_forward(
        &self,
        state: &Tensor,
        _: Option<&Tensor>,
    ) -> Result<(Tensor, Option<CouplingTape>)> {
        Ok((gpu::actnorm(state, &self.loc, &self.scale)?, None))
    }

    fn state_backward(
        &self,
        state: &Tensor,
        _: Option<&CouplingTape>,
        _: Option<&Tensor>,
        gradient: &Tensor,
        _: &mut Option<Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let [to_state, to_loc, to_scale] =
            gpu::actnorm_backward(state, &self.loc, &self.scale, gradient)?;
        Ok((to_state, vec![to_loc, to_scale]))
    }

    fn parameters(&self) -> Vec<Tensor> {
        vec![self.loc.clone(), self.scale.clone()]
    }

    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(ActNorm::detached(self))
    }

    fn initialize_layer(&self, x: &Tensor) -> Result<Vec<usize>> {
        ActNorm::initialize(self, x)
    }

    fn is_initialized(&self) -> Result<bool> {
        ActNorm::is_initialized(self)
    }
}
