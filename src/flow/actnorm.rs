use super::Flow;
use super::layer::Layer;
use crate::ops::{Activation, Init, Scope, batch_norm, leaky_relu};
use crate::{Error, Result};
use candle_core::{DType, Tensor, Var};
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
    /// # Errors
    /// [`Error::Invalid`] for one value per channel only, which has no standard deviation, and for NaN
    /// or infinity.
    pub fn initialize(&self, x: &Tensor) -> Result<()> {
        if self.is_initialized()? {
            return Ok(());
        }
        self.positions(x)?;
        super::check_finite(x, "the batch that starts an ActNorm")?;
        let x = x.detach().transpose(0, 1)?.flatten_from(1)?;
        let count = x.dim(1)?;
        if count < 2 {
            return Err(Error::invalid(format!(
                "an ActNorm starts from the standard deviation of a batch, which needs at least 2 values per channel, found {count}; start with a larger batch"
            )));
        }
        let mean = x.mean_keepdim(1)?;
        let variance = (x.broadcast_sub(&mean)?.sqr()?.sum_keepdim(1)? / (count - 1) as f64)?;
        let scale = (variance.sqrt()? + 1e-6)?.recip()?;
        set(&self.loc, &mean.neg()?)?;
        set(&self.scale, &scale)?;
        set(&self.initialized, &self.initialized.ones_like()?)
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

fn set(parameter: &Tensor, value: &Tensor) -> Result<()> {
    // The parameter is a variable, and this is the same one.
    let var = Var::from_tensor(parameter)?;
    Ok(var.set(&value.reshape(parameter.shape())?.copy()?)?)
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

    fn initialize(&self, x: &Tensor) -> Result<()> {
        ActNorm::initialize(self, x)
    }

    fn is_initialized(&self) -> Result<bool> {
        ActNorm::is_initialized(self)
    }
}
