//! Layers with parameters by name: [`Conv2d`], [`ConvTranspose2d`], [`Linear`], [`BatchNorm`] and
//! [`LayerNorm`].
//!
//! `new` creates a layer with a bias, `new_no_bias` one without. All layers implement
//! `candle_nn::Module` (batch norm `ModuleT`, which states the mode), so they can be combined with
//! candle's. `Display` and `Debug` print the architecture as PyTorch does.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Activation, Module, seq};
//! use invariances_ops::{Conv2d, ConvConfig, Init, Linear, Params};
//! let params = Params::new(0);
//! let at = params.root();
//! let config = ConvConfig { stride: 2, padding: (1, 1), ..Default::default() };
//! let conv = Conv2d::new_no_bias(3, 16, 4, config, Init::He, &at.pp("conv"))?;
//! let fc = Linear::new(16 * 8 * 8, 10, Init::FanIn, &at.pp("fc"))?;
//! assert_eq!(
//!     format!("{conv}, {fc}"),
//!     "Conv2d(3, 16, kernel_size=4, stride=2, padding=1, bias=False), \
//!      Linear(in_features=1024, out_features=10, bias=True)"
//! );
//! let model = seq().add(conv).add(Activation::Relu).add_fn(|x| x.flatten_from(1)).add(fc);
//! let x = Tensor::zeros((2, 3, 16, 16), DType::F32, &Device::Cpu)?;
//! assert_eq!(model.forward(&x)?.dims(), [2, 10]);
//! # Ok::<(), invariances_ops::Error>(())
//! ```

mod norm;

pub use norm::{BatchNorm, LayerNorm};

use crate::conv::{ConvConfig, Convolution, apply};
use crate::{Activation, Error, Init, Result, Scope, candle_error};
use candle_core::Tensor;
use candle_nn::Module;
use std::fmt;

/// The bias of a layer: a parameter, or zeros that are not a parameter.
#[derive(Clone)]
struct Bias {
    value: Tensor,
    learned: bool,
}

impl Bias {
    fn new(outputs: usize, learned: bool, at: &Scope) -> Result<Self> {
        let value = match learned {
            true => at.get(outputs, "bias", Init::Const(0.0))?.into_inner(),
            false => Tensor::zeros(outputs, at.dtype(), at.device())?,
        };
        Ok(Self { value, learned })
    }

    fn get(&self) -> Option<&Tensor> {
        self.learned.then_some(&self.value)
    }
}

/// What both convolution layers consist of.
#[derive(Clone)]
struct Conv {
    weight: Tensor,
    bias: Bias,
    op: Convolution,
}

impl Conv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        apply(self.op, x, &self.weight, &self.bias.value)
    }
}

impl fmt::Display for Conv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pair = |(a, b): (usize, usize)| match a == b {
            true => a.to_string(),
            false => format!("({a}, {b})"),
        };
        let ConvConfig {
            stride,
            padding,
            activation,
        } = self.op.config;
        let dims = self.weight.dims();
        let (name, inputs, outputs) = match self.op.transposed {
            true => ("ConvTranspose2d", dims[0], dims[1]),
            false => ("Conv2d", dims[1], dims[0]),
        };
        let kernel = pair((dims[2], dims[3]));
        write!(
            f,
            "{name}({inputs}, {outputs}, kernel_size={kernel}, stride={stride}"
        )?;
        if padding != (0, 0) {
            write!(f, ", padding={}", pair(padding))?;
        }
        if !self.bias.learned {
            write!(f, ", bias=False")?;
        }
        write_activation(f, activation)?;
        write!(f, ")")
    }
}

fn write_activation(f: &mut fmt::Formatter<'_>, activation: Activation) -> fmt::Result {
    match activation {
        Activation::None => Ok(()),
        Activation::Leaky(0.0) => write!(f, ", activation=relu"),
        Activation::Leaky(slope) => write!(f, ", activation=leaky_relu({slope})"),
    }
}

/// A convolution layer with a square kernel and the parameters `weight` (out, in, kernel, kernel)
/// and `bias` (out,), as PyTorch's `Conv2d`, with an optional activation.
#[derive(Clone)]
pub struct Conv2d(Conv);

impl Conv2d {
    /// Creates a convolution. The weight starts with values from `init`, the bias with zeros.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        init: Init,
        at: &Scope,
    ) -> Result<Self> {
        Self::with_bias(true, (inputs, outputs, kernel), config, init, at)
    }

    /// Creates a convolution without bias.
    pub fn new_no_bias(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        init: Init,
        at: &Scope,
    ) -> Result<Self> {
        Self::with_bias(false, (inputs, outputs, kernel), config, init, at)
    }

    fn with_bias(
        bias: bool,
        (inputs, outputs, kernel): (usize, usize, usize),
        config: ConvConfig,
        init: Init,
        at: &Scope,
    ) -> Result<Self> {
        let weight = at.get((outputs, inputs, kernel, kernel), "weight", init)?;
        Ok(Self(Conv {
            weight: weight.into_inner(),
            bias: Bias::new(outputs, bias, at)?,
            op: Convolution {
                config,
                transposed: false,
            },
        }))
    }

    /// Returns the weight as a tensor of the graph.
    pub fn weight(&self) -> &Tensor {
        &self.0.weight
    }

    /// Returns the bias as a tensor of the graph.
    pub fn bias(&self) -> Option<&Tensor> {
        self.0.bias.get()
    }

    /// Applies the layer: (batch, in, h, w) to (batch, out, h', w').
    ///
    /// # Errors
    /// As [`conv2d`](crate::conv2d).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

/// A transposed convolution layer with a square kernel and the parameters `weight`
/// (in, out, kernel, kernel) and `bias` (out,), as PyTorch's `ConvTranspose2d`, with an optional
/// activation.
#[derive(Clone)]
pub struct ConvTranspose2d(Conv);

impl ConvTranspose2d {
    /// Creates a transposed convolution. The weight starts with normal values of standard
    /// deviation √(2/fan_in), fan_in = inputs·(kernel/stride)², the bias with zeros.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        Self::with_bias(true, (inputs, outputs, kernel), config, at)
    }

    /// Creates a transposed convolution without bias.
    pub fn new_no_bias(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        Self::with_bias(false, (inputs, outputs, kernel), config, at)
    }

    fn with_bias(
        bias: bool,
        (inputs, outputs, kernel): (usize, usize, usize),
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        // Each output pixel is a sum of inputs·(kernel/stride)² products.
        let fan_in =
            (inputs * kernel * kernel) as f64 / (config.stride * config.stride).max(1) as f64;
        let init = Init::Normal((2.0 / fan_in).sqrt());
        let weight = at.get((inputs, outputs, kernel, kernel), "weight", init)?;
        Ok(Self(Conv {
            weight: weight.into_inner(),
            bias: Bias::new(outputs, bias, at)?,
            op: Convolution {
                config,
                transposed: true,
            },
        }))
    }

    /// Returns the weight as a tensor of the graph.
    pub fn weight(&self) -> &Tensor {
        &self.0.weight
    }

    /// Returns the bias as a tensor of the graph.
    pub fn bias(&self) -> Option<&Tensor> {
        self.0.bias.get()
    }

    /// Applies the layer: (batch, in, h, w) to (batch, out, h', w').
    ///
    /// # Errors
    /// As [`conv_transpose2d`](crate::conv_transpose2d).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.0.forward(x)
    }
}

impl fmt::Display for Conv2d {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for ConvTranspose2d {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A linear layer with the parameters `weight` (out, in) and `bias` (out,).
#[derive(Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Bias,
}

impl Linear {
    /// Creates a linear layer. The weight starts with values from `init`, the bias with zeros.
    pub fn new(inputs: usize, outputs: usize, init: Init, at: &Scope) -> Result<Self> {
        Ok(Self {
            weight: at.get((outputs, inputs), "weight", init)?.into_inner(),
            bias: Bias::new(outputs, true, at)?,
        })
    }

    /// Creates a linear layer without bias.
    pub fn new_no_bias(inputs: usize, outputs: usize, init: Init, at: &Scope) -> Result<Self> {
        Ok(Self {
            weight: at.get((outputs, inputs), "weight", init)?.into_inner(),
            bias: Bias::new(outputs, false, at)?,
        })
    }

    /// Returns the weight as a tensor of the graph.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Returns the bias as a tensor of the graph.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.get()
    }

    /// Applies the layer to the last dimension: (…, in) to (…, out).
    ///
    /// # Errors
    /// [`Error::Shape`] if the last dimension is not the number of inputs.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let leading = match x.dims().split_last() {
            Some((&last, leading)) if last == inputs => leading,
            _ => {
                return Err(Error::shape(format!(
                    "a linear layer expects a tensor of shape (…, {inputs}), found {:?}",
                    x.dims()
                )));
            }
        };
        let rows = match leading {
            [_] => x.clone(),
            _ => x.reshape((leading.iter().product::<usize>(), inputs))?,
        };
        let y = rows.matmul(&self.weight.t()?)?;
        let y = match self.bias.get() {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        Ok(match leading {
            [_] => y,
            _ => y.reshape([leading, &[outputs]].concat())?,
        })
    }
}

impl fmt::Display for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (inputs, outputs) = (self.weight.dims()[1], self.weight.dims()[0]);
        let bias = if self.bias.learned { "True" } else { "False" };
        write!(
            f,
            "Linear(in_features={inputs}, out_features={outputs}, bias={bias})"
        )
    }
}

macro_rules! modules {
    ($($layer:ident),+) => {$(
        impl Module for $layer {
            fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
                $layer::forward(self, x).map_err(candle_error)
            }
        }
    )+};
}
modules!(Conv2d, ConvTranspose2d, Linear, LayerNorm);

macro_rules! debug_is_display {
    ($($layer:ident),+) => {$(
        impl fmt::Debug for $layer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )+};
}
debug_is_display!(Conv2d, ConvTranspose2d, Linear, BatchNorm, LayerNorm);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Params, Rng, conv_transpose2d, values};
    use candle_core::Device;

    pub(super) fn through_trait(module: &dyn Module, x: &Tensor) -> Result<Vec<f64>> {
        values(&module.forward(x)?)
    }

    pub(super) fn close(found: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < tolerance, "{f} {e}");
        }
    }

    fn halving(activation: Activation) -> ConvConfig {
        ConvConfig {
            stride: 2,
            padding: (1, 1),
            activation,
        }
    }

    #[test]
    fn convolutions_agree_with_their_trait_and_with_candle() -> Result<()> {
        let params = Params::new(0);
        let at = params.root();
        let x = Rng::new(1).normal((2, 3, 8, 8), &Device::Cpu)?;
        let none = halving(Activation::None);
        let conv = Conv2d::new(3, 5, 4, none, Init::He, &at.pp("a"))?;
        let bare = Conv2d::new_no_bias(3, 5, 4, none, Init::He, &at.pp("b"))?;
        let bias = Rng::new(2).normal(5, &Device::Cpu)?;
        params.var("a.bias")?.set(&bias)?;
        assert_eq!(params.names(), ["a.bias", "a.weight", "b.weight"]);
        assert!(conv.bias().is_some() && bare.bias().is_none());
        for layer in [&conv, &bare] {
            let found = values(&layer.forward(&x)?)?;
            assert_eq!(through_trait(layer, &x)?, found);
            let mut expected = x.conv2d(layer.weight(), 1, 2, 1, 1)?;
            if let Some(bias) = layer.bias() {
                expected = expected.broadcast_add(&bias.reshape((1, 5, 1, 1))?)?;
            }
            close(&found, &values(&expected)?, 1e-4);
        }
        let up = ConvTranspose2d::new(3, 5, 4, none, &at.pp("c"))?;
        let bare = ConvTranspose2d::new_no_bias(3, 5, 4, none, &at.pp("d"))?;
        assert!(up.bias().is_some() && bare.bias().is_none());
        for layer in [&up, &bare] {
            let found = values(&layer.forward(&x)?)?;
            assert_eq!(through_trait(layer, &x)?, found);
            let zeros = bias.zeros_like()?;
            let expected = conv_transpose2d(&x, layer.weight(), &zeros, none)?;
            close(&found, &values(&expected)?, 1e-6);
        }
        let gradients = bare.forward(&x)?.sqr()?.sum_all()?.backward()?;
        assert!(gradients.get(params.var("d.weight")?.as_tensor()).is_some());
        Ok(())
    }

    #[test]
    fn linear_takes_any_number_of_dimensions() -> Result<()> {
        let params = Params::new(0);
        let at = params.root();
        let x = Rng::new(1).normal((2, 3, 4), &Device::Cpu)?;
        let linear = Linear::new(4, 5, Init::FanIn, &at.pp("a"))?;
        let bare = Linear::new_no_bias(4, 5, Init::FanIn, &at.pp("b"))?;
        let bias = Rng::new(2).normal(5, &Device::Cpu)?;
        params.var("a.bias")?.set(&bias)?;
        assert_eq!(params.names(), ["a.bias", "a.weight", "b.weight"]);
        for layer in [&linear, &bare] {
            let candles = candle_nn::Linear::new(layer.weight().clone(), layer.bias().cloned());
            let rows = x.reshape((6, 4))?;
            let expected = values(&candles.forward(&rows)?)?;
            assert_eq!(values(&layer.forward(&rows)?)?, expected);
            assert_eq!(through_trait(layer, &rows)?, expected);
            let y = layer.forward(&x)?;
            assert_eq!(y.dims(), [2, 3, 5]);
            assert_eq!(values(&y)?, expected);
            assert_eq!(layer.forward(&x.get(0)?.get(0)?)?.dims(), [5]);
        }
        let error = linear.forward(&x.transpose(1, 2)?).unwrap_err();
        assert!(matches!(error, Error::Shape(_)), "{error}");
        Ok(())
    }

    #[test]
    fn layers_print_as_in_pytorch() -> Result<()> {
        let at = Params::new(0).root();
        let leaky = halving(Activation::Leaky(0.2));
        let wide = ConvConfig {
            padding: (1, 0),
            ..Default::default()
        };
        let printed = [
            Conv2d::new(3, 16, 4, leaky, Init::He, &at.pp(0))?.to_string(),
            Conv2d::new_no_bias(3, 16, 1, wide, Init::He, &at.pp(1))?.to_string(),
            ConvTranspose2d::new(16, 3, 4, halving(Activation::None), &at.pp(2))?.to_string(),
            format!("{:?}", Linear::new_no_bias(4, 2, Init::FanIn, &at.pp(3))?),
            format!("{:?}", BatchNorm::new(16, 1e-5, &at.pp(4))?),
            BatchNorm::new_no_bias(16, 1e-3, &at.pp(5))?
                .activation(Activation::Leaky(0.0))
                .to_string(),
            LayerNorm::new(16, 1e-5, &at.pp(6))?.to_string(),
            LayerNorm::new_no_bias(16, 1e-6, &at.pp(7))?.to_string(),
        ];
        assert_eq!(
            printed,
            [
                "Conv2d(3, 16, kernel_size=4, stride=2, padding=1, activation=leaky_relu(0.2))",
                "Conv2d(3, 16, kernel_size=1, stride=1, padding=(1, 0), bias=False)",
                "ConvTranspose2d(16, 3, kernel_size=4, stride=2, padding=1)",
                "Linear(in_features=4, out_features=2, bias=False)",
                "BatchNorm(16, eps=1e-5, momentum=0.1)",
                "BatchNorm(16, eps=1e-3, momentum=0.1, affine=False, activation=relu)",
                "LayerNorm(16, eps=1e-5)",
                "LayerNorm(16, eps=1e-6, bias=False)",
            ]
        );
        Ok(())
    }
}
