//! The affine coupling layer of a flow as one operation: four networks, two half-steps, computed
//! on blocks of rows.
//!
//! As a composition of candle's operations, a coupling layer takes about sixty small operations.
//! Each of them starts threads and passes over memory separately, and candle's matrix products
//! for the gradient of a weight copy their transposed arguments. Here a block of rows passes
//! through the whole coupling while it is in a core's cache. The blocks, and the networks s and t
//! of a half-step, run in parallel. Within a block the layout is feature-major: the values of one
//! feature for all rows are contiguous. A product with a weight is then fast for few rows as
//! well; it only waits for the weight to be read from memory. Sums never depend on the number of
//! threads.
//!
//! This file has the sizes ([`Plan`]) and [`coupling()`], which applies a layer. `block` has the
//! layout of a block of rows, `net` the networks s and t, `half_step` a half-step on a block (values
//! and log-determinant) and its gradient, `op` the layer as an operation of candle, and `reversed`
//! its input and gradients from its result. The same functions for CUDA devices are in
//! [`gpu`](crate::gpu).

mod block;
mod half_step;
mod net;
mod op;
mod reversed;

pub use reversed::{Reversed, reverse};

use crate::gradients::stand;
use crate::{Error, Result, repeated};
use candle_core::Tensor;
use op::Coupling;
use std::sync::Mutex;

/// The slope of the leaky ReLU between the dense layers of the networks.
pub const SLOPE: f64 = 0.01;

/// Maximum number of rows in a block. The activations of a layer then fit in a core's cache, and
/// the matrix products are close to their full speed.
const ROWS: usize = 128;

/// The dense layers of a network: weight (outputs, inputs) and bias (outputs,).
pub type Layers = Vec<(Tensor, Tensor)>;

/// The layers of the networks s and t of both half-steps: s₀, t₀, s₁, t₁.
pub type Nets = [Layers; 4];

/// Returns all parameters of the networks, in the order of their gradients.
pub fn parameters(nets: &Nets) -> Vec<Tensor> {
    let layers = nets.iter().flatten();
    layers.flat_map(|(w, b)| [w.clone(), b.clone()]).collect()
}

/// The sizes of a coupling layer.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of elements of the code.
    pub code: usize,
    /// Number of elements of the first half of the code.
    pub first: usize,
    /// Number of elements of the condition.
    pub condition: usize,
    /// Bound of the log-scale of a half-step: s is clamp·tanh(net/clamp).
    pub clamp: f64,
}

impl Plan {
    /// Returns the ranges in (a, b) of the half that half-step `i` reads, and of the half that it
    /// changes.
    fn halves(&self, i: usize) -> [std::ops::Range<usize>; 2] {
        let (a, b) = (0..self.first, self.first..self.code);
        if i == 0 { [a, b] } else { [b, a] }
    }

    /// Returns the row ranges of the blocks that a batch is split into. They depend only on the
    /// batch size.
    fn blocks(batch: usize) -> Vec<std::ops::Range<usize>> {
        let count = batch.div_ceil(ROWS).max(1);
        (0..count)
            .map(|i| batch * i / count..batch * (i + 1) / count)
            .collect()
    }
}

/// The direction of a coupling layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    /// From x to v, with the log-determinant.
    Forward,
    /// From v to x.
    Inverse,
}

/// Applies the double affine coupling layer on the CPU (f32 or f64) as one operation with a
/// gradient.
///
/// `x` has shape (batch, code) and `condition` (batch / `share`, condition); the caller checks
/// both, and the widths of `nets` must match. Forward returns (batch, code + 1): v, and the
/// log-determinant as the last element of each row. Inverse returns (batch, code).
///
/// Each row of the condition belongs to `share` consecutive rows of x. Without a gradient its
/// part of the first layers is computed once; with a gradient the condition is repeated for each
/// row.
///
/// # Errors
/// [`Error::Shape`] if the dtypes of x, condition and weights differ.
pub fn coupling(
    x: &Tensor,
    condition: &Tensor,
    nets: &Nets,
    plan: Plan,
    share: usize,
    direction: Direction,
) -> Result<Tensor> {
    let dtype = x.dtype();
    let layers = nets.iter().flatten();
    if let Some((weight, _)) = layers.clone().find(|(w, _)| w.dtype() != dtype) {
        return Err(Error::shape(format!(
            "expected weights and code of the same dtype, found weights of {:?} and a code of {dtype:?}: convert one of them with `to_dtype`",
            weight.dtype()
        )));
    }
    if condition.dtype() != dtype {
        return Err(Error::shape(format!(
            "expected condition and code of the same dtype, found a condition of {:?} and a code of {dtype:?}: convert one of them with `to_dtype`",
            condition.dtype()
        )));
    }
    let trained = layers.clone().any(|(w, b)| w.track_op() || b.track_op());
    let (stand, slot) = if trained {
        let (stand, slot) = stand(&parameters(nets), x)?;
        (stand, Some(slot))
    } else {
        (Tensor::zeros((), dtype, x.device())?, None)
    };
    let graph = trained || x.track_op() || condition.track_op();
    let op = Coupling {
        plan,
        inverse: direction == Direction::Inverse,
        share: if graph { 1 } else { share },
        nets: nets.clone(),
        tape: graph.then(Mutex::default),
        slot,
    };
    let condition = match graph {
        true => repeated(condition, share)?,
        false => condition.clone(),
    };
    let (x, condition) = (x.contiguous()?, condition.contiguous()?);
    Ok(x.apply_op3(&condition, &stand, op)?)
}
