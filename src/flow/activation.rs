use super::Flow;
use super::layer::Layer;
use crate::Result;
use crate::ops::leaky_relu;
use candle_core::Tensor;
use std::sync::Arc;

/// A leaky ReLU as a flow: x where x ≥ 0, else slope·x.
///
/// The authors' network counts its log-determinant as 0, so their checkpoints are reproduced only
/// without it ([`InvertibleLeakyRelu::compatible`]); its density is then off by the constant that every
/// negative number costs. [`InvertibleLeakyRelu::exact`] counts log(slope) for each of them.
#[derive(Clone, Debug, PartialEq)]
pub struct InvertibleLeakyRelu {
    slope: f64,
    counted: bool,
}

/// The authors' slope.
const SLOPE: f64 = 0.9;

impl InvertibleLeakyRelu {
    /// Slope 0.9, log-determinant counted as 0, as in the authors' checkpoints.
    pub fn compatible() -> Self {
        Self {
            slope: SLOPE,
            counted: false,
        }
    }

    /// Slope 0.9 with its true log-determinant.
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
            // Piecewise constant: it has no gradient, and needs none.
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

    fn code(&self) -> Option<usize> {
        None
    }
}

impl Layer for InvertibleLeakyRelu {
    fn detached(&self) -> Arc<dyn Layer> {
        Arc::new(self.clone())
    }
}
