//! The network of a [`FlowMatching`](super::FlowMatching): a residual MLP with adaptive layer norms,
//! whose divergence is computed exactly.

use super::layer::dense_parameters;
use crate::Outline;
use crate::Result;
use crate::ops::{Activation, Init, Scope, adaptive_layer_norm, dense};
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
/// [arXiv 2212.09748](https://arxiv.org/abs/2212.09748)). Unlike there, these modulations are the
/// sum of a part that depends on time and one that depends on z, so that the part of z is computed
/// once for all times. Before training the velocity is 0.
#[derive(Clone)]
pub(super) struct Velocity {
    dim: usize,
    hidden: usize,
    input: Dense,
    /// Two layers from the sines and cosines of the time.
    time: [Dense; 2],
    /// Shifts, scales and gates of all blocks and of the output, from time or z.
    modulation: Dense,
    blocks: Vec<[Dense; 2]>,
    output: Dense,
}

/// The shifts, scales and gates of a batch, (parts, rows, hidden), and what the time adds to them,
/// (parts, 1, hidden), if it is not contained in them.
pub(super) struct Modulations {
    pub(super) of_z: Tensor,
    pub(super) added: Option<Tensor>,
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
            modulation: zero(hidden, modulations, &scope.pp("modulation"))?,
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
            modulation: both(&self.modulation),
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

    /// Returns the features of z, (rows, hidden), from its embedding (rows, hidden).
    pub(super) fn of_z(&self, embedding: &Tensor) -> Result<Tensor> {
        Ok(embedding.silu()?)
    }

    /// Returns the features of the time, (times, hidden). `angle` is (times,).
    pub(super) fn of_time(&self, angle: &Tensor) -> Result<Tensor> {
        let harmonics: Vec<f32> = (1..=FREQUENCIES).map(|k| k as f32).collect();
        let harmonics = Tensor::from_vec(harmonics, (1, FREQUENCIES), angle.device())?;
        let phases = angle
            .unsqueeze(1)?
            .broadcast_mul(&harmonics.to_dtype(angle.dtype())?)?;
        let waves = Tensor::cat(&[phases.sin()?, phases.cos()?], 1)?;
        let hidden = apply(&waves, &self.time[0])?.silu()?;
        Ok(apply(&hidden, &self.time[1])?.silu()?)
    }

    /// Returns the modulations (parts, rows, hidden) of features (rows, hidden): those of z plus
    /// those of the time, or those of z alone, to which [`Velocity::added`] is added.
    pub(super) fn modulations(&self, features: &Tensor) -> Result<Tensor> {
        self.parts(apply(features, &self.modulation)?)
    }

    /// Returns what a time adds to the modulations of z, (parts, 1, hidden).
    pub(super) fn added(&self, of_time: &Tensor) -> Result<Tensor> {
        let (weight, bias) = &self.modulation;
        self.parts(dense(
            of_time,
            weight,
            &bias.zeros_like()?,
            Activation::None,
        )?)
    }

    /// (rows, parts·hidden) as (parts, rows, hidden), in which each part is contiguous.
    fn parts(&self, all: Tensor) -> Result<Tensor> {
        let rows = all.dim(0)?;
        let parts = all.reshape((rows, all.dim(1)? / self.hidden, self.hidden))?;
        Ok(parts.transpose(0, 1)?.contiguous()?)
    }

    /// Returns u (rows, dim) at x (rows, dim).
    pub(super) fn at(&self, x: &Tensor, modulations: &Modulations) -> Result<Tensor> {
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
        modulations: &Modulations,
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
    fn last(&self, input: Dual, modulations: &Modulations) -> Result<Dual> {
        let mut h = input;
        for (i, [first, second]) in self.blocks.iter().enumerate() {
            let inner = modulations
                .normalized(&h, 3 * i)?
                .dense(first)?
                .silu()?
                .dense(second)?
                .scaled(&modulations.part(3 * i + 2)?)?;
            h = h.plus(inner)?;
        }
        modulations.normalized(&h, 3 * self.blocks.len())
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
                one("modulation", &self.modulation),
            ])
            .with_parts(self.blocks.iter().map(block))
            .with_parts([one("output", &self.output)])
    }
}

impl Modulations {
    /// One part, (rows, hidden).
    fn part(&self, i: usize) -> Result<Tensor> {
        let of_z = self.of_z.get(i)?;
        Ok(match &self.added {
            Some(added) => of_z.broadcast_add(&added.get(i)?)?,
            None => of_z,
        })
    }

    /// Applies a layer norm with the shift of part `i` and the scale of the next one.
    fn normalized(&self, h: &Dual, i: usize) -> Result<Dual> {
        if let (Some(added), None) = (&self.added, &h.tangent) {
            let (of_z, added) = (self.of_z.narrow(0, i, 2)?, added.narrow(0, i, 2)?);
            return Ok(Dual {
                value: adaptive_layer_norm(&h.value, &of_z, &added, EPS)?,
                tangent: None,
            });
        }
        h.normalized()?
            .modulated(&self.part(i)?, &self.part(i + 1)?)
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
