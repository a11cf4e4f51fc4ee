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
//! `half_step` computes values and log-determinant, `half_step_backward` the gradients. The same
//! functions for CUDA devices are in [`gpu`](crate::gpu).

use super::dense::{Real, numbers};
use super::gradients::{GradientSlot, stand, through_candle};
use crate::kernels::product::{Matrix, product, product_new, product_shared};
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Storage, Tensor, bail};
use rayon::prelude::*;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

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

/// The layers of a network as slices: (weight, bias).
type Net<'a, T> = Vec<(&'a [T], &'a [T])>;

/// Rows of a batch in feature-major order: feature f of row r is at f·rows + r.
struct Block<T> {
    values: Vec<T>,
    rows: usize,
}

impl<T: Real> Block<T> {
    /// Creates a block from rows of `width` elements. The features start at index `from` and wrap
    /// around.
    fn gather(source: &[T], width: usize, from: usize) -> Self {
        let rows = source.len().checked_div(width).unwrap_or(0);
        let mut values = Vec::with_capacity(source.len());
        for f in (from..width).chain(0..from) {
            values.extend(source.iter().skip(f).step_by(width));
        }
        Self { values, rows }
    }

    /// Writes the block back as rows, which are `pitch` apart in `target`: the reverse of
    /// [`Block::gather`].
    fn scatter(&self, target: &mut [T], width: usize, from: usize, pitch: usize) {
        let order = (from..width).chain(0..from);
        for (f, line) in order.zip(self.values.chunks_exact(self.rows)) {
            let places = target.iter_mut().skip(f).step_by(pitch);
            places.zip(line).for_each(|(t, &x)| *t = x);
        }
    }

    fn features(&self, range: std::ops::Range<usize>) -> &[T] {
        &self.values[range.start * self.rows..range.end * self.rows]
    }

    fn features_mut(&mut self, range: std::ops::Range<usize>) -> &mut [T] {
        &mut self.values[range.start * self.rows..range.end * self.rows]
    }
}

/// The condition as the networks of a half-step receive it, in addition to the half.
enum BlockCondition<'a, T> {
    /// The condition of each row.
    Each(&'a [T]),
    /// The contribution of the condition, including the bias, to the results of the first layers
    /// of s and of t. It is computed once for all rows that have the same condition.
    Shared([&'a [T]; 2]),
}

/// The values of one half-step on a block of rows that the backward pass needs.
struct Step<T> {
    /// The input of the networks: half and condition.
    input: Vec<T>,
    /// The results of the hidden layers of s and of t.
    hidden: [Vec<Vec<T>>; 2],
    s: Vec<T>,
    /// `scale` is ∂(changed half)/∂(the same half before the step),
    /// `moved` is ∂(changed half)/∂s.
    scale: Vec<T>,
    moved: Vec<T>,
}

/// The gradients of the results of the layers of s and of t, before the activation.
type Before<T> = [Vec<Vec<T>>; 2];

/// Returns a matrix view of rows of `width` elements.
fn row_major<T>(values: &[T], width: usize) -> Matrix<'_, T> {
    Matrix {
        values,
        row: width,
        column: 1,
    }
}

/// Returns the transposed view of rows of `width` elements.
fn transposed<T>(values: &[T], width: usize) -> Matrix<'_, T> {
    Matrix {
        values,
        row: 1,
        column: width,
    }
}

/// Returns each bias repeated for every row, (outputs, rows).
fn biases<T: Copy>(bias: &[T], rows: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(bias.len() * rows);
    bias.iter().for_each(|&b| out.resize(out.len() + rows, b));
    out
}

fn leaky<T: Real>(values: &mut [T]) {
    let slope = T::from_f64(SLOPE);
    for x in values {
        *x *= if *x > T::zero() { T::ONE } else { slope };
    }
}

/// Returns the results of the hidden layers and of the last layer. `start` is the result of the
/// first layer before the contribution of `net_input` is added: the biases, or the biases and the
/// contribution of the condition.
fn net_forward<T: Real>(
    net: &Net<T>,
    net_input: &[T],
    mut start: Vec<T>,
    rows: usize,
) -> (Vec<Vec<T>>, Vec<T>) {
    let mut results: Vec<Vec<T>> = Vec::with_capacity(net.len());
    for (l, (weight, bias)) in net.iter().enumerate() {
        let input = results.last().map_or(net_input, |h| h.as_slice());
        let (width, outputs) = (weight.len() / bias.len(), bias.len());
        let mut out = if l == 0 {
            std::mem::take(&mut start)
        } else {
            biases(bias, rows)
        };
        product_shared(
            (outputs, rows, input.len() / rows),
            row_major(weight, width),
            row_major(input, rows),
            &mut out,
            true,
        );
        if l + 1 < net.len() {
            leaky(&mut out);
        }
        results.push(out);
    }
    let last = results.pop().unwrap_or_default();
    (results, last)
}

/// Computes, from the gradient of a network's result, the gradients of every layer before its
/// activation, and that of the network's input.
fn net_backward<T: Real>(
    net: &Net<T>,
    hidden: &[Vec<T>],
    gradient: Vec<T>,
    rows: usize,
) -> (Vec<Vec<T>>, Vec<T>) {
    let slope = T::from_f64(SLOPE);
    let mut before = vec![gradient];
    for (l, (weight, bias)) in net.iter().enumerate().rev() {
        let (inputs, outputs) = (weight.len() / bias.len(), bias.len());
        let gradient = &before[before.len() - 1];
        let mut to_input = vec![T::zero(); inputs * rows];
        product_shared(
            (inputs, rows, outputs),
            transposed(weight, inputs),
            row_major(gradient, rows),
            &mut to_input,
            false,
        );
        if l > 0 {
            for (g, h) in to_input.iter_mut().zip(&hidden[l - 1]) {
                *g *= if *h > T::zero() { T::ONE } else { slope };
            }
        }
        before.push(to_input);
    }
    let to_input = before.pop().unwrap_or_default();
    before.reverse();
    (before, to_input)
}

/// The direction of a half-step, and the pass that its [`Step`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pass {
    /// Forward, with the `Step` of the forward pass.
    Forward,
    /// Inverse, with the `Step` of the inverse pass.
    Inverse,
    /// Inverse, with the `Step` that the forward pass had: the networks have the same input.
    Undo,
}

/// Applies one half-step to a block of rows (a, b) and adds s to the log-determinants.
fn half_step<T: Real>(
    plan: &Plan,
    i: usize,
    pass: Pass,
    nets: &[Net<T>; 4],
    work: &mut Block<T>,
    condition: &BlockCondition<T>,
    logdet: &mut [T],
) -> Step<T> {
    let rows = work.rows;
    let [reads, changes] = plan.halves(i);
    let half = work.features(reads);
    let (input, starts) = match condition {
        BlockCondition::Each(c) => (
            [half, c].concat(),
            [0, 1].map(|n| biases(nets[2 * i + n][0].1, rows)),
        ),
        BlockCondition::Shared(shared) => (half.to_vec(), shared.map(<[T]>::to_vec)),
    };
    let [start_s, start_t] = starts;
    let ((hidden_s, mut s), (hidden_t, t)) = rayon::join(
        || net_forward(&nets[2 * i], &input, start_s, rows),
        || net_forward(&nets[2 * i + 1], &input, start_t, rows),
    );
    let mut scale = Vec::with_capacity(s.len());
    let mut moved = Vec::with_capacity(s.len());
    let half = work.features_mut(changes);
    let (clamp, within) = (T::from_f64(plan.clamp), T::from_f64(plan.clamp.recip()));
    for ((line, s), t) in half
        .chunks_exact_mut(rows)
        .zip(s.chunks_exact_mut(rows))
        .zip(t.chunks_exact(rows))
    {
        for (((x, s), &t), logdet) in line.iter_mut().zip(s).zip(t).zip(logdet.iter_mut()) {
            *s = clamp * (*s * within).tanh();
            *logdet += *s;
            match pass {
                Pass::Forward => {
                    scale.push(s.exp());
                    let by = *x * s.exp();
                    moved.push(by);
                    *x = by + t;
                }
                Pass::Inverse => {
                    let by = (T::zero() - *s).exp();
                    *x = (*x - t) * by;
                    scale.push(by);
                    moved.push(T::zero() - *x);
                }
                Pass::Undo => {
                    let by = *x - t;
                    *x = by * (T::zero() - *s).exp();
                    scale.push(s.exp());
                    moved.push(by);
                }
            }
        }
    }
    Step {
        input,
        hidden: [hidden_s, hidden_t],
        s,
        scale,
        moved,
    }
}

/// Propagates the gradients of a block of rows (a, b) and of their condition back through
/// half-step `i`.
#[allow(clippy::too_many_arguments)]
fn half_step_backward<T: Real>(
    plan: &Plan,
    i: usize,
    inverse: bool,
    nets: &[Net<T>; 4],
    step: &Step<T>,
    gradient: &mut Block<T>,
    to_condition: &mut [T],
    to_logdet: &[T],
) -> Before<T> {
    let rows = gradient.rows;
    let [reads, changes] = plan.halves(i);
    let width = changes.len();
    let mut to_s = Vec::with_capacity(rows * width);
    let mut to_t = Vec::with_capacity(rows * width);
    let within = T::from_f64(plan.clamp.recip());
    let half = gradient.features_mut(changes);
    for (k, line) in half.chunks_exact_mut(rows).enumerate() {
        for ((x, &to_logdet), at) in line.iter_mut().zip(to_logdet).zip(k * rows..) {
            let (g, u) = (*x, step.s[at] * within);
            to_s.push((g * step.moved[at] + to_logdet) * (T::ONE - u * u));
            *x = g * step.scale[at];
            to_t.push(if inverse { T::zero() - *x } else { g });
        }
    }
    let ((before_s, input_s), (before_t, input_t)) = rayon::join(
        || net_backward(&nets[2 * i], &step.hidden[0], to_s, rows),
        || net_backward(&nets[2 * i + 1], &step.hidden[1], to_t, rows),
    );
    let to = gradient.features_mut(reads).iter_mut();
    let to = to.chain(to_condition.iter_mut());
    for ((to, &s), &t) in to.zip(&input_s).zip(&input_t) {
        *to += s + t;
    }
    [before_s, before_t]
}

/// The values that the backward pass needs, per block of rows: both half-steps, that of s₀ and t₀
/// first.
type Tape<T> = Vec<[Step<T>; 2]>;

/// Calls `f` with the elements of all layers.
fn with_nets<T: Real, R>(
    nets: &Nets,
    f: impl FnOnce(&[Net<T>; 4]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let layers = nets.iter().flatten();
    let guards: Vec<_> = layers
        .flat_map(|(w, b)| [w.storage_and_layout(), b.storage_and_layout()])
        .collect();
    let mut views = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        match &**storage {
            Storage::Cpu(s) => views.push(numbers::<T>(s, layout)?),
            _ => bail!("coupling: expected weights on the CPU"),
        }
    }
    let mut pairs = views.chunks_exact(2).map(|p| (p[0], p[1]));
    let nets = [0, 1, 2, 3].map(|i| pairs.by_ref().take(nets[i].len()).collect());
    f(&nets)
}

/// Calls `f` with the elements of a contiguous tensor on the CPU.
fn with_numbers<T: Real, R>(
    x: &Tensor,
    f: impl FnOnce(&[T]) -> candle_core::Result<R>,
) -> candle_core::Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(s) => f(numbers::<T>(s, layout)?),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// Computes the gradients of a weight and of its bias from the inputs and gradients of all
/// blocks: one product over the whole batch, added block by block.
fn layer_gradient<'a, T: Real + 'a>(
    (outputs, inputs): (usize, usize),
    blocks: impl Iterator<Item = (&'a [T], &'a [T])>,
) -> [Vec<T>; 2] {
    let mut to_weight = Vec::new();
    let mut to_bias = vec![T::zero(); outputs];
    for (input, gradient) in blocks {
        let rows = gradient.len() / outputs;
        let (a, b) = (row_major(gradient, rows), transposed(input, rows));
        let sizes = (outputs, inputs, rows);
        if to_weight.is_empty() {
            to_weight = product_new(sizes, a, b);
        } else {
            product(sizes, a, b, &mut to_weight, inputs, true);
        }
        for (b, line) in to_bias.iter_mut().zip(gradient.chunks_exact(rows)) {
            line.iter().for_each(|&g| *b += g);
        }
    }
    [to_weight, to_bias]
}

/// Computes the gradients of all layers, in the order of [`parameters`]; the layers run in
/// parallel.
fn layer_gradients<T: Real>(
    nets: &Nets,
    tape: &[[Step<T>; 2]],
    before: &[[Before<T>; 2]],
) -> candle_core::Result<Vec<Tensor>> {
    let one = |&(net, layer): &(usize, usize)| -> candle_core::Result<[Tensor; 2]> {
        let (weight, bias) = &nets[net][layer];
        let blocks = tape.iter().zip(before).map(|(steps, before)| {
            let step = &steps[net / 2];
            let input = match layer {
                0 => &step.input,
                l => &step.hidden[net % 2][l - 1],
            };
            let gradient = &before[net / 2][net % 2][layer];
            (input.as_slice(), gradient.as_slice())
        });
        let [to_weight, to_bias] = layer_gradient(weight.dims2()?, blocks);
        Ok([
            Tensor::from_vec(to_weight, weight.shape(), weight.device())?,
            Tensor::from_vec(to_bias, bias.shape(), bias.device())?,
        ])
    };
    let places = nets.iter().enumerate();
    let places = places.flat_map(|(n, layers)| (0..layers.len()).map(move |l| (n, l)));
    let places: Vec<_> = places.collect();
    // One layer per task, because the layers differ in size.
    let all = places.par_iter().with_max_len(1).map(one);
    let all: Vec<_> = all.collect::<candle_core::Result<_>>()?;
    Ok(all.into_iter().flatten().collect())
}

/// Splits the rows of a gradient (that of v, then that of the log-determinant as the last element
/// of each row) into a block of (a, b), the gradients of the log-determinants, and the number of
/// rows.
fn gradient_block<T: Real>(rows: &[T], code: usize, from: usize) -> (Block<T>, Vec<T>, usize) {
    let width = code + 1;
    let count = rows.len() / width;
    let mut values = Vec::with_capacity(count * code);
    for f in (from..code).chain(0..from) {
        values.extend(rows.iter().skip(f).step_by(width));
    }
    let to_logdet = rows.iter().skip(code).step_by(width).copied().collect();
    let block = Block {
        values,
        rows: count,
    };
    (block, to_logdet, count)
}

struct Coupling {
    plan: Plan,
    inverse: bool,
    /// Number of rows that share one row of the condition.
    share: usize,
    nets: Nets,
    /// Filled by the forward pass if a gradient may be needed.
    tape: Option<Mutex<Option<Box<dyn Any + Send>>>>,
    /// Present if a parameter is trained.
    slot: Option<Arc<GradientSlot>>,
}

impl Coupling {
    fn forward<T: Real>(
        &self,
        x: &[T],
        condition: &[T],
        batch: usize,
    ) -> candle_core::Result<(Vec<T>, Shape)> {
        let plan = &self.plan;
        let code = plan.code;
        // v has the changed halves in the opposite order: b first.
        let (from, to) = match self.inverse {
            false => (0, code - plan.first),
            true => (code - plan.first, 0),
        };
        // In the forward direction, a row of the result is v and its log-determinant.
        let width = if self.inverse { code } else { code + 1 };
        let run = |rows: std::ops::Range<usize>, nets: &[Net<T>; 4], shared: &[Vec<T>]| {
            let mut work = Block::gather(&x[rows.start * code..rows.end * code], code, from);
            let mut logdet = vec![T::zero(); rows.len()];
            let mut own = Vec::new();
            let mut run_step = |i: usize| {
                let block_condition;
                let spread: Vec<Vec<T>>;
                if shared.is_empty() {
                    if own.is_empty() {
                        let c = &condition[rows.start * plan.condition..rows.end * plan.condition];
                        own = Block::gather(c, plan.condition, 0).values;
                    }
                    block_condition = BlockCondition::Each(&own);
                } else {
                    spread = (2 * i..2 * i + 2)
                        .map(|n| self.spread(&shared[n], nets[n][0].1.len(), rows.clone()))
                        .collect();
                    block_condition = BlockCondition::Shared([&spread[0], &spread[1]]);
                }
                let pass = if self.inverse {
                    Pass::Inverse
                } else {
                    Pass::Forward
                };
                half_step(
                    plan,
                    i,
                    pass,
                    nets,
                    &mut work,
                    &block_condition,
                    &mut logdet,
                )
            };
            let steps = if self.inverse {
                let one = run_step(1);
                [run_step(0), one]
            } else {
                let zero = run_step(0);
                [zero, run_step(1)]
            };
            let mut out = vec![T::zero(); rows.len() * width];
            work.scatter(&mut out, code, to, width);
            if !self.inverse {
                let places = out.iter_mut().skip(code).step_by(width);
                places.zip(&logdet).for_each(|(place, &l)| *place = l);
            }
            (out, self.tape.is_some().then_some(steps))
        };
        let blocks = with_nets(&self.nets, |nets| {
            let shared = if self.share > 1 {
                self.shared(nets, condition)
            } else {
                Vec::new()
            };
            let blocks = Plan::blocks(batch).into_par_iter();
            Ok(blocks
                .map(|rows| run(rows, nets, &shared))
                .collect::<Vec<_>>())
        })?;
        let mut out = Vec::with_capacity(batch * width);
        let mut tape: Tape<T> = Vec::with_capacity(blocks.len());
        for (rows, steps) in blocks {
            out.extend_from_slice(&rows);
            tape.extend(steps);
        }
        if let Some(stored) = &self.tape {
            *stored.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tape));
        }
        Ok((out, (batch, width).into()))
    }

    /// Returns the contribution of every condition, including the bias, to the result of the
    /// first layer of each network: (outputs, conditions).
    fn shared<T: Real>(&self, nets: &[Net<T>; 4], condition: &[T]) -> Vec<Vec<T>> {
        let width = self.plan.condition;
        let count = condition.len() / width.max(1);
        let nets = nets.par_iter().enumerate().map(|(n, net)| {
            let (weight, bias) = net[0];
            let half = self.plan.halves(n / 2)[0].len();
            let mut out = biases(bias, count);
            if width > 0 {
                let right = row_major(&weight[half..], half + width);
                let condition = transposed(condition, width);
                product(
                    (bias.len(), count, width),
                    right,
                    condition,
                    &mut out,
                    count,
                    true,
                );
            }
            out
        });
        nets.collect()
    }

    /// Selects from a result of [`Coupling::shared`] the columns of these rows.
    fn spread<T: Real>(
        &self,
        shared: &[T],
        outputs: usize,
        rows: std::ops::Range<usize>,
    ) -> Vec<T> {
        let count = shared.len() / outputs.max(1);
        let mut out = Vec::with_capacity(outputs * rows.len());
        for line in shared.chunks_exact(count.max(1)) {
            out.extend(rows.clone().map(|r| line[r / self.share]));
        }
        out
    }

    /// Returns the gradients of x and of the condition, and stores those of the layers in the
    /// slot.
    fn backward<T: Real>(&self, gradient: &Tensor) -> candle_core::Result<[Tensor; 2]> {
        let plan = &self.plan;
        let (code, condition) = (plan.code, plan.condition);
        let (batch, width) = gradient.dims2()?;
        let stored = self.tape.as_ref();
        let stored = stored.map(|t| t.lock().unwrap_or_else(PoisonError::into_inner));
        let tape = stored.as_ref().and_then(|t| t.as_ref());
        let Some(tape) = tape.and_then(|t| t.downcast_ref::<Tape<T>>()) else {
            bail!("the backward pass of a coupling ran without its forward pass")
        };
        let run = |rows: std::ops::Range<usize>,
                   gradient: &[T],
                   steps: &[Step<T>; 2],
                   nets: &[Net<T>; 4]| {
            let part = &gradient[rows.start * width..rows.end * width];
            let (mut to_x, to_logdet) = if self.inverse {
                (Block::gather(part, code, 0), vec![T::zero(); rows.len()])
            } else {
                let (block, to_logdet, _) = gradient_block(part, code, code - plan.first);
                (block, to_logdet)
            };
            let mut to_condition = vec![T::zero(); rows.len() * condition];
            let mut run_step = |i: usize| {
                half_step_backward(
                    plan,
                    i,
                    self.inverse,
                    nets,
                    &steps[i],
                    &mut to_x,
                    &mut to_condition,
                    &to_logdet,
                )
            };
            let before = if self.inverse {
                let zero = run_step(0);
                [zero, run_step(1)]
            } else {
                let one = run_step(1);
                [run_step(0), one]
            };
            (to_x, to_condition, before)
        };
        let blocks = with_numbers(gradient, |gradient| {
            with_nets(&self.nets, |nets| {
                let blocks = Plan::blocks(batch).into_par_iter().zip(tape);
                Ok(blocks
                    .map(|(rows, steps)| run(rows, gradient, steps, nets))
                    .collect::<Vec<_>>())
            })
        })?;
        let from = if self.inverse { code - plan.first } else { 0 };
        let (to_x, to_condition, before) = gathered(plan, blocks, from);
        if let Some(slot) = &self.slot {
            let gradients = layer_gradients(&self.nets, tape, &before)?;
            slot.leave(&parameters(&self.nets), gradients)
                .map_err(through_candle)?;
        }
        let device = candle_core::Device::Cpu;
        Ok([
            Tensor::from_vec(to_x, (batch, code), &device)?,
            Tensor::from_vec(to_condition, (batch, condition), &device)?,
        ])
    }
}

/// Converts blocks of gradients back to rows: those of x, whose features start at index `from`,
/// and those of the condition. The third items of the blocks are returned unchanged.
fn gathered<T: Real, B>(
    plan: &Plan,
    blocks: Vec<(Block<T>, Vec<T>, B)>,
    from: usize,
) -> (Vec<T>, Vec<T>, Vec<B>) {
    let batch: usize = blocks.iter().map(|b| b.0.rows).sum();
    let mut to_x = vec![T::zero(); batch * plan.code];
    let mut to_condition = vec![T::zero(); batch * plan.condition];
    let mut rest = Vec::with_capacity(blocks.len());
    let mut start = 0;
    for (x, c, b) in blocks {
        let rows = x.rows;
        x.scatter(&mut to_x[start * plan.code..], plan.code, from, plan.code);
        let c = Block { values: c, rows };
        let place = &mut to_condition[start * plan.condition..];
        c.scatter(place, plan.condition, 0, plan.condition.max(1));
        start += rows;
        rest.push(b);
    }
    (to_x, to_condition, rest)
}

impl CustomOp3 for Coupling {
    fn name(&self) -> &'static str {
        "coupling"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        condition: &CpuStorage,
        cl: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, _) = xl.shape().dims2()?;
        match x {
            CpuStorage::F32(_) => {
                let (out, shape) =
                    self.forward::<f32>(numbers(x, xl)?, numbers(condition, cl)?, batch)?;
                Ok((CpuStorage::F32(out), shape))
            }
            CpuStorage::F64(_) => {
                let (out, shape) =
                    self.forward::<f64>(numbers(x, xl)?, numbers(condition, cl)?, batch)?;
                Ok((CpuStorage::F64(out), shape))
            }
            other => bail!("coupling: no kernel for {:?}", other.dtype()),
        }
    }

    fn bwd(
        &self,
        x: &Tensor,
        condition: &Tensor,
        stand: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let [to_x, to_condition] = match x.dtype() {
            DType::F64 => self.backward::<f64>(&gradient)?,
            _ => self.backward::<f32>(&gradient)?,
        };
        Ok((
            x.track_op().then_some(to_x),
            condition.track_op().then_some(to_condition),
            // This gradient is needed only so that candle visits the parameters behind the
            // placeholder.
            stand.track_op().then(|| stand.zeros_like()).transpose()?,
        ))
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
        true => super::dense::repeated(condition, share)?,
        false => condition.clone(),
    };
    let (x, condition) = (x.contiguous()?, condition.contiguous()?);
    Ok(x.apply_op3(&condition, &stand, op)?)
}

/// The reconstructed input of a coupling layer and the gradients; see [`reverse`].
pub struct Reversed {
    /// The input, (batch, code).
    pub x: Tensor,
    /// The gradient of the input, (batch, code).
    pub to_x: Tensor,
    /// The gradient of the condition, (batch, condition).
    pub to_condition: Tensor,
    /// The gradients of the parameters, in the order of [`parameters`].
    pub to_parameters: Vec<Tensor>,
}

/// Reconstructs the input of a coupling layer from its result `v` (batch, code) and computes the
/// gradients.
///
/// `gradient` contains the gradients of v and of the log-determinant, (batch, code + 1). The
/// networks run once more; this gives both x and the values that the gradients need, so nothing
/// of the forward pass has to be stored. The results are not part of a graph.
pub fn reverse(
    v: &Tensor,
    condition: &Tensor,
    nets: &Nets,
    plan: Plan,
    gradient: &Tensor,
) -> Result<Reversed> {
    let (v, condition) = (v.contiguous()?, condition.contiguous()?);
    let gradient = gradient.contiguous()?;
    Ok(match v.dtype() {
        DType::F64 => reverse_in::<f64>(&v, &condition, nets, plan, &gradient)?,
        _ => reverse_in::<f32>(&v, &condition, nets, plan, &gradient)?,
    })
}

fn reverse_in<T: Real>(
    v: &Tensor,
    condition: &Tensor,
    nets: &Nets,
    plan: Plan,
    gradient: &Tensor,
) -> candle_core::Result<Reversed> {
    let (batch, code) = v.dims2()?;
    let run = |rows: std::ops::Range<usize>, v: &[T], c: &[T], g: &[T], nets: &[Net<T>; 4]| {
        let c = &c[rows.start * plan.condition..rows.end * plan.condition];
        let c = Block::gather(c, plan.condition, 0).values;
        let mut work = Block::gather(
            &v[rows.start * code..rows.end * code],
            code,
            code - plan.first,
        );
        let part = &g[rows.start * (code + 1)..rows.end * (code + 1)];
        let (mut to_x, to_logdet, count) = gradient_block(part, code, code - plan.first);
        let mut to_condition = vec![T::zero(); count * plan.condition];
        let mut unused = vec![T::zero(); count];
        let mut run_step = |i: usize| {
            let condition = BlockCondition::Each(&c);
            let step = half_step(
                &plan,
                i,
                Pass::Undo,
                nets,
                &mut work,
                &condition,
                &mut unused,
            );
            let before = half_step_backward(
                &plan,
                i,
                false,
                nets,
                &step,
                &mut to_x,
                &mut to_condition,
                &to_logdet,
            );
            (step, before)
        };
        let (step1, before1) = run_step(1);
        let (step0, before0) = run_step(0);
        let rest = (work, [step0, step1], [before0, before1]);
        (to_x, to_condition, rest)
    };
    let blocks = with_numbers(v, |v| {
        with_numbers(condition, |c| {
            with_numbers(gradient, |g| {
                with_nets(nets, |nets| {
                    let blocks = Plan::blocks(batch).into_par_iter();
                    Ok(blocks
                        .map(|rows| run(rows, v, c, g, nets))
                        .collect::<Vec<_>>())
                })
            })
        })
    })?;
    let (to_x, to_condition, rest) = gathered(&plan, blocks, 0);
    let mut x = vec![T::zero(); batch * code];
    let (mut tape, mut before) = (Vec::new(), Vec::new());
    let mut start = 0;
    for (work, steps, gradients) in rest {
        work.scatter(&mut x[start * code..], code, 0, code);
        start += work.rows;
        tape.push(steps);
        before.push(gradients);
    }
    let device = candle_core::Device::Cpu;
    Ok(Reversed {
        x: Tensor::from_vec(x, (batch, code), &device)?,
        to_x: Tensor::from_vec(to_x, (batch, code), &device)?,
        to_condition: Tensor::from_vec(to_condition, (batch, plan.condition), &device)?,
        to_parameters: layer_gradients(nets, &tape, &before)?,
    })
}
