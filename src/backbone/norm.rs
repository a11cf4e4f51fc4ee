//! The normalization of channels: batch norm or ActNorm.

use super::Mode;
use super::layer::constant;
use crate::Result;
use crate::flow::ActNorm;
use crate::ops::widened as wide;
use crate::ops::{Activation, Init, Placement, Scope, batch_norm, batch_norm_training};
use candle_core::{Tensor, Var};

/// The normalization after a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum NormKind {
    /// Batch norm with this epsilon.
    Batch(f64),
    /// ActNorm, initialized from the first batch.
    Act,
}

/// A normalization of each channel.
#[derive(Clone, Debug)]
pub(super) enum Norm {
    Batch(BatchNorm),
    Act(ActNorm),
}

/// A batch norm with its running statistics.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Var,
    variance: Var,
    eps: f64,
}

/// The weight of a new batch in the running statistics (PyTorch's default).
const MOMENTUM: f64 = 0.1;

impl Norm {
    pub(super) fn new(channels: usize, kind: NormKind, at: &Scope) -> Result<Self> {
        Ok(match kind {
            NormKind::Batch(eps) => Self::Batch(BatchNorm::new(channels, eps, at)?),
            NormKind::Act => Self::Act(ActNorm::new(channels, at)?),
        })
    }

    pub(super) fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
        match self {
            Self::Batch(norm) => norm.forward(x, activation, mode),
            Self::Act(norm) => {
                if mode == Mode::Training {
                    norm.initialize_with_notice(x, "a layer's output")?;
                }
                norm.activated(x, activation)
            }
        }
    }

    /// The scale and the shift of each channel.
    pub(super) fn affine(&self) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Batch(norm) => norm.affine(),
            Self::Act(norm) => norm.affine(),
        }
    }

    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Batch(norm) => 2 * norm.weight.elem_count(),
            Self::Act(norm) => 2 * norm.channels(),
        }
    }

    pub(super) fn frozen(&self, to: &Placement) -> Result<Self> {
        Ok(Self::Batch(match self {
            Self::Batch(norm) => norm.frozen(to)?,
            Self::Act(norm) => {
                let (scale, shift) = norm.affine()?;
                let fixed = |value: f32| -> Result<Var> {
                    let all = Tensor::full(value, norm.channels(), &to.device)?;
                    Ok(Var::from_tensor(&all.to_dtype(to.dtype)?)?)
                };
                BatchNorm {
                    weight: constant(&scale, to)?,
                    bias: constant(&shift, to)?,
                    mean: fixed(0.0)?,
                    variance: fixed(1.0)?,
                    eps: 0.0,
                }
            }
        }))
    }
}

impl BatchNorm {
    fn new(channels: usize, eps: f64, at: &Scope) -> Result<Self> {
        let tensor = |name, start| -> Result<Tensor> {
            Ok(at
                .get(channels, name, Init::Const(start))?
                .as_tensor()
                .clone())
        };
        Ok(Self {
            weight: tensor("weight", 1.0)?,
            bias: tensor("bias", 0.0)?,
            mean: at.buffer(channels, "running_mean", Init::Const(0.0))?,
            variance: at.buffer(channels, "running_var", Init::Const(1.0))?,
            eps,
        })
    }

    fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
        let affine = [&self.weight, &self.bias];
        if mode == Mode::Evaluation {
            let running = [self.mean.as_tensor(), self.variance.as_tensor()];
            return batch_norm(x, running, affine, self.eps, activation);
        }
        let [weight, bias] = affine;
        let normed = batch_norm_training(x, weight, bias, self.eps, activation)?;
        let count = (x.elem_count() / self.mean.elem_count()) as f64;
        let update = |running: &Var, new: &Tensor, factor: f64| -> Result<()> {
            let old = (wide(&running.as_tensor().detach())? * (1.0 - MOMENTUM))?;
            let new = (old + (wide(new)? * (factor * MOMENTUM))?)?;
            Ok(running.set(&new.to_dtype(running.dtype())?)?)
        };
        update(&self.mean, &normed.mean, 1.0)?;
        update(&self.variance, &normed.variance, count / (count - 1.0))?;
        Ok(normed.y)
    }

    /// The scale and the shift of each channel, in f32 for parameters in half precision.
    fn affine(&self) -> Result<(Tensor, Tensor)> {
        let rstd = (wide(&self.variance.as_tensor().detach())? + self.eps)?
            .sqrt()?
            .recip()?;
        let scale = (wide(&self.weight)? * rstd)?;
        let mean = wide(&self.mean.as_tensor().detach())?;
        let shift = (wide(&self.bias)? - (mean * &scale)?)?;
        Ok((scale, shift))
    }

    fn frozen(&self, to: &Placement) -> Result<Self> {
        let copy = |var: &Var| -> Result<Var> {
            // `copy` is needed so that the new variable does not share storage with the old one.
            Ok(Var::from_tensor(&constant(var.as_tensor(), to)?.copy()?)?)
        };
        Ok(Self {
            weight: constant(&self.weight, to)?,
            bias: constant(&self.bias, to)?,
            mean: copy(&self.mean)?,
            variance: copy(&self.variance)?,
            ..self.clone()
        })
    }
}

impl Norm {
    /// Describes the normalization in a line.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Batch(norm) => {
                format!(
                    "BatchNorm({}, eps={:e})",
                    norm.weight.elem_count(),
                    norm.eps
                )
            }
            Self::Act(norm) => format!("ActNorm({})", norm.channels()),
        }
    }
}
