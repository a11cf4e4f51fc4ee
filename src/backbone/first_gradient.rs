//! Checks the gradient of a user's network when its first gradient is computed.
//!
//! A last operation that returns its input unchanged is appended to the output of a run. In the
//! backward pass this operation runs before the layers do, and checks their gradients. A run
//! without a backward pass therefore has no extra cost and never fails because of the check.

use super::gradients::{GradientVerdict, Outcome, examine, while_checking};
use super::{Custom, Network};
use crate::ops::gradients::through_candle;
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, MetalStorage, Shape, Tensor};
use invariances_core::say;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The state of the check of one layer's gradient.
#[derive(Clone, Debug)]
enum State {
    Unchecked,
    Correct,
    Wrong(String),
}

/// The state of the check of a network's gradients, shared by its clones.
#[derive(Debug, Default)]
pub(super) struct Checked {
    layers: Mutex<Vec<State>>,
    /// Whether the notice that half precision is not checked was printed.
    half_precision_notice: Mutex<bool>,
}

impl Checked {
    fn with<R>(&self, count: usize, f: impl FnOnce(&mut [State]) -> R) -> R {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if layers.len() < count {
            layers.resize(count, State::Unchecked);
        }
        f(&mut layers)
    }

    /// Whether the gradients of all these layers were checked and are correct.
    fn all_correct(&self, layers: &Range<usize>) -> bool {
        self.with(layers.end, |states| {
            let mut states = states[layers.clone()].iter();
            states.all(|k| matches!(k, State::Correct))
        })
    }

    /// The first of these layers that is not checked yet, or the error of a layer whose gradient
    /// is wrong.
    fn first_unchecked(&self, layers: &Range<usize>) -> Result<Option<usize>> {
        self.with(layers.end, |states| {
            for index in layers.clone() {
                if let State::Wrong(why) = &states[index] {
                    return Err(Error::unsupported(why.clone()));
                }
            }
            let mut all = layers.clone();
            Ok(all.find(|i| matches!(states[*i], State::Unchecked)))
        })
    }

    /// Checks the gradient through these layers for this input. Returns an error if it is wrong.
    fn check(&self, network: &Custom, x: &Tensor, layers: Range<usize>) -> Result<()> {
        if let Some(why) = network.no_gradient() {
            return Err(Error::unsupported(format!(
                "no gradient passes through {}: {why}",
                network.name()
            )));
        }
        let Some(from) = self.first_unchecked(&layers)? else {
            return Ok(());
        };
        let x = while_checking(|| network.run(&x.detach(), layers.start..from))?;
        let outcome = examine(network, &x, from..layers.end)?;
        let half = !matches!(x.dtype(), DType::F32 | DType::F64);
        match outcome {
            Outcome::Faulty(indices, why) => {
                self.with(layers.end, |states| {
                    for index in indices {
                        states[index] = State::Wrong(why.clone());
                    }
                });
                return Err(Error::unsupported(why));
            }
            Outcome::Fine(check) => {
                let notice = match check.verdict {
                    GradientVerdict::Agrees => None,
                    GradientVerdict::Zero => {
                        Some("is zero: the output does not depend on the input".into())
                    }
                    GradientVerdict::Undecided(why) => Some(format!("was not checked: {why}")),
                };
                let mut printed = self
                    .half_precision_notice
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                if let Some(notice) = notice
                    && !(half && *printed)
                {
                    say(&format!(
                        "notice: the gradient through {} {notice}",
                        network.name()
                    ));
                }
                *printed |= half;
            }
        }
        if !half {
            self.with(layers.end, |states| {
                states[from..layers.end].fill(State::Correct)
            });
        }
        Ok(())
    }
}

/// The identity on y, where y is the output of some layers of a network for the input x.
struct FirstGradient {
    network: Custom,
    layers: Range<usize>,
}

/// Returns `y`, the output of `layers` of a network for `x`, so that its first gradient is
/// checked.
pub(super) fn checked(
    network: &Custom,
    x: &Tensor,
    y: Tensor,
    layers: Range<usize>,
) -> Result<Tensor> {
    let known = network.no_gradient().is_none() && network.checked().all_correct(&layers);
    if known || !y.dtype().is_float() {
        return Ok(y);
    }
    let op = FirstGradient {
        network: network.clone(),
        layers,
    };
    // `force_contiguous`: copying a storage ignores the offset at which a view begins in it.
    Ok(y.force_contiguous()?.apply_op2(x, op)?)
}

impl CustomOp2 for FirstGradient {
    fn name(&self) -> &'static str {
        "first-gradient"
    }

    fn cpu_fwd(
        &self,
        y: &CpuStorage,
        layout: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn cuda_fwd(
        &self,
        y: &CudaStorage,
        layout: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn metal_fwd(
        &self,
        y: &MetalStorage,
        layout: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        Ok((y.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        y: &Tensor,
        x: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let checked = self.network.checked();
        checked
            .check(&self.network, x, self.layers.clone())
            .map_err(through_candle)?;
        // x must have its own gradient: candle expects one for each tensor that depends on a
        // variable.
        Ok((
            y.track_op().then(|| gradient.clone()),
            x.track_op().then(|| x.zeros_like()).transpose()?,
        ))
    }
}
