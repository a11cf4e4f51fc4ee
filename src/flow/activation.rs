//! A leaky ReLU as an invertible layer, with or without its log-determinant.

use super::Flow;
use super::layer::Layer;
use crate::ops::leaky_relu;
use crate::outline::shows_outline;
use crate::{Outline, Result};
use candle_core::Tensor;
use std::sync::Arc;

/// An invertible leaky ReLU: x where x ≥ 0, slope·x elsewhere.
///
/// The authors' network counts the log-determinant as 0. [`InvertibleLeakyRelu::compatible`] does
/// the same and therefore reproduces the authors' checkpoints, but its log-density lacks
/// log(slope) for each negative element. [`InvertibleLeakyRelu::exact`] counts log(slope) for
/// each of them.
#[derive(Clone, PartialEq)]
pub struct InvertibleLeakyRelu {
    slope: f64,
    counted: bool,
}

/// The slope in the authors' network.
const SLOPE: f64 = 0.9;

impl InvertibleLeakyRelu {
    /// Slope 0.9 with the log-determinant counted as 0, as in the authors' checkpoints.
    pub fn compatible() -> Self {
        Self {
            slope: SLOPE,
            counted: false,
        }
    }

    /// Slope 0.9 with the correct log-determinant.
    pub fn exact() -> Self {
        Self {
            slope: SLOPE,
            counted: true,
        }
    }
}

impl Flow for InvertibleLeakyRelu {
    fn forward(&self, x: &Tensor, _: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let logdet = if self.counted {
            // The log-determinant is piecewise constant in x, so it needs no gradient.
            let negative = x.detach().lt(0.0)?.to_dtype(x.dtype())?.flatten_from(1)?;
            (negative.sum(1)? * self.slope.ln())?
        } else {
            Tensor::zeros(x.dim(0)?, x.dtype(), x.device())?
        };
        Ok((leaky_relu(x, self.slope)?, logdet))
    }

    fn inverse(&self, v: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        leaky_relu(v, self.slope.recip())
    }

    fn dim(&self) -> Option<usize> {
        None
    }

    fn outline(&self) -> Outline {
        let logdet = if self.counted { "exact" } else { "0" };
        Outline::new(format!("LeakyReLU({}, logdet={logdet})", self.slope))
    }
}

shows_outline!(InvertibleLeakyRelu);

impl Layer for InvertibleLeakyRelu {
    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(self.clone())
    }
}
