//! A dense layer with its activation.

use super::layer::{check_sizes, constant};
use crate::ops::{Activation, Init, Placement, Scope, dense};
use crate::{Result, outline};
use candle_core::Tensor;

/// A dense layer with its activation; the weight has shape (outputs, inputs).
#[derive(Clone, Debug)]
pub(super) struct Dense {
    pub(super) weight: Tensor,
    bias: Tensor,
    pub(super) activation: Activation,
    parameters: usize,
}

impl Dense {
    pub(super) fn new(inputs: usize, outputs: usize, at: &Scope) -> Result<Self> {
        let bias = at.get(outputs, "bias", Init::Const(0.0))?;
        let mut dense = Self::plain(inputs, outputs, at)?;
        dense.bias = bias.as_tensor().clone();
        dense.parameters += outputs;
        Ok(dense)
    }

    /// A dense layer with an activation.
    pub(super) fn activated(
        inputs: usize,
        outputs: usize,
        activation: Activation,
        at: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            activation,
            ..Self::new(inputs, outputs, at)?
        })
    }

    /// A dense layer without a bias.
    pub(super) fn plain(inputs: usize, outputs: usize, at: &Scope) -> Result<Self> {
        check_sizes(inputs, outputs, at)?;
        let weight = at.get((outputs, inputs), "weight", Init::FanIn)?;
        Ok(Self {
            parameters: weight.elem_count(),
            weight: weight.as_tensor().clone(),
            bias: Tensor::zeros(outputs, at.dtype(), at.device())?,
            activation: Activation::None,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        dense(&x.flatten_from(1)?, &self.weight, &self.bias, activation)
    }

    /// Applies the layer to each token of (batch, tokens, width).
    pub(super) fn tokens(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = x.dims3()?;
        let y = self.forward(&x.reshape((batch * tokens, width))?, self.activation)?;
        Ok(y.reshape((batch, tokens, ()))?)
    }

    pub(super) fn parameters(&self) -> usize {
        self.parameters
    }

    pub(super) fn frozen(&self, to: &Placement) -> Result<Self> {
        Ok(Self {
            weight: constant(&self.weight, to)?,
            bias: constant(&self.bias, to)?,
            ..self.clone()
        })
    }

    /// Describes the layer with its activation in a line.
    pub(super) fn text(&self) -> String {
        let biased = self.parameters != self.weight.elem_count();
        let activation = outline::activation(self.activation);
        outline::linear(&self.weight, biased) + &activation
    }
}
