//! The layers [`BatchNorm`] and [`LayerNorm`].

use super::{Bias, write_activation};
use crate::{Activation, Init, Result, Scope, candle_error};
use crate::{batch_norm, batch_norm_training, layer_norm};
use candle_core::{Tensor, Var};
use candle_nn::ModuleT;
use std::fmt;

/// A batch norm layer ([arXiv 1502.03167](https://arxiv.org/abs/1502.03167)) with the parameters
/// `weight` and `bias` and the buffers `running_mean` and `running_var`, all (channels,), as
/// PyTorch's `BatchNorm2d`, with an optional activation.
///
/// It implements candle's `ModuleT`, not `Module`: whether the layer is in training mode is stated
/// in each call.
#[derive(Clone)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Bias,
    running_mean: Var,
    running_var: Var,
    eps: f64,
    momentum: f64,
    activation: Activation,
}

impl BatchNorm {
    /// Creates a batch norm layer; weight and variance start with 1, bias and mean with 0.
    /// PyTorch's `eps` is 1e-5.
    pub fn new(channels: usize, eps: f64, at: &Scope) -> Result<Self> {
        let weight = at.get(channels, "weight", Init::Const(1.0))?.into_inner();
        Self::with(weight, Bias::new(channels, true, at)?, eps, at)
    }

    /// Creates a batch norm layer with neither `weight` nor `bias`: PyTorch's `affine=False`.
    pub fn new_no_bias(channels: usize, eps: f64, at: &Scope) -> Result<Self> {
        let weight = Tensor::ones(channels, at.dtype(), at.device())?;
        Self::with(weight, Bias::new(channels, false, at)?, eps, at)
    }

    fn with(weight: Tensor, bias: Bias, eps: f64, at: &Scope) -> Result<Self> {
        let channels = weight.elem_count();
        Ok(Self {
            weight,
            bias,
            running_mean: at.buffer(channels, "running_mean", Init::Const(0.0))?,
            running_var: at.buffer(channels, "running_var", Init::Const(1.0))?,
            eps,
            momentum: 0.1,
            activation: Activation::None,
        })
    }

    /// Sets the weight of a batch in the running statistics, in [0, 1]; 0.1 by default.
    pub fn momentum(mut self, momentum: f64) -> Self {
        self.momentum = momentum;
        self
    }

    /// Sets the activation after the layer; none by default.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// Applies the layer to x (batch, channels, …). In evaluation mode (`train` is false) the
    /// running statistics normalise x. In training mode the statistics of the batch do, and the
    /// running statistics are updated with them.
    ///
    /// # Errors
    /// As [`batch_norm`] and [`batch_norm_training`].
    pub fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        let bias = &self.bias.value;
        if !train {
            let statistics = [self.running_mean.as_tensor(), self.running_var.as_tensor()];
            let affine = [&self.weight, bias];
            return batch_norm(x, statistics, affine, self.eps, self.activation);
        }
        let normed = batch_norm_training(x, &self.weight, bias, self.eps, self.activation)?;
        // As PyTorch: the batch is normalised with its biased variance, the running variance is
        // unbiased.
        let count = (x.elem_count() / x.dim(1)?) as f64;
        let variance = normed.variance.affine(count / (count - 1.0), 0.0)?;
        for (running, of_batch) in [
            (&self.running_mean, &normed.mean),
            (&self.running_var, &variance),
        ] {
            let of_batch = of_batch.to_dtype(running.dtype())?;
            let kept = running
                .as_detached_tensor()
                .affine(1.0 - self.momentum, 0.0)?;
            running.set(&(kept + of_batch.affine(self.momentum, 0.0)?)?)?;
        }
        Ok(normed.y)
    }
}

impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        BatchNorm::forward_t(self, x, train).map_err(candle_error)
    }
}

impl fmt::Display for BatchNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (channels, eps) = (self.weight.elem_count(), self.eps);
        write!(
            f,
            "BatchNorm({channels}, eps={eps:e}, momentum={}",
            self.momentum
        )?;
        if !self.bias.learned {
            write!(f, ", affine=False")?;
        }
        write_activation(f, self.activation)?;
        write!(f, ")")
    }
}

/// A layer norm layer ([arXiv 1607.06450](https://arxiv.org/abs/1607.06450)) over the last
/// dimension, with the parameters `weight` and `bias` (width,). Unlike candle-nn's, it has a
/// backward pass.
#[derive(Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Bias,
    eps: f64,
}

impl LayerNorm {
    /// Creates a layer norm layer; the weight starts with 1, the bias with 0. PyTorch's `eps` is
    /// 1e-5.
    pub fn new(width: usize, eps: f64, at: &Scope) -> Result<Self> {
        Self::with_bias(true, width, eps, at)
    }

    /// Creates a layer norm layer with a weight and no bias: PyTorch's `bias=False`.
    pub fn new_no_bias(width: usize, eps: f64, at: &Scope) -> Result<Self> {
        Self::with_bias(false, width, eps, at)
    }

    fn with_bias(bias: bool, width: usize, eps: f64, at: &Scope) -> Result<Self> {
        Ok(Self {
            weight: at.get(width, "weight", Init::Const(1.0))?.into_inner(),
            bias: Bias::new(width, bias, at)?,
            eps,
        })
    }

    /// Applies the layer: (…, width) to (…, width).
    ///
    /// # Errors
    /// As [`layer_norm`].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias.value, self.eps)
    }
}

impl fmt::Display for LayerNorm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (width, eps) = (self.weight.elem_count(), self.eps);
        let bias = if self.bias.learned {
            ""
        } else {
            ", bias=False"
        };
        write!(f, "LayerNorm({width}, eps={eps:e}{bias})")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, through_trait};
    use super::*;
    use crate::{Params, Rng, values};
    use candle_core::Device;
    use candle_nn::Module;

    #[test]
    fn batch_norm_agrees_with_candle_in_both_modes() -> Result<()> {
        for affine in [true, false] {
            let params = Params::new(0);
            let at = params.root();
            let ours = match affine {
                true => BatchNorm::new(3, 1e-5, &at.pp("ours"))?,
                false => BatchNorm::new_no_bias(3, 1e-5, &at.pp("ours"))?,
            };
            let config = candle_nn::BatchNormConfig {
                affine,
                ..Default::default()
            };
            let candles = candle_nn::batch_norm(3, config, at.pp("candles").builder())?;
            assert_eq!(params.vars().len(), if affine { 4 } else { 0 });
            let x = Rng::new(1).normal((4, 3, 5, 5), &Device::Cpu)?;
            for train in [true, true, false] {
                let found = values(&ours.forward_t(&x, train)?)?;
                let expected = values(&candles.forward_t(&x, train)?)?;
                close(&found, &expected, 1e-4);
            }
            for name in ["running_mean", "running_var"] {
                let ours = values(&params.var(&format!("ours.{name}"))?.as_detached_tensor())?;
                let candles =
                    values(&params.var(&format!("candles.{name}"))?.as_detached_tensor())?;
                close(&ours, &candles, 1e-5);
            }
            let by_trait: &dyn ModuleT = &ours;
            let found = values(&by_trait.forward_t(&x, false)?)?;
            assert_eq!(found, values(&ours.forward_t(&x, false)?)?);
        }
        Ok(())
    }

    #[test]
    fn layer_norm_has_a_gradient_and_candles_values() -> Result<()> {
        let params = Params::new(0);
        let at = params.root();
        let x = Var::from_tensor(&Rng::new(1).normal((2, 3, 8), &Device::Cpu)?)?;
        let ours = LayerNorm::new(8, 1e-5, &at.pp("a"))?;
        let bare = LayerNorm::new_no_bias(8, 1e-5, &at.pp("b"))?;
        assert_eq!(params.names(), ["a.bias", "a.weight", "b.weight"]);
        let candles = candle_nn::layer_norm(8, 1e-5, at.pp("a").builder())?;
        let expected = values(&candles.forward(&x)?)?;
        for layer in [&ours, &bare] {
            close(&values(&layer.forward(&x)?)?, &expected, 1e-5);
            close(&through_trait(layer, &x)?, &expected, 1e-5);
            let gradients = layer.forward(&x)?.sqr()?.sum_all()?.backward()?;
            assert!(gradients.get(&x).is_some());
        }
        Ok(())
    }
}
