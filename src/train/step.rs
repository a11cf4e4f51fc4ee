//! [`Step`], what a training step returns: its loss, and values for the log.

use crate::{Error, Result};
use candle_core::Tensor;

/// The loss of one step, and values for the log.
#[derive(Clone, Debug)]
pub struct Step {
    pub(super) loss: Tensor,
    pub(super) adversary: Option<Tensor>,
    report: Vec<(String, Tensor)>,
}

impl Step {
    /// Creates a step that minimises `loss`, a scalar.
    pub fn new(loss: Tensor) -> Self {
        Self {
            loss,
            adversary: None,
            report: Vec::new(),
        }
    }

    /// Adds the loss of the adversary of [`Trainer::adversary`](super::Trainer::adversary), a
    /// scalar. It should depend on the adversary's parameters only, so compute it from detached
    /// images. A step without this loss does not change the adversary.
    pub fn with_adversary(mut self, loss: &Tensor) -> Self {
        self.adversary = Some(loss.clone());
        self
    }

    /// Adds a number to the log, e.g. an accuracy.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        // Creating a scalar on the CPU does not fail, so no value is lost here.
        if let Ok(value) = Tensor::new(value, &candle_core::Device::Cpu) {
            self.report.push((name.into(), value));
        }
        self
    }

    /// Adds a scalar tensor to the log, e.g. a term of the loss. Its value is only read when a
    /// row or a progress line is written.
    pub fn with_tensor(mut self, name: &str, value: &Tensor) -> Self {
        self.report.push((name.into(), value.detach()));
        self
    }

    pub(super) fn values(&self) -> Result<Vec<(String, f64)>> {
        let value = |(name, t): &(String, Tensor)| Ok((name.clone(), scalar(t)?));
        self.report.iter().map(value).collect()
    }
}

/// Returns the value of a scalar.
pub(super) fn scalar(t: &Tensor) -> Result<f64> {
    if t.elem_count() != 1 {
        return Err(Error::shape(format!(
            "expected a scalar as the loss or reported value of a step, found a tensor of shape {:?}: reduce it with `mean_all()`",
            t.dims()
        )));
    }
    crate::ops::scalar(t)
}
