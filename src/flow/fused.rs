//! The kernels of the affine coupling: one operation on the CPU, and launches without a graph on a
//! GPU.

use super::layer::Reversed;
use super::required;
use crate::Result;
use crate::ops::coupling::{self, Direction, Nets, Plan};
use crate::ops::gpu::{self, CouplingTape};
use candle_core::Tensor;

/// An affine coupling as its kernels receive it.
#[derive(Clone)]
pub(super) struct Fused {
    pub(super) plan: Plan,
    /// The nets in the order s₀, t₀, s₁, t₁.
    pub(super) nets: Nets,
}

impl Fused {
    /// Computes v and the log-determinant on the CPU.
    pub(super) fn forward(&self, x: &Tensor, c: &Tensor) -> Result<(Tensor, Tensor)> {
        let both = coupling::coupling(x, c, &self.nets, self.plan, 1, Direction::Forward)?;
        let logdet = both.narrow(1, self.plan.code, 1)?.squeeze(1)?;
        Ok((both.narrow(1, 0, self.plan.code)?, logdet))
    }

    /// Computes the inverse on the CPU. Each row of the condition belongs to `share` rows of v.
    pub(super) fn inverse(&self, v: &Tensor, c: &Tensor, share: usize) -> Result<Tensor> {
        coupling::coupling(v, c, &self.nets, self.plan, share, Direction::Inverse)
    }

    /// Computes the inverse on a GPU, without a graph.
    pub(super) fn inverse_on_gpu(&self, v: &Tensor, c: &Tensor, share: usize) -> Result<Tensor> {
        gpu::coupling_inverse(v, c, share, &self.nets, &self.plan)
    }

    /// The condition of a state on a GPU; (batch, 0) if the coupling has none.
    fn state_condition(&self, state: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        match self.plan.condition {
            0 => Ok(state.narrow(1, 0, 0)?),
            _ => Ok(required(condition, "a conditional coupling")?.contiguous()?),
        }
    }

    pub(super) fn state_forward(
        &self,
        state: &Tensor,
        condition: Option<&Tensor>,
    ) -> Result<(Tensor, Option<CouplingTape>)> {
        let c = self.state_condition(state, condition)?;
        let (state, tape) = gpu::coupling(state, &c, &self.nets, &self.plan)?;
        Ok((state, Some(tape)))
    }

    pub(super) fn state_backward(
        &self,
        state: &Tensor,
        tape: Option<&CouplingTape>,
        condition: Option<&Tensor>,
        gradient: &Tensor,
        to_condition: &mut Option<Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let c = self.state_condition(state, condition)?;
        let recomputed;
        let tape = match tape {
            Some(tape) => tape,
            None => {
                recomputed = gpu::coupling(state, &c, &self.nets, &self.plan)?.1;
                &recomputed
            }
        };
        let sum = match to_condition.take() {
            Some(sum) => sum,
            None if self.plan.condition == 0 => c.clone(),
            None => c.zeros_like()?,
        };
        let found = gpu::coupling_backward(tape, gradient, &sum, &self.nets, &self.plan)?;
        if self.plan.condition > 0 {
            *to_condition = Some(sum);
        }
        Ok(found)
    }

    /// Reconstructs the input from v and computes the gradients, on a GPU. `c` is the checked
    /// condition.
    pub(super) fn reverse_on_gpu(
        &self,
        v: &Tensor,
        c: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
    ) -> Result<Reversed> {
        let (x, tape) = gpu::coupling_undo(v, c, &self.nets, &self.plan)?;
        let mut to_condition = None;
        let (to_state, to_parameters) =
            self.state_backward(&x, Some(&tape), condition, gradient, &mut to_condition)?;
        Ok(Reversed {
            to_x: to_state.narrow(1, 0, self.plan.code)?.contiguous()?,
            x,
            to_condition,
            to_parameters,
        })
    }

    /// Same as [`Fused::reverse_on_gpu`], on the CPU.
    pub(super) fn reverse(
        &self,
        v: &Tensor,
        c: &Tensor,
        condition: Option<&Tensor>,
        gradient: &Tensor,
    ) -> Result<Reversed> {
        let reversed = coupling::reverse(v, c, &self.nets, self.plan, gradient)?;
        Ok(Reversed {
            x: reversed.x,
            to_x: reversed.to_x,
            to_condition: condition.is_some().then_some(reversed.to_condition),
            to_parameters: reversed.to_parameters,
        })
    }
}
