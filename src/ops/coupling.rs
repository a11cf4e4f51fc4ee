//! The affine coupling of a flow as one operation: four nets, two half-steps, one pass over blocks of rows.
//!
//! Composed of candle's operations, a coupling is some sixty small steps, each of which starts threads and
//! passes over memory for itself, and candle's matrix products for the gradient of a weight copy what they
//! transpose. Here a block of rows goes through the whole coupling while it is in a core's cache, and the
//! blocks, and the nets s and t of a half-step, run side by side. Sums never depend on the number of threads.

use super::conv::{Matrix, product};
use super::dense::{Real, numbers};
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Storage, Tensor, bail};
use rayon::prelude::*;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

/// The slope of the leaky ReLU between the dense layers of the nets.
pub(crate) const SLOPE: f64 = 0.01;

/// At most so many rows of the batch go through a coupling together: a layer's numbers fit a core's cache,
/// and the matrix products are near their full speed (64 rows took a fifth longer, packing weights twice).
const ROWS: usize = 128;

/// The dense layers of a net: weight (outputs, inputs) and bias (outputs,).
pub(crate) type Layers = Vec<(Tensor, Tensor)>;

/// The sizes and the direction of a coupling.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Numbers in the code, and in its first half.
    code: usize,
    first: usize,
    /// Numbers in the condition.
    condition: usize,
    inverse: bool,
}

impl Plan {
    /// Where the half that half-step `i` reads, and the one that it changes, lie in (a, b).
    fn halves(&self, i: usize) -> [std::ops::Range<usize>; 2] {
        let (a, b) = (0..self.first, self.first..self.code);
        if i == 0 { [a, b] } else { [b, a] }
    }

    /// The half-steps in the order of this direction.
    fn order(&self) -> [usize; 2] {
        if self.inverse { [1, 0] } else { [0, 1] }
    }

    /// The sizes of the blocks that a batch is cut into. They depend on the batch alone.
    fn blocks(batch: usize) -> Vec<std::ops::Range<usize>> {
        let count = batch.div_ceil(ROWS).max(1);
        (0..count)
            .map(|i| batch * i / count..batch * (i + 1) / count)
            .collect()
    }
}

/// A net's layers as numbers.
type Net<'a, T> = Vec<(&'a [T], &'a [T])>;

/// What the backward pass needs of one half-step for a block of rows.
struct Step<T> {
    /// What the nets saw: half and condition, row by row.
    seen: Vec<T>,
    /// The results of the hidden layers of s and of t.
    hidden: [Vec<Vec<T>>; 2],
    s: Vec<T>,
    /// ∂(changed half)/∂(half), and ∂(changed half)/∂s.
    scale: Vec<T>,
    moved: Vec<T>,
}

/// The gradients of the results of the layers of s and of t, before the nonlinearity.
type Before<T> = [Vec<Vec<T>>; 2];

fn rows_of<T: Copy>(bias: &[T], rows: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(bias.len() * rows);
    for _ in 0..rows {
        out.extend_from_slice(bias);
    }
    out
}

fn row_major<T>(values: &[T], width: usize) -> Matrix<'_, T> {
    Matrix {
        values,
        row: width,
        column: 1,
    }
}

fn transposed<T>(values: &[T], width: usize) -> Matrix<'_, T> {
    Matrix {
        values,
        row: 1,
        column: width,
    }
}

/// The results of the hidden layers, and of the last one.
fn net_forward<T: Real>(net: &Net<T>, seen: &[T], rows: usize) -> (Vec<Vec<T>>, Vec<T>) {
    let slope = T::from_f64(SLOPE);
    let mut results: Vec<Vec<T>> = Vec::with_capacity(net.len());
    for (l, (weight, bias)) in net.iter().enumerate() {
        let input = results.last().map_or(seen, |h| h.as_slice());
        let (inputs, outputs) = (input.len() / rows, bias.len());
        let mut out = rows_of(bias, rows);
        product(
            (rows, outputs, inputs),
            row_major(input, inputs),
            transposed(weight, inputs),
            &mut out,
            outputs,
            true,
        );
        if l + 1 < net.len() {
            for x in &mut out {
                *x *= if *x > T::zero() { T::ONE } else { slope };
            }
        }
        results.push(out);
    }
    let last = results.pop().unwrap_or_default();
    (results, last)
}

/// From the gradient of a net's result: those of every layer before its nonlinearity, and of what it saw.
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
        let mut to_input = vec![T::zero(); rows * inputs];
        let gradient = &before[before.len() - 1];
        product(
            (rows, inputs, outputs),
            row_major(gradient, outputs),
            row_major(weight, inputs),
            &mut to_input,
            inputs,
            false,
        );
        if l > 0 {
            for (g, h) in to_input.iter_mut().zip(&hidden[l - 1]) {
                *g *= if *h > T::zero() { T::ONE } else { slope };
            }
        }
        before.push(to_input);
    }
    let seen = before.pop().unwrap_or_default();
    before.reverse();
    (before, seen)
}

/// One half-step on a block of rows (a, b); adds s to the log-determinants.
fn step_forward<T: Real>(
    plan: &Plan,
    i: usize,
    nets: &[Net<T>; 4],
    work: &mut [T],
    condition: &[T],
    logdet: &mut [T],
) -> Step<T> {
    let (rows, code) = (logdet.len(), plan.code);
    let [reads, changes] = plan.halves(i);
    let mut seen = Vec::with_capacity(rows * (reads.len() + plan.condition));
    for r in 0..rows {
        seen.extend_from_slice(&work[r * code..][reads.clone()]);
        seen.extend_from_slice(&condition[r * plan.condition..][..plan.condition]);
    }
    let ((hidden_s, mut s), (hidden_t, t)) = rayon::join(
        || net_forward(&nets[2 * i], &seen, rows),
        || net_forward(&nets[2 * i + 1], &seen, rows),
    );
    let mut scale = vec![T::zero(); s.len()];
    let mut moved = vec![T::zero(); s.len()];
    let width = changes.len();
    for r in 0..rows {
        let at = r * width..(r + 1) * width;
        let half = &mut work[r * code..][changes.clone()];
        let (s, t) = (&mut s[at.clone()], &t[at.clone()]);
        let (scale, moved) = (&mut scale[at.clone()], &mut moved[at]);
        for k in 0..width {
            s[k] = s[k].tanh();
            logdet[r] += s[k];
            if plan.inverse {
                scale[k] = (T::zero() - s[k]).exp();
                half[k] = (half[k] - t[k]) * scale[k];
                moved[k] = T::zero() - half[k];
            } else {
                scale[k] = s[k].exp();
                moved[k] = half[k] * scale[k];
                half[k] = moved[k] + t[k];
            }
        }
    }
    Step {
        seen,
        hidden: [hidden_s, hidden_t],
        s,
        scale,
        moved,
    }
}

/// The gradient of a block of rows (a, b) and of their condition, from after half-step `i` to before it.
fn step_backward<T: Real>(
    plan: &Plan,
    i: usize,
    nets: &[Net<T>; 4],
    step: &Step<T>,
    gradient: &mut [T],
    to_condition: &mut [T],
    to_logdet: &[T],
) -> Before<T> {
    let (rows, code) = (to_logdet.len(), plan.code);
    let [reads, changes] = plan.halves(i);
    let width = changes.len();
    let mut to_s = vec![T::zero(); rows * width];
    let mut to_t = vec![T::zero(); rows * width];
    for r in 0..rows {
        let half = &mut gradient[r * code..][changes.clone()];
        for (half, at) in half.iter_mut().zip(r * width..) {
            let (g, s) = (*half, step.s[at]);
            to_s[at] = (g * step.moved[at] + to_logdet[r]) * (T::ONE - s * s);
            *half = g * step.scale[at];
            to_t[at] = if plan.inverse { T::zero() - *half } else { g };
        }
    }
    let ((before_s, seen_s), (before_t, seen_t)) = rayon::join(
        || net_backward(&nets[2 * i], &step.hidden[0], to_s, rows),
        || net_backward(&nets[2 * i + 1], &step.hidden[1], to_t, rows),
    );
    let (read, condition) = (reads.len(), plan.condition);
    for r in 0..rows {
        let row = r * (read + condition);
        let to = gradient[r * code..][reads.clone()].iter_mut();
        let to = to.chain(&mut to_condition[r * condition..][..condition]);
        for (to, k) in to.zip(row..) {
            *to += seen_s[k] + seen_t[k];
        }
    }
    [before_s, before_t]
}

/// Exchanges the halves of each row: `by` numbers go from its front to its end.
fn swap_halves<T>(rows: &mut [T], code: usize, by: usize) {
    rows.chunks_exact_mut(code)
        .for_each(|row| row.rotate_left(by));
}

/// Gradients of the layers of the four nets, s₀ t₀ s₁ t₁: weight and bias.
type LayerGradients = Vec<Vec<(Tensor, Tensor)>>;

/// Where a coupling's backward pass leaves the gradients of its layers for the [`Stand`]s. candle's
/// operations have three arguments at most, a coupling has 2 + 8·(depth + 2).
#[derive(Default)]
struct Slot(Mutex<Vec<(ThreadId, LayerGradients)>>);

impl Slot {
    fn leave(&self, gradients: LayerGradients) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each thread's backward pass takes what it left itself.
        let thread = std::thread::current().id();
        left.retain(|(t, _)| *t != thread);
        left.push((thread, gradients));
    }

    fn take(&self, net: usize, layer: usize) -> Option<(Tensor, Tensor)> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::current().id();
        let place = left.iter().position(|(t, _)| *t == thread)?;
        let gradients = left[place].1[net][layer].clone();
        // The stands are visited from the last to the first.
        if (net, layer) == (0, 0) {
            left.swap_remove(place);
        }
        Some(gradients)
    }
}

/// A 0 that stands for one layer's weight and bias, and for the stand before it, in the graph of a coupling.
struct Stand {
    slot: Arc<Slot>,
    net: usize,
    layer: usize,
}

impl CustomOp3 for Stand {
    fn name(&self) -> &'static str {
        "coupling-layer"
    }

    fn cpu_fwd(
        &self,
        before: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((before.clone(), ().into()))
    }

    fn bwd(
        &self,
        before: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some((weight, bias)) = self.slot.take(self.net, self.layer) else {
            bail!("the gradients of a coupling's layers were taken before they were there")
        };
        let before = before.track_op().then(|| gradient.clone());
        Ok((before, Some(weight), Some(bias)))
    }
}

/// One block of rows as the backward pass needs it: both half-steps, s₀ t₀ first.
type Tape<T> = Vec<[Step<T>; 2]>;

struct Coupling {
    plan: Plan,
    /// s₀, t₀, s₁, t₁.
    nets: [Layers; 4],
    /// Filled by the forward pass where a gradient may be asked for.
    tape: Option<Mutex<Option<Box<dyn Any + Send>>>>,
    /// Where a parameter is trained.
    slot: Option<Arc<Slot>>,
}

impl Coupling {
    /// Calls `f` with the numbers of all layers.
    fn with_nets<T: Real, R>(
        &self,
        f: impl FnOnce(&[Net<T>; 4]) -> candle_core::Result<R>,
    ) -> candle_core::Result<R> {
        let layers = self.nets.iter().flatten();
        let guards: Vec<_> = layers
            .flat_map(|(w, b)| [w.storage_and_layout(), b.storage_and_layout()])
            .collect();
        let mut views = Vec::with_capacity(guards.len());
        for (storage, layout) in &guards {
            match &**storage {
                Storage::Cpu(s) => views.push(numbers::<T>(s, layout)?),
                _ => bail!("expected a coupling's layers on the CPU"),
            }
        }
        let mut pairs = views.chunks_exact(2).map(|p| (p[0], p[1]));
        let nets = [0, 1, 2, 3].map(|i| pairs.by_ref().take(self.nets[i].len()).collect());
        f(&nets)
    }

    fn forward<T: Real>(
        &self,
        x: &[T],
        condition: &[T],
        batch: usize,
    ) -> candle_core::Result<(Vec<T>, Shape)> {
        let plan = &self.plan;
        let code = plan.code;
        let run = |rows: std::ops::Range<usize>, nets: &[Net<T>; 4]| {
            let condition = &condition[rows.start * plan.condition..rows.end * plan.condition];
            let mut work = x[rows.start * code..rows.end * code].to_vec();
            if plan.inverse {
                swap_halves(&mut work, code, code - plan.first);
            }
            let mut logdet = vec![T::zero(); rows.len()];
            let [i, j] = plan.order();
            let mut go = |i| step_forward(plan, i, nets, &mut work, condition, &mut logdet);
            let (one, two) = (go(i), go(j));
            if !plan.inverse {
                swap_halves(&mut work, code, plan.first);
            }
            let steps = if i == 0 { [one, two] } else { [two, one] };
            (work, logdet, self.tape.is_some().then_some(steps))
        };
        let blocks = self.with_nets(|nets| {
            let blocks = Plan::blocks(batch).into_par_iter();
            Ok(blocks.map(|rows| run(rows, nets)).collect::<Vec<_>>())
        })?;
        // Forward, a row of the result is v and its log-determinant.
        let width = if plan.inverse { code } else { code + 1 };
        let mut out = Vec::with_capacity(batch * width);
        let mut tape: Tape<T> = Vec::with_capacity(blocks.len());
        for (work, logdet, steps) in blocks {
            if plan.inverse {
                out.extend_from_slice(&work);
            } else {
                for (row, logdet) in work.chunks_exact(code).zip(logdet) {
                    out.extend_from_slice(row);
                    out.push(logdet);
                }
            }
            tape.extend(steps);
        }
        if let Some(kept) = &self.tape {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(tape));
        }
        Ok((out, (batch, width).into()))
    }

    /// The gradients of x and of the condition; those of the layers are left in the slot.
    fn backward<T: Real>(&self, gradient: &Tensor) -> candle_core::Result<[Tensor; 2]> {
        let plan = &self.plan;
        let (code, condition) = (plan.code, plan.condition);
        let (batch, width) = gradient.dims2()?;
        let kept = self.tape.as_ref();
        let kept = kept.map(|t| t.lock().unwrap_or_else(PoisonError::into_inner));
        let tape = kept.as_ref().and_then(|t| t.as_ref());
        let Some(tape) = tape.and_then(|t| t.downcast_ref::<Tape<T>>()) else {
            bail!("a coupling's gradient was asked for without its forward pass")
        };
        let (storage, layout) = gradient.storage_and_layout();
        let gradient = match &*storage {
            Storage::Cpu(s) => numbers::<T>(s, layout)?,
            _ => bail!("expected a gradient on the CPU"),
        };
        let run = |rows: std::ops::Range<usize>, steps: &[Step<T>; 2], nets: &[Net<T>; 4]| {
            let mut to_x = Vec::with_capacity(rows.len() * code);
            let mut to_logdet = vec![T::zero(); rows.len()];
            for (r, to_logdet) in rows.clone().zip(&mut to_logdet) {
                let row = &gradient[r * width..(r + 1) * width];
                to_x.extend_from_slice(&row[..code]);
                if let Some(&g) = row.get(code) {
                    *to_logdet = g;
                }
            }
            if !plan.inverse {
                swap_halves(&mut to_x, code, code - plan.first);
            }
            let mut to_condition = vec![T::zero(); rows.len() * condition];
            let [j, i] = plan.order();
            let mut go = |i: usize| {
                let to = (&mut to_x, &mut to_condition);
                step_backward(plan, i, nets, &steps[i], to.0, to.1, &to_logdet)
            };
            let (one, two) = (go(i), go(j));
            if plan.inverse {
                swap_halves(&mut to_x, code, plan.first);
            }
            let before = if i == 0 { [one, two] } else { [two, one] };
            (to_x, to_condition, before)
        };
        let blocks = self.with_nets(|nets| {
            let blocks = Plan::blocks(batch).into_par_iter().zip(tape);
            Ok(blocks
                .map(|(rows, steps)| run(rows, steps, nets))
                .collect::<Vec<_>>())
        })?;
        let mut to_x = Vec::with_capacity(batch * code);
        let mut to_condition = Vec::with_capacity(batch * condition);
        let mut before = Vec::with_capacity(blocks.len());
        for (x, c, b) in blocks {
            to_x.extend_from_slice(&x);
            to_condition.extend_from_slice(&c);
            before.push(b);
        }
        if let Some(slot) = &self.slot {
            slot.leave(self.layer_gradients(tape, &before)?);
        }
        let device = candle_core::Device::Cpu;
        Ok([
            Tensor::from_vec(to_x, (batch, code), &device)?,
            Tensor::from_vec(to_condition, (batch, condition), &device)?,
        ])
    }

    /// The gradient of each layer, a product over the whole batch; the layers side by side.
    fn layer_gradients<T: Real>(
        &self,
        tape: &Tape<T>,
        before: &[[Before<T>; 2]],
    ) -> candle_core::Result<LayerGradients> {
        let one = |net: usize, layer: usize| -> candle_core::Result<(Tensor, Tensor)> {
            let (weight, bias) = &self.nets[net][layer];
            let (outputs, inputs) = weight.dims2()?;
            let mut to_weight = vec![T::zero(); outputs * inputs];
            let mut to_bias = vec![T::zero(); outputs];
            for (block, (steps, before)) in tape.iter().zip(before).enumerate() {
                let step = &steps[net / 2];
                let input = match layer {
                    0 => &step.seen,
                    l => &step.hidden[net % 2][l - 1],
                };
                let gradient = &before[net / 2][net % 2][layer];
                product(
                    (outputs, inputs, gradient.len() / outputs),
                    transposed(gradient, outputs),
                    row_major(input, inputs),
                    &mut to_weight,
                    inputs,
                    block > 0,
                );
                for row in gradient.chunks_exact(outputs) {
                    to_bias.iter_mut().zip(row).for_each(|(b, &g)| *b += g);
                }
            }
            Ok((
                Tensor::from_vec(to_weight, weight.shape(), weight.device())?,
                Tensor::from_vec(to_bias, bias.shape(), bias.device())?,
            ))
        };
        let places = self.nets.iter().enumerate();
        let places = places.flat_map(|(n, layers)| (0..layers.len()).map(move |l| (n, l)));
        let places: Vec<_> = places.collect();
        // One by one to whoever is free: the layers differ in size.
        let all = places.par_iter().with_max_len(1).map(|&(n, l)| one(n, l));
        let mut all = all.collect::<Vec<_>>().into_iter();
        let nets = self.nets.iter();
        nets.map(|layers| all.by_ref().take(layers.len()).collect())
            .collect()
    }
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
            other => bail!("a coupling has no kernel for {:?}", other.dtype()),
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
            // Only so that candle goes on to the layers behind the stand.
            stand.track_op().then(|| stand.zeros_like()).transpose()?,
        ))
    }
}

/// Which way through a coupling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Direction {
    Forward,
    Inverse,
}

/// The double affine coupling on the CPU (f32 or f64) in one operation with a gradient.
///
/// `x` is (batch, code), `condition` (batch, any), both checked by the caller; `nets` s₀, t₀, s₁, t₁ with
/// widths that fit. Forward gives (batch, code + 1): v and, last in each row, the log-determinant;
/// inverse (batch, code).
pub(crate) fn coupling(
    x: &Tensor,
    condition: &Tensor,
    nets: &[Layers; 4],
    first: usize,
    direction: Direction,
) -> Result<Tensor> {
    let (_, code) = x.dims2()?;
    let (_, conditions) = condition.dims2()?;
    let dtype = x.dtype();
    let layers = nets.iter().flatten();
    if let Some((weight, _)) = layers.clone().find(|(w, _)| w.dtype() != dtype) {
        return Err(Error::invalid(format!(
            "a coupling of {:?} cannot take a code of {dtype:?}; convert one of them",
            weight.dtype()
        )));
    }
    if condition.dtype() != dtype {
        return Err(Error::invalid(format!(
            "the condition is {:?} and the code {dtype:?}; convert one of them",
            condition.dtype()
        )));
    }
    let trained = layers.clone().any(|(w, b)| w.track_op() || b.track_op());
    let slot = trained.then(Arc::<Slot>::default);
    let mut stand = Tensor::zeros((), dtype, x.device())?;
    if let Some(slot) = &slot {
        for (net, layers) in nets.iter().enumerate() {
            for (layer, (weight, bias)) in layers.iter().enumerate() {
                let op = Stand {
                    slot: slot.clone(),
                    net,
                    layer,
                };
                stand = stand.apply_op3(weight, bias, op)?;
            }
        }
    }
    let op = Coupling {
        plan: Plan {
            code,
            first,
            condition: conditions,
            inverse: direction == Direction::Inverse,
        },
        nets: nets.clone(),
        tape: (trained || x.track_op() || condition.track_op()).then(Mutex::default),
        slot,
    };
    let (x, condition) = (x.contiguous()?, condition.contiguous()?);
    Ok(x.apply_op3(&condition, &stand, op)?)
}
