//! A half-step on a block of rows: forward, inverse and undone, and its gradient.

use super::Plan;
use super::block::Block;
use super::net::{Net, biases, net_backward, net_forward};
use crate::kernels::Real;

/// The condition as the networks of a half-step receive it, in addition to the half.
pub(super) enum BlockCondition<'a, T> {
    /// The condition of each row.
    Each(&'a [T]),
    /// The contribution of the condition, including the bias, to the results of the first layers
    /// of s and of t. It is computed once for all rows that have the same condition.
    Shared([&'a [T]; 2]),
}

/// The values of one half-step on a block of rows that the backward pass needs.
pub(super) struct Step<T> {
    /// The input of the networks: half and condition.
    pub(super) input: Vec<T>,
    /// The results of the hidden layers of s and of t.
    pub(super) hidden: [Vec<Vec<T>>; 2],
    s: Vec<T>,
    /// `scale` is ∂(changed half)/∂(the same half before the step),
    /// `moved` is ∂(changed half)/∂s.
    scale: Vec<T>,
    moved: Vec<T>,
}

/// The gradients of the results of the layers of s and of t, before the activation.
pub(super) type Before<T> = [Vec<Vec<T>>; 2];

/// The direction of a half-step, and the pass that its [`Step`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pass {
    /// Forward, with the `Step` of the forward pass.
    Forward,
    /// Inverse, with the `Step` of the inverse pass.
    Inverse,
    /// Inverse, with the `Step` that the forward pass had: the networks have the same input.
    Undo,
}

/// Applies one half-step to a block of rows (a, b) and adds s to the log-determinants.
pub(super) fn half_step<T: Real>(
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
pub(super) fn half_step_backward<T: Real>(
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
pub(super) type Tape<T> = Vec<[Step<T>; 2]>;
