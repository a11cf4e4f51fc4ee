//! A chain of blocks as one operation in the graph. Its backward pass uses stored activations or
//! recomputes them by inverting the blocks.

use super::chain::{Chain, condition_of_block};
use crate::ops::gpu::CouplingTape;
use crate::ops::gradients::{GradientSlot, give, through_candle};
use crate::ops::values;
use crate::{Error, Result};
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp3, Layout, MetalStorage, Shape, Storage, Tensor, bail,
};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// The values of the forward pass that the backward pass of a layer on a GPU needs.
#[derive(Debug)]
pub(super) struct LayerState {
    /// The state before the layer.
    pub(super) state: Tensor,
    pub(super) tape: Option<CouplingTape>,
}

/// How the backward pass gets the values of the forward pass.
pub(super) enum Origin {
    /// The values were stored: one entry per layer, in the order of the forward pass.
    Stored(Mutex<Vec<Option<LayerState>>>),
    /// The values are recomputed by inverting the network.
    Inverted { tolerance: f64 },
}

/// A chain as a single operation in the graph.
pub(super) struct ChainOp {
    pub(super) chain: Chain,
    pub(super) origin: Origin,
    /// v, with the log-determinant as the last column.
    pub(super) out: Tensor,
    /// Receives the parameters' gradients; present if a parameter is trained.
    pub(super) slot: Option<Arc<GradientSlot>>,
    /// Whether only one of the trained parameters is connected to the graph.
    pub(super) single_parameter: bool,
    pub(super) parameters: Vec<Tensor>,
}

impl Drop for ChainOp {
    fn drop(&mut self) {
        if let Origin::Inverted { .. } = self.origin {
            self.chain
                .backward_state
                .graphs
                .fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Returns the largest absolute value, or NaN if `x` contains NaN.
fn largest(x: &Tensor) -> Result<f64> {
    let values = values(&x.abs()?)?;
    let larger = |max: f64, x: &f64| if x.is_nan() { f64::NAN } else { max.max(*x) };
    Ok(values.iter().fold(0.0, |max: f64, x| match max.is_nan() {
        true => max,
        false => larger(max, x),
    }))
}

impl ChainOp {
    /// The backward pass with stored values, on a GPU.
    fn reverse_stored(
        &self,
        stored: &Mutex<Vec<Option<LayerState>>>,
        condition: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let chain = &self.chain;
        let condition = condition.detach();
        let shared = chain.width == condition.dim(1)?;
        let mut gradient = gradient.contiguous()?;
        let mut to_conditions: Vec<Option<Tensor>> = vec![None; chain.blocks.len()];
        let mut parameter_gradients = Vec::new();
        let layers = chain.blocks.iter().enumerate();
        let layers = layers.flat_map(|(i, block)| block.iter().map(move |layer| (i, layer)));
        let layers: Vec<_> = layers.collect();
        let mut all = stored.lock().unwrap_or_else(PoisonError::into_inner);
        for ((i, layer), entry) in layers.into_iter().zip(all.iter_mut()).rev() {
            let Some(stored) = entry.as_ref() else {
                return Err(Error::unsupported(
                    "the gradients of this loss were already computed, and a training step on a \
                     GPU frees the activations that they need: compute the loss again before \
                     another backward pass",
                ));
            };
            let c = condition_of_block(&condition, chain.width, i)?;
            // If all blocks share the condition, they add to one gradient.
            let place = if shared { 0 } else { i };
            let (to_state, to_parameters) = layer.state_backward(
                &stored.state,
                stored.tape.as_ref(),
                c.as_ref(),
                &gradient,
                &mut to_conditions[place],
            )?;
            gradient = to_state;
            if self.single_parameter {
                // A training step computes the gradients once. The freed memory is used for them.
                *entry = None;
            }
            if self.slot.is_some() {
                parameter_gradients.push(give(&layer.parameters(), to_parameters, false)?);
            }
        }
        self.pass_to_candle(parameter_gradients)?;
        let to_condition = match chain.width {
            0 => None,
            _ if shared => to_conditions.swap_remove(0),
            w => {
                let zeros = || {
                    Tensor::zeros(
                        (condition.dim(0)?, w),
                        condition.dtype(),
                        condition.device(),
                    )
                };
                let parts = to_conditions.into_iter().map(|p| p.map_or_else(zeros, Ok));
                Some(Tensor::cat(
                    &parts.collect::<candle_core::Result<Vec<_>>>()?,
                    1,
                )?)
            }
        };
        let to_x = gradient.narrow(1, 0, chain.code)?.contiguous()?;
        Ok((to_x, to_condition))
    }

    /// If candle's own backward pass collects the gradients of the layers' parameters, passes them
    /// on to it. They are ordered from the last layer to the first.
    fn pass_to_candle(&self, parameter_gradients: Vec<Option<Vec<Tensor>>>) -> Result<()> {
        if let Some(slot) = &self.slot
            && let Some(gradients) = parameter_gradients
                .into_iter()
                .rev()
                .collect::<Option<Vec<_>>>()
        {
            if self.single_parameter {
                return Err(Error::unsupported(
                    "`loss.backward()` does not support a loss that was computed within \
                     `ops::gradients::collected` (as in a training step): use \
                     `ops::backward(&loss)` instead",
                ));
            }
            slot.leave(&self.parameters, gradients.concat())?;
        }
        Ok(())
    }

    fn reverse(
        &self,
        x: &Tensor,
        condition: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let tolerance = match &self.origin {
            Origin::Stored(stored) => return self.reverse_stored(stored, condition, gradient),
            Origin::Inverted { tolerance } => *tolerance,
        };
        let chain = &self.chain;
        let graphs = chain.backward_state.graphs.load(Ordering::Relaxed);
        let condition = condition.detach();
        let mut v = self.out.narrow(1, 0, chain.code)?.contiguous()?;
        let mut gradient = gradient.contiguous()?;
        let to_logdet = gradient.narrow(1, chain.code, 1)?.contiguous()?;
        let blocks = chain.blocks.len();
        let mut to_conditions: Vec<Option<Tensor>> = vec![None; blocks];
        // Gradients of the layers' parameters, collected from the last layer to the first.
        let mut parameter_gradients = Vec::new();
        for (i, block) in chain.blocks.iter().enumerate().rev() {
            let c = condition_of_block(&condition, chain.width, i)?;
            for layer in block.iter().rev() {
                let reversed = layer.reverse(&v, c.as_ref(), &gradient)?;
                v = reversed.x;
                gradient = Tensor::cat(&[&reversed.to_x, &to_logdet], 1)?;
                if let Some(more) = reversed.to_condition {
                    to_conditions[i] = Some(match to_conditions[i].take() {
                        Some(sum) => (sum + more)?,
                        None => more,
                    });
                }
                if self.slot.is_some() {
                    let parameters = layer.parameters();
                    parameter_gradients.push(give(
                        &parameters,
                        reversed.to_parameters,
                        graphs == 1,
                    )?);
                }
            }
        }
        self.pass_to_candle(parameter_gradients)?;
        let scale = largest(&x.detach())?.max(1.0);
        let drift = largest(&(&v - x.detach())?)? / scale;
        let mut known = chain
            .backward_state
            .drift
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some(known.map_or(drift, |k| if drift.is_nan() { drift } else { k.max(drift) }));
        if drift.is_nan() || drift > tolerance {
            return Err(Error::Diverged(format!(
                "expected the inverted network to return the code within the tolerance of \
                 {tolerance:.1e}, found a difference of {drift:.1e} relative to the code's largest \
                 absolute value: the gradients would be wrong. Use Memory::Ordinary, a smaller \
                 clamp, weight decay or f64"
            )));
        }
        let to_condition = match (chain.width, condition.dim(1)?) {
            (0, _) => None,
            (w, n) => {
                let zeros = Tensor::zeros((x.dim(0)?, w), x.dtype(), x.device())?;
                let parts = to_conditions
                    .into_iter()
                    .map(|p| p.unwrap_or_else(|| zeros.clone()));
                let parts: Vec<Tensor> = parts.collect();
                Some(if w == n {
                    let mut sum = zeros;
                    for part in &parts {
                        sum = (sum + part)?;
                    }
                    sum
                } else {
                    Tensor::cat(&parts, 1)?
                })
            }
        };
        Ok((
            gradient.narrow(1, 0, chain.code)?.contiguous()?,
            to_condition,
        ))
    }

    /// Returns a copy of the precomputed result in the storage of its device.
    fn storage<S>(
        &self,
        of: impl Fn(&Storage, &Layout) -> Option<candle_core::Result<S>>,
    ) -> candle_core::Result<(S, Shape)> {
        let (storage, layout) = self.out.storage_and_layout();
        match of(&storage, layout) {
            Some(copy) => Ok((copy?, self.out.shape().clone())),
            None => bail!(
                "expected the result of a flow on the device of its code, found another device"
            ),
        }
    }
}

impl CustomOp3 for ChainOp {
    fn name(&self) -> &'static str {
        "flow"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.storage(|s, l| match s {
            Storage::Cpu(s) => Some(s.try_clone(l)),
            _ => None,
        })
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        self.storage(|s, l| match s {
            Storage::Cuda(s) => Some(s.try_clone(l)),
            _ => None,
        })
    }

    fn metal_fwd(
        &self,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
        _: &MetalStorage,
        _: &Layout,
    ) -> candle_core::Result<(MetalStorage, Shape)> {
        self.storage(|s, l| match s {
            Storage::Metal(s) => Some(s.try_clone(l)),
            _ => None,
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        condition: &Tensor,
        stand: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (to_x, to_condition) = self
            .reverse(x, condition, gradient)
            .map_err(through_candle)?;
        let to_condition = match to_condition {
            None if condition.track_op() => Some(condition.zeros_like()?),
            other => other,
        };
        Ok((
            x.track_op().then_some(to_x),
            condition.track_op().then_some(to_condition).flatten(),
            // A zero gradient, so that candle continues the backward pass to the parameters
            // behind `stand`.
            stand.track_op().then(|| stand.zeros_like()).transpose()?,
        ))
    }
}
