//! A convolution with its normalization and activation.

use super::Mode;
use super::layer::{check_sizes, constant, too_small};
use super::norm::{Norm, NormKind};
use crate::ops::widened as wide;
use crate::ops::{Activation, ConvConfig, Init, Placement, Scope, conv2d};
use crate::{Error, Result, outline};
use candle_core::Tensor;

/// A convolution with its bias or normalization, and its activation.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    weight: Tensor,
    /// Zeros without a gradient if the published network has no bias.
    bias: Tensor,
    norm: Option<Norm>,
    pub(super) config: ConvConfig,
    /// The number of trainable parameters. It is stored because freezing folds some parameters
    /// into others.
    pub(super) parameters: usize,
}

/// Sizes of a convolution: input channels, output channels, kernel.
pub(super) type Sizes = (usize, usize, (usize, usize));

impl Conv {
    /// A convolution with a bias.
    pub(super) fn biased(
        (inputs, outputs, kernel): Sizes,
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        check_sizes(inputs, outputs, at)?;
        let bias = at.get(outputs, "bias", Init::Const(0.0))?;
        let weight = at.get((outputs, inputs, kernel.0, kernel.1), "weight", Init::He)?;
        Ok(Self {
            parameters: weight.elem_count() + outputs,
            weight: weight.as_tensor().clone(),
            bias: bias.as_tensor().clone(),
            norm: None,
            config,
        })
    }

    /// A convolution without a bias.
    pub(super) fn plain(
        (inputs, outputs, kernel): Sizes,
        config: ConvConfig,
        at: &Scope,
    ) -> Result<Self> {
        check_sizes(inputs, outputs, at)?;
        let weight = at.get((outputs, inputs, kernel.0, kernel.1), "weight", Init::He)?;
        Ok(Self {
            parameters: weight.elem_count(),
            weight: weight.as_tensor().clone(),
            bias: Tensor::zeros(outputs, at.dtype(), at.device())?,
            norm: None,
            config,
        })
    }

    /// A convolution without a bias, and the normalization after it.
    pub(super) fn normed(
        sizes: Sizes,
        config: ConvConfig,
        (at, kind, norm_at): (&Scope, NormKind, &Scope),
    ) -> Result<Self> {
        let plain = Self::plain(sizes, config, at)?;
        Ok(Self {
            norm: Some(Norm::new(sizes.1, kind, norm_at)?),
            parameters: plain.parameters + 2 * sizes.1,
            ..plain
        })
    }

    pub(super) fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
        let with = |activation| ConvConfig {
            activation,
            ..self.config
        };
        match &self.norm {
            None => conv2d(x, &self.weight, &self.bias, with(activation)),
            Some(norm) if mode == Mode::Training => {
                let y = conv2d(x, &self.weight, &self.bias, with(Activation::None))?;
                norm.forward(&y, activation, mode)
            }
            Some(norm) => {
                let (weight, bias) = self.folded(norm)?;
                conv2d(x, &weight, &bias, with(activation))
            }
        }
    }

    /// The weight and bias with the normalization folded in. This saves one pass over the image.
    fn folded(&self, norm: &Norm) -> Result<(Tensor, Tensor)> {
        let (scale, shift) = norm.affine()?;
        let outputs = self.weight.dim(0)?;
        let flat = wide(&self.weight)?.reshape((outputs, ()))?;
        let weight = flat.broadcast_mul(&wide(&scale)?.reshape((outputs, 1))?)?;
        let weight = weight.reshape(self.weight.shape())?;
        let dtype = self.weight.dtype();
        Ok((weight.to_dtype(dtype)?, shift.to_dtype(dtype)?))
    }

    pub(super) fn frozen(&self, to: &Placement) -> Result<Self> {
        let (weight, bias) = match &self.norm {
            None => (self.weight.clone(), self.bias.clone()),
            Some(norm) => self.folded(norm)?,
        };
        Ok(Self {
            weight: constant(&weight, to)?,
            bias: constant(&bias, to)?,
            norm: None,
            ..self.clone()
        })
    }

    pub(super) fn shape(&self, image: &[usize]) -> Result<Vec<usize>> {
        let &[outputs, inputs, kh, kw] = self.weight.dims() else {
            return Err(Error::shape(format!(
                "expected a convolution weight of four dimensions, found shape {:?}",
                self.weight.dims()
            )));
        };
        let ConvConfig {
            stride,
            padding: (py, px),
            ..
        } = self.config;
        let size = |n: usize, k: usize, p: usize| Some((n + 2 * p).checked_sub(k)? / stride + 1);
        match image {
            &[c, h, w] if c == inputs => match (size(h, kh, py), size(w, kw, px)) {
                (Some(h), Some(w)) => Ok(vec![outputs, h, w]),
                _ => Err(too_small(image)),
            },
            _ => Err(Error::shape(format!(
                "expected maps with {inputs} channels, found shape {image:?}"
            ))),
        }
    }

    /// Describes the convolution with its normalization and activation in a line.
    pub(super) fn text(&self) -> String {
        let biased = self.parameters != self.weight.elem_count() && self.norm.is_none();
        let norm = self.norm.as_ref().map(|n| format!(", {}", n.text()));
        format!(
            "{}{}{}",
            outline::convolution(&self.weight, &self.config, biased, false),
            norm.unwrap_or_default(),
            outline::activation(self.config.activation)
        )
    }
}
