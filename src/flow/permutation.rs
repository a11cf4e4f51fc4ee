//! A fixed random permutation of the code between two couplings.

use super::layer::Layer;
use super::{Flow, rows};
use crate::ops::Scope;
use crate::ops::gpu::{self, CouplingTape};
use crate::outline::shows_outline;
use crate::{Outline, Result};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// A fixed random permutation of the code's dimensions, so that each coupling splits the code
/// into different halves.
///
/// The buffers are `forward_shuffle_idx` and `backward_shuffle_idx`, both (code,). They hold
/// integers as f32, which is exact up to 2²⁴, or as f64 if that is the parameters' number type.
#[derive(Clone)]
pub struct Permutation {
    code: usize,
    forward: Tensor,
    backward: Tensor,
}

impl Permutation {
    /// Creates a permutation drawn from the seed and the scope's name; loading a checkpoint
    /// replaces it.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if buffers of these names exist with another shape.
    pub fn new(code: usize, scope: &Scope) -> Result<Self> {
        let forward = scope.rng("forward_shuffle_idx").permutation(code);
        let mut backward = vec![0u32; code];
        for (i, &j) in forward.iter().enumerate() {
            backward[j as usize] = i as u32;
        }
        let buffer = |order: Vec<u32>, name: &str| -> Result<Tensor> {
            let order = Tensor::from_vec(order, code, scope.device())?;
            Ok(scope.indices_from(&order, name)?.as_detached_tensor())
        };
        Ok(Self {
            code,
            forward: buffer(forward, "forward_shuffle_idx")?,
            backward: buffer(backward, "backward_shuffle_idx")?,
        })
    }

    fn ordered(&self, x: &Tensor, order: &Tensor) -> Result<Tensor> {
        rows(x, self.code, "codes")?;
        // The buffer is read at each call because loading a checkpoint changes it.
        if gpu::is_available(x) && !x.track_op() {
            return gpu::permute(x, &order.to_dtype(DType::U32)?);
        }
        Ok(x.contiguous()?
            .index_select(&order.to_dtype(DType::U32)?, 1)?)
    }
}

impl Flow for Permutation {
    fn forward(&self, x: &Tensor, _: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let logdet = Tensor::zeros(x.dim(0)?, x.dtype(), x.device())?;
        Ok((self.ordered(x, &self.forward)?, logdet))
    }

    fn inverse(&self, v: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        self.ordered(v, &self.backward)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.code)
    }

    fn outline(&self) -> Outline {
        Outline::new(format!("Permutation({})", self.code))
    }
}

shows_outline!(Permutation);

impl Layer for Permutation {
    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(self.clone())
    }

    fn state_forward(
        &self,
        state: &Tensor,
        _: Option<&Tensor>,
    ) -> Result<(Tensor, Option<CouplingTape>)> {
        let order = self.forward.to_dtype(DType::U32)?;
        Ok((gpu::permute(state, &order)?, None))
    }

    fn state_backward(
        &self,
        _: &Tensor,
        _: Option<&CouplingTape>,
        _: Option<&Tensor>,
        gradient: &Tensor,
        _: &mut Option<Tensor>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        // The gradient of a permutation is its inverse.
        let order = self.backward.to_dtype(DType::U32)?;
        Ok((gpu::permute(gradient, &order)?, Vec::new()))
    }
}
