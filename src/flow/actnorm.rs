use super::Flow;
use super::layer::Layer;
use super::statistics::{Statistics, notice};
use crate::ops::{Activation, Init, Scope, batch_norm, leaky_relu};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use invariances_core::say;
use std::sync::Arc;

/// Scale and shift per channel, v = scale·(x + loc), started so that the first batch leaves it with
/// mean 0 and standard deviation 1 (Kingma, Dhariwal 2018, [arXiv 1807.03039](https://arxiv.org/abs/1807.03039)).
///
/// Takes (batch, channels) and (batch, channels, height, width).
/// Parameters `loc` and `scale`, both (1, channels, 1, 1), and the flag `initialized` ().
#[derive(Clone, Debug)]
pub struct ActNorm {
    channels: usize,
    loc: Tensor,
    scale: Tensor,
    initialized: Tensor,
}

impl ActNorm {
    /// The identity until [`ActNorm::initialize`] has seen data.
    ///
    /// # Errors
    /// [`Error::Invalid`] where parameters of these names exist with another shape.
    pub fn new(channels: usize, scope: &Scope) -> Result<Self> {
        let shape = (1, channels, 1, 1);
        Ok(Self {
            channels,
            loc: scope
                .get(shape, "loc", Init::Const(0.0))?
                .as_tensor()
                .clone(),
            scale: scope
                .get(shape, "scale", Init::Const(1.0))?
                .as_tensor()
                .clone(),
            initialized: scope
                .buffer((), "initialized", Init::Const(0.0))?
                .as_tensor()
                .clone(),
        })
    }

    /// The same layer, sharing its parameters, whose results keep no graph.
    pub(crate) fn detached(&self) -> Self {
        Self {
            channels: self.channels,
            loc: self.loc.detach(),
            scale: self.scale.detach(),
            initialized: self.initialized.detach(),
        }
    }

    /// How many channels it has.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// By what each channel is multiplied, and what is added, each (channels,).
    pub(crate) fn affine(&self) -> Result<(Tensor, Tensor)> {
        let scale = self.scale.flatten_all()?;
        let shift = (&scale * self.loc.flatten_all()?)?;
        Ok((scale, shift))
    }

    /// Whether data, or a checkpoint, have set the start.
    ///
    /// # Errors
    /// [`Error::Tensor`] where the flag cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        Ok(self.initialized.to_dtype(DType::F64)?.to_scalar::<f64>()? != 0.0)
    }

    /// Sets `loc` = −mean and `scale` = 1/(std + 1e-6) of this batch per channel (unbiased standard
    /// deviation, over the batch and all positions), as the authors do. Does nothing the second time.
    ///
    /// Returns the channels that are constant in this batch, as [`super::constant_columns`] defines
    /// them. Their own standard deviation would give a scale of up to 10⁶, so they get that of the
    /// median of the other channels, or 1 where every channel is constant.
    ///
    /// ```
    /// use invariances::{candle_core::{Device, Tensor}, flow::{ActNorm, Flow}, ops::Params};
    /// let norm = ActNorm::new(2, &Params::new(0).root())?;
    /// let x = Tensor::new(&[[1f32, 7.0], [3.0, 7.0], [5.0, 7.0]], &Device::Cpu)?;
    /// assert_eq!(norm.initialize(&x)?, [1]); // the second column never changes
    /// let (v, _) = norm.forward(&Tensor::new(&[[5f32, 9.0]], &Device::Cpu)?, None)?;
    /// let v = v.to_vec2::<f32>()?; // both are divided by 2, the standard deviation of the first
    /// assert!((v[0][0] - 1.0).abs() < 1e-5 && (v[0][1] - 1.0).abs() < 1e-5);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for one value per channel only, which has no standard deviation, and for NaN
    /// or infinity.
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

    /// [`ActNorm::initialize`], with a printed notice about constant channels of `what`.
    pub(crate) fn initialize_with_notice(&self, x: &Tensor, what: &str) -> Result<()> {
        let constant = self.initialize(x)?;
        if !constant.is_empty() {
            say(&notice(what, &constant, self.channels));
        }
        Ok(())
    }

    /// How many positions a channel has in `x`; an error where `x` has other channels.
    fn positions(&self, x: &Tensor) -> Result<usize> {
        match x.dims() {
            [_, channels] if *channels == self.channels => Ok(1),
            [_, channels, height, width] if *channels == self.channels => Ok(height * width),
            found => Err(Error::invalid(format!(
                "an ActNorm of {0} channels takes (batch, {0}) or (batch, {0}, height, width), found {found:?}",
                self.channels
            ))),
        }
    }

    /// `loc` and `scale` in the rank of `x`.
    fn parameters(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        if x.rank() == 2 {
            let shape = (1, self.channels);
            Ok((self.loc.reshape(shape)?, self.scale.reshape(shape)?))
        } else {
            Ok((self.loc.clone(), self.scale.clone()))
        }
    }

    /// Only the normalised `x`, for a network that needs no log-determinant.
    ///
    /// # Errors
    /// [`Error::Invalid`] where `x` has other channels.
    pub fn normalize(&self, x: &Tensor) -> Result<Tensor> {
        self.activated(x, Activation::None)
    }

    /// The normalised `x`, then an activation.
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
        // A map has many places per channel: one pass over it, forward and backward, in place of one for each operation.
        let (scale, shift) = self.affine()?;
        let constants = [&scale.zeros_like()?, &scale.ones_like()?];
        batch_norm(x, constants, [&scale, &shift], 0.0, activation)
    }
}

fn set(parameter: &Tensor, value: Vec<f64>) -> Result<()> {
    let value = Tensor::from_vec(value, parameter.shape(), &Device::Cpu)?;
    let value = value.to_dtype(parameter.dtype())?;
    // The parameter is a variable, and this is the same one.
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
        let (loc, scale) = self.parameters(v)?;
        Ok(v.broadcast_div(&scale)?.broadcast_sub(&loc)?)
    }

    fn code(&self) -> Option<usize> {
        Some(self.channels)
    }
}

impl Layer for ActNorm {
    fn parameters(&self) -> Vec<Tensor> {
        vec![self.loc.clone(), self.scale.clone()]
    }

    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(ActNorm::detached(self))
    }

    fn initialize(&self, x: &Tensor) -> Result<Vec<usize>> {
        ActNorm::initialize(self, x)
    }

    fn is_initialized(&self) -> Result<bool> {
        ActNorm::is_initialized(self)
    }
}
