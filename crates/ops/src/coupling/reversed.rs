//! The input of a coupling layer and its gradients, from its result.

use super::block::{Block, gathered, gradient_block};
use super::half_step::{BlockCondition, Pass, half_step, half_step_backward};
use super::net::{Net, layer_gradients, with_nets};
use super::{Nets, Plan};
use crate::Result;
use crate::kernels::Real;
use crate::slices::with_numbers;
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// The reconstructed input of a coupling layer and the gradients; see [`reverse`].
pub struct Reversed {
    /// The input, (batch, code).
    pub x: Tensor,
    /// The gradient of the input, (batch, code).
    pub to_x: Tensor,
    /// The gradient of the condition, (batch, condition).
    pub to_condition: Tensor,
    /// The gradients of the parameters, in the order of [`parameters`](super::parameters).
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
