//! The layers [`Conv2d`] and [`Linear`], with parameters by name.

use crate::conv::{ConvConfig, Convolution, apply};
use crate::{Init, Result, Scope};
use candle_core::{Tensor, Var};

/// A convolution or transposed convolution layer with the parameters `weight` and `bias`.
#[derive(Clone, Debug)]
pub struct Conv2d {
    weight: Var,
    bias: Var,
    config: ConvConfig,
    transposed: bool,
}

impl Conv2d {
    /// Creates a convolution with a square kernel. The weight starts with values from `init`, the
    /// bias with zeros.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        init: Init,
        at: &Scope,
    ) -> Result<Self> {
        Ok(Self {
            weight: at.get((outputs, inputs, kernel, kernel), "weight", init)?,
            bias: at.get(outputs, "bias", Init::Const(0.0))?,
            config,
            transposed: false,
        })
    }

    /// Creates a transposed convolution with a square kernel. The weight starts with normal
    /// values of standard deviation √(2/fan_in), fan_in = inputs·(kernel/stride)², the bias with
    /// zeros.
    pub fn transposed(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        // Each output pixel is a sum of inputs·(kernel/stride)² products.
        let fan_in =
            (inputs * kernel * kernel) as f64 / (config.stride * config.stride).max(1) as f64;
        Ok(Self {
            weight: at.get(
                (inputs, outputs, kernel, kernel),
                "weight",
                Init::Normal((2.0 / fan_in).sqrt()),
            )?,
            bias: at.get(outputs, "bias", Init::Const(0.0))?,
            config,
            transposed: true,
        })
    }

    /// Returns the weight as a tensor of the graph.
    pub fn weight(&self) -> Tensor {
        self.weight.as_tensor().clone()
    }

    /// Applies the layer: (batch, in, h, w) to (batch, out, h', w').
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let op = Convolution {
            config: self.config,
            transposed: self.transposed,
        };
        apply(op, x, self.weight.as_tensor(), self.bias.as_tensor())
    }
}

/// A linear layer with the parameters `weight` (out, in) and `bias` (out,).
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Var,
    bias: Var,
}

impl Linear {
    /// Creates a linear layer. The weight starts with values from `init`, the bias with zeros.
    pub fn new(inputs: usize, outputs: usize, init: Init, at: &Scope) -> Result<Self> {
        Ok(Self {
            weight: at.get((outputs, inputs), "weight", init)?,
            bias: at.get(outputs, "bias", Init::Const(0.0))?,
        })
    }

    /// Applies the layer: (batch, in) to (batch, out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?)
    }
}
