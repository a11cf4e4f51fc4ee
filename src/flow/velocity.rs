//! The network of a [`FlowMatching`](super::FlowMatching): a residual MLP with adaptive layer norms,
//! whose divergence is computed exactly.

use super::layer::dense_parameters;
use crate::Outline;
use crate::Result;
use crate::ops::{Activation, Init, Scope, dense};
use crate::outline::{linear, parameters_of};
use candle_core::{D, DType, Device, Tensor};

/// The number of sines (and of cosines) of the time.
const FREQUENCIES: usize = 16;

/// Added to the variance in a layer norm, as in PyTorch.
const EPS: f64 = 1e-5;

/// The largest number of rows whose derivatives are computed at once, which limits the memory.
const ROWS: usize = 8192;

type Dense = (Tensor, Tensor);

/// The velocity u(x, θ | z) of an ordinary differential equation.
///
/// x passes through residual blocks of two dense layers. Time and z scale and shift the input of
/// each block, after a layer norm, and scale its output ("adaLN-Zero" of Peebles, Xie 2023,
/// [arXiv 2212.09748](https://arxiv.org/abs/2212.09748)). The contributions of time and z are
/// computed apart and added, so that those of z are computed once for all times and samples. Before
/// training the velocity is 0.
#[derive(Clone)]
pub(super) struct Velocity {
    dim: usize,
    hidden: usize,
    input: Dense,
    /// Two layers from the sines and cosines of the time.
    time: [Dense; 2],
    /// Shifts, scales and gates of all blocks and of the output, from time and from z.
    of_time: Dense,
    of_z: Dense,
    blocks: Vec<[Dense; 2]>,
    output: Dense,
}

/// A value with its derivatives in several directions.
struct Dual {
    /// (rows, width).
    value: Tensor,
    /// (rows, directions, width); `None` if no derivatives are needed.
    tangent: Option<Tensor>,
}

impl Velocity {
    pub(super) fn new(dim: usize, hidden: usize, blocks: usize, scope: &Scope) -> Result<Self> {
        let modulations = (3 * blocks + 2) * hidden;
        let zero = |inputs: usize, outputs: usize, at: &Scope| -> Result<Dense> {
            let weight = at.get((outputs, inputs), "weight", Init::Const(0.0))?;
            let bias = at.get(outputs, "bias", Init::Const(0.0))?;
            Ok((weight.into_inner(), bias.into_inner()))
        };
        let layer =
            |inputs, outputs, name: &str| dense_parameters(inputs, outputs, &[], &scope.pp(name));
        Ok(Self {
            dim,
            hidden,
            input: layer(dim, hidden, "input")?,
            time: [
                layer(2 * FREQUENCIES, hidden, "time.0")?,
                layer(hidden, hidden, "time.2")?,
            ],
            of_time: zero(hidden, modulations, &scope.pp("modulation_time"))?,
            of_z: zero(hidden, modulations, &scope.pp("modulation_z"))?,
            blocks: (0..blocks)
                .map(|i| {
                    let at = scope.pp("blocks").pp(i);
                    Ok([
                        dense_parameters(hidden, hidden, &[], &at.pp(0))?,
                        dense_parameters(hidden, hidden, &[], &at.pp(2))?,
                    ])
                })
                .collect::<Result<_>>()?,
            output: zero(hidden, dim, &scope.pp("output"))?,
        })
    }

    /// Returns the same network with shared parameters; its results keep no graph.
    pub(super) fn detached(&self) -> Self {
        let both = |(w, b): &Dense| (w.detach(), b.detach());
        Self {
            dim: self.dim,
            hidden: self.hidden,
            input: both(&self.input),
            time: [both(&self.time[0]), both(&self.time[1])],
            of_time: both(&self.of_time),
            of_z: both(&self.of_z),
            blocks: self
                .blocks
                .iter()
                .map(|block| [both(&block[0]), both(&block[1])])
                .collect(),
            output: both(&self.output),
        }
    }

    /// Returns a parameter, for the placement of the network.
    pub(super) fn parameter(&self) -> &Tensor {
        &self.input.0
    }

    /// Returns the modulations that depend on z, (rows, modulations), from its embedding (rows,
    /// hidden).
    pub(super) fn of_z(&self, embedding: &Tensor) -> Result<Tensor> {
        apply(&embedding.silu()?, &self.of_z)
    }

    /// Returns the modulations that depend on time, (times, modulations). `angle` is (times,).
    pub(super) fn of_time(&self, angle: &Tensor) -> Result<Tensor> {
        let harmonics: Vec<f32> = (1..=FREQUENCIES).map(|k| k as f32).collect();
        let harmonics = Tensor::from_vec(harmonics, (1, FREQUENCIES), angle.device())?;
        let phases = angle
            .unsqueeze(1)?
            .broadcast_mul(&harmonics.to_dtype(angle.dtype())?)?;
        let waves = Tensor::cat(&[phases.sin()?, phases.cos()?], 1)?;
        let hidden = apply(&waves, &self.time[0])?.silu()?;
        apply(&apply(&hidden, &self.time[1])?.silu()?, &self.of_time)
    }

    /// Returns u (rows, dim) at x (rows, dim). `modulations` is (rows, …): the sum of
    /// [`Velocity::of_time`] and [`Velocity::of_z`].
    pub(super) fn at(&self, x: &Tensor, modulations: &Tensor) -> Result<Tensor> {
        let input = Dual {
            value: apply(x, &self.input)?,
            tangent: None,
        };
        apply(&self.last(input, modulations)?.value, &self.output)
    }

    /// Returns u and its divergence, the trace of ∂u/∂x, (rows,). All `dim` derivatives are
    /// computed (forward mode), which takes about `dim` times as long as u alone.
    pub(super) fn with_divergence(
        &self,
        x: &Tensor,
        modulations: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let rows = x.dim(0)?;
        let value = apply(x, &self.input)?;
        // The derivatives of the first layer are its weight; those of the last one enter the trace.
        let (first, last) = (self.input.0.t()?.contiguous()?, &self.output.0);
        let (mut u, mut divergence) = (None, Tensor::zeros(rows, x.dtype(), x.device())?);
        let at_once = (ROWS / rows).clamp(1, self.dim);
        for start in (0..self.dim).step_by(at_once) {
            let count = at_once.min(self.dim - start);
            let tangent = first.narrow(0, start, count)?.unsqueeze(0)?;
            let hidden = Dual {
                value: value.clone(),
                tangent: Some(
                    tangent
                        .broadcast_as((rows, count, self.hidden))?
                        .contiguous()?,
                ),
            };
            let Dual { value, tangent } = self.last(hidden, modulations)?;
            if let Some(tangent) = tangent {
                let trace = tangent.broadcast_mul(&last.narrow(0, start, count)?.unsqueeze(0)?)?;
                divergence = (divergence + trace.flatten_from(1)?.sum(1)?)?;
            }
            if u.is_none() {
                u = Some(apply(&value, &self.output)?);
            }
        }
        let u = match u {
            Some(u) => u,
            None => self.at(x, modulations)?,
        };
        Ok((u, divergence))
    }

    /// The input of the output layer.
    fn last(&self, input: Dual, modulations: &Tensor) -> Result<Dual> {
        let part = |i: usize| modulations.narrow(1, i * self.hidden, self.hidden);
        let mut h = input;
        for (i, [first, second]) in self.blocks.iter().enumerate() {
            let inner = h
                .normalized()?
                .modulated(&part(3 * i)?, &part(3 * i + 1)?)?
                .dense(first)?
                .silu()?
                .dense(second)?
                .scaled(&part(3 * i + 2)?)?;
            h = h.plus(inner)?;
        }
        let last = 3 * self.blocks.len();
        h.normalized()?.modulated(&part(last)?, &part(last + 1)?)
    }

    pub(super) fn outline(&self) -> Outline {
        let own = |layer: &Dense| parameters_of([&layer.0, &layer.1]);
        let one = |name: &str, layer: &Dense| {
            Outline::new(linear(&layer.0, true))
                .with_parameters(own(layer))
                .named(name)
        };
        let block = |block: &[Dense; 2]| {
            Outline::new(format!("AdaptiveResidual({0}, {0}), SiLU", self.hidden))
                .with_parameters(own(&block[0]) + own(&block[1]))
        };
        Outline::new(format!("Velocity({}, hidden={})", self.dim, self.hidden))
            .with_parts([
                one("input", &self.input),
                one("time.0", &self.time[0]),
                one("time.2", &self.time[1]),
                one("modulation_time", &self.of_time),
                one("modulation_z", &self.of_z),
            ])
            .with_parts(self.blocks.iter().map(block))
            .with_parts([one("output", &self.output)])
    }
}

impl Dual {
    /// A dense layer. The bias has no derivative.
    fn dense(self, layer: &Dense) -> Result<Self> {
        let tangent = self.tangent.map(|tangent| -> Result<Tensor> {
            let (rows, directions, width) = tangent.dims3()?;
            let flat = tangent.reshape((rows * directions, width))?;
            let moved = dense(&flat, &layer.0, &layer.1.zeros_like()?, Activation::None)?;
            let outputs = moved.dim(1)?;
            Ok(moved.reshape((rows, directions, outputs))?)
        });
        Ok(Self {
            value: apply(&self.value, layer)?,
            tangent: tangent.transpose()?,
        })
    }

    /// A layer norm without learned parameters.
    fn normalized(&self) -> Result<Self> {
        let centred = self
            .value
            .broadcast_sub(&self.value.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let inverse = (variance + EPS)?.sqrt()?.recip()?;
        let value = centred.broadcast_mul(&inverse)?;
        let tangent = self.tangent.as_ref().map(|tangent| -> Result<Tensor> {
            let tangent = tangent.broadcast_sub(&tangent.mean_keepdim(D::Minus1)?)?;
            let normal = value.unsqueeze(1)?;
            let along = tangent.broadcast_mul(&normal)?.mean_keepdim(D::Minus1)?;
            let turned = (tangent - along.broadcast_mul(&normal)?)?;
            Ok(turned.broadcast_mul(&inverse.unsqueeze(1)?)?)
        });
        Ok(Self {
            tangent: tangent.transpose()?,
            value,
        })
    }

    /// x·(1 + scale) + shift, both (rows, width).
    fn modulated(self, shift: &Tensor, scale: &Tensor) -> Result<Self> {
        let moved = self.scaled(&(scale + 1.0)?)?;
        Ok(Self {
            value: (moved.value + shift)?,
            tangent: moved.tangent,
        })
    }

    /// x·scale, which is (rows, width).
    fn scaled(self, scale: &Tensor) -> Result<Self> {
        let tangent = self
            .tangent
            .map(|tangent| tangent.broadcast_mul(&scale.unsqueeze(1)?));
        Ok(Self {
            value: (self.value * scale)?,
            tangent: tangent.transpose()?,
        })
    }

    fn silu(self) -> Result<Self> {
        let Some(tangent) = self.tangent else {
            return Ok(Self {
                value: self.value.silu()?,
                tangent: None,
            });
        };
        let sigmoid = candle_nn::ops::sigmoid(&self.value)?;
        let value = (&self.value * &sigmoid)?;
        // The derivative: sigmoid + silu·(1 − sigmoid).
        let slope = (&sigmoid + (&value * sigmoid.affine(-1.0, 1.0)?)?)?;
        Ok(Self {
            value,
            tangent: Some(tangent.broadcast_mul(&slope.unsqueeze(1)?)?),
        })
    }

    fn plus(self, other: Self) -> Result<Self> {
        let tangent = match (self.tangent, other.tangent) {
            (Some(a), Some(b)) => Some((a + b)?),
            _ => None,
        };
        Ok(Self {
            value: (self.value + other.value)?,
            tangent,
        })
    }
}

fn apply(x: &Tensor, layer: &Dense) -> Result<Tensor> {
    dense(x, &layer.0, &layer.1, Activation::None)
}

/// Returns one angle as a tensor of one row.
pub(super) fn angle(value: f64, dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(Tensor::new(&[value as f32], device)?.to_dtype(dtype)?)
}
