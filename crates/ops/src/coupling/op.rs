//! The coupling layer as one operation of candle with a gradient.

use super::block::{Block, gathered, gradient_block};
use super::half_step::{BlockCondition, Pass, Step, Tape, half_step, half_step_backward};
use super::net::{Net, biases, layer_gradients, row_major, transposed, with_nets};
use super::{Nets, Plan, parameters};
use crate::gradients::{GradientSlot, through_candle};
use crate::kernels::Real;
use crate::kernels::product::product;
use crate::slices::{numbers, with_numbers};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, bail};
use rayon::prelude::*;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

pub(super) struct Coupling {
    pub(super) plan: Plan,
    pub(super) inverse: bool,
    /// Number of rows that share one row of the condition.
    pub(super) share: usize,
    pub(super) nets: Nets,
    /// Filled by the forward pass if a gradient may be needed.
    pub(super) tape: Option<Mutex<Option<Box<dyn Any + Send>>>>,
    /// Present if a parameter is trained.
    pub(super) slot: Option<Arc<GradientSlot>>,
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
