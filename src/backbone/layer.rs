//! The layers of the networks in this crate. A [`Layer`] computes the shape of its output without
//! running, and can be frozen.

use super::Mode;
use super::transformer::{Embed, Encoder, LayerNorm};
use crate::flow::ActNorm;
use crate::ops::widened as wide;
use crate::ops::{
    Activation, ConvConfig, Init, Placement, PoolConfig, Scope, adaptive_avg_pool2d, add,
    avg_pool2d, batch_norm, batch_norm_training, conv2d, dense, leaky_relu, max_pool2d, softmax,
};
use crate::{Error, Result};
use candle_core::{Tensor, Var};

pub(super) const RELU: Activation = Activation::Leaky(0.0);

/// One layer of a network.
#[derive(Clone, Debug)]
pub(super) enum Layer {
    Conv(Conv),
    Norm(Norm),
    Relu,
    MaxPool(PoolConfig),
    AvgPool(PoolConfig),
    /// Average pooling to a square map of this size; the identity if the map has this size
    /// already.
    AdaptivePool(usize),
    /// The mean over all pixels: (batch, channels, h, w) to (batch, channels).
    GlobalMean,
    /// A dense layer; a map is flattened first.
    Dense(Dense),
    /// Probabilities from logits.
    Softmax,
    /// Each row divided by its L2 norm.
    Normalise,
    /// Layers applied in sequence.
    Sequence(Vec<Layer>),
    /// Branches applied to the same input, concatenated along the channels.
    Concat(Vec<Layer>),
    /// shortcut(x) + scale·body(x), then the activation.
    Residual {
        body: Box<Layer>,
        shortcut: Option<Box<Layer>>,
        scale: f64,
        activation: Activation,
    },
    /// Tokens from pixels.
    Embed(Embed),
    /// A transformer block on tokens (batch, tokens, width).
    Encoder(Box<Encoder>),
    LayerNorm(LayerNorm),
    /// The class token (the first token): (batch, tokens, width) to (batch, width).
    ClassToken,
    /// The class token concatenated with the mean of the other tokens: (batch, 2·width).
    ClassAndMean,
}

/// A convolution with its bias or normalization, and its activation.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    weight: Tensor,
    /// Zeros without a gradient if the published network has no bias.
    bias: Tensor,
    norm: Option<Norm>,
    config: ConvConfig,
    /// The number of trainable parameters. It is stored because freezing folds some parameters
    /// into others.
    parameters: usize,
}

/// The normalization after a convolution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum NormKind {
    /// Batch norm with this epsilon.
    Batch(f64),
    /// ActNorm, initialized from the first batch.
    Act,
}

/// A normalization of each channel.
#[derive(Clone, Debug)]
pub(super) enum Norm {
    Batch(BatchNorm),
    Act(ActNorm),
}

/// A batch norm with its running statistics.
#[derive(Clone, Debug)]
pub(super) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Var,
    variance: Var,
    eps: f64,
}

/// The weight of a new batch in the running statistics (PyTorch's default).
const MOMENTUM: f64 = 0.1;

impl Norm {
    pub(super) fn new(channels: usize, kind: NormKind, at: &Scope) -> Result<Self> {
        Ok(match kind {
            NormKind::Batch(eps) => Self::Batch(BatchNorm::new(channels, eps, at)?),
            NormKind::Act => Self::Act(ActNorm::new(channels, at)?),
        })
    }

    fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
        match self {
            Self::Batch(norm) => norm.forward(x, activation, mode),
            Self::Act(norm) => {
                if mode == Mode::Training {
                    norm.initialize_with_notice(x, "a layer's output")?;
                }
                norm.activated(x, activation)
            }
        }
    }

    /// The scale and the shift of each channel.
    fn affine(&self) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Batch(norm) => norm.affine(),
            Self::Act(norm) => norm.affine(),
        }
    }

    fn parameters(&self) -> usize {
        match self {
            Self::Batch(norm) => 2 * norm.weight.elem_count(),
            Self::Act(norm) => 2 * norm.channels(),
        }
    }

    fn frozen(&self, to: &Placement) -> Result<Self> {
        Ok(Self::Batch(match self {
            Self::Batch(norm) => norm.frozen(to)?,
            Self::Act(norm) => {
                let (scale, shift) = norm.affine()?;
                let fixed = |value: f32| -> Result<Var> {
                    let all = Tensor::full(value, norm.channels(), &to.device)?;
                    Ok(Var::from_tensor(&all.to_dtype(to.dtype)?)?)
                };
                BatchNorm {
                    weight: constant(&scale, to)?,
                    bias: constant(&shift, to)?,
                    mean: fixed(0.0)?,
                    variance: fixed(1.0)?,
                    eps: 0.0,
                }
            }
        }))
    }
}

impl BatchNorm {
    fn new(channels: usize, eps: f64, at: &Scope) -> Result<Self> {
        let tensor = |name, start| -> Result<Tensor> {
            Ok(at
                .get(channels, name, Init::Const(start))?
                .as_tensor()
                .clone())
        };
        Ok(Self {
            weight: tensor("weight", 1.0)?,
            bias: tensor("bias", 0.0)?,
            mean: at.buffer(channels, "running_mean", Init::Const(0.0))?,
            variance: at.buffer(channels, "running_var", Init::Const(1.0))?,
            eps,
        })
    }

    fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
        let affine = [&self.weight, &self.bias];
        if mode == Mode::Evaluation {
            let running = [self.mean.as_tensor(), self.variance.as_tensor()];
            return batch_norm(x, running, affine, self.eps, activation);
        }
        let [weight, bias] = affine;
        let normed = batch_norm_training(x, weight, bias, self.eps, activation)?;
        let count = (x.elem_count() / self.mean.elem_count()) as f64;
        let update = |running: &Var, new: &Tensor, factor: f64| -> Result<()> {
            let old = (wide(&running.as_tensor().detach())? * (1.0 - MOMENTUM))?;
            let new = (old + (wide(new)? * (factor * MOMENTUM))?)?;
            Ok(running.set(&new.to_dtype(running.dtype())?)?)
        };
        update(&self.mean, &normed.mean, 1.0)?;
        update(&self.variance, &normed.variance, count / (count - 1.0))?;
        Ok(normed.y)
    }

    /// The scale and the shift of each channel, in f32 for parameters in half precision.
    fn affine(&self) -> Result<(Tensor, Tensor)> {
        let rstd = (wide(&self.variance.as_tensor().detach())? + self.eps)?
            .sqrt()?
            .recip()?;
        let scale = (wide(&self.weight)? * rstd)?;
        let mean = wide(&self.mean.as_tensor().detach())?;
        let shift = (wide(&self.bias)? - (mean * &scale)?)?;
        Ok((scale, shift))
    }

    fn frozen(&self, to: &Placement) -> Result<Self> {
        let copy = |var: &Var| -> Result<Var> {
            // `copy` is needed so that the new variable does not share storage with the old one.
            Ok(Var::from_tensor(&constant(var.as_tensor(), to)?.copy()?)?)
        };
        Ok(Self {
            weight: constant(&self.weight, to)?,
            bias: constant(&self.bias, to)?,
            mean: copy(&self.mean)?,
            variance: copy(&self.variance)?,
            ..self.clone()
        })
    }
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

    fn forward(&self, x: &Tensor, activation: Activation, mode: Mode) -> Result<Tensor> {
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

    fn frozen(&self, to: &Placement) -> Result<Self> {
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

    fn shape(&self, image: &[usize]) -> Result<Vec<usize>> {
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
}

fn too_small(image: &[usize]) -> Error {
    Error::shape(format!(
        "maps of shape {image:?} (channels, height, width) are too small: use larger images"
    ))
}

/// A dense layer with its activation; the weight has shape (outputs, inputs).
#[derive(Clone, Debug)]
pub(super) struct Dense {
    weight: Tensor,
    bias: Tensor,
    activation: Activation,
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
}

impl Layer {
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        Ok(match self {
            Self::Conv(conv) => conv.forward(x, conv.config.activation, mode)?,
            Self::Norm(norm) => norm.forward(x, Activation::None, mode)?,
            Self::Relu => leaky_relu(x, 0.0)?,
            Self::MaxPool(config) => max_pool2d(x, *config)?,
            Self::AvgPool(config) => avg_pool2d(x, *config)?,
            Self::AdaptivePool(size) => adaptive_avg_pool2d(x, (*size, *size))?,
            Self::GlobalMean => wide(x)?.flatten_from(2)?.mean(2)?.to_dtype(x.dtype())?,
            Self::Dense(dense) => dense.forward(x, dense.activation)?,
            Self::Softmax => softmax(x)?,
            Self::Normalise => {
                let values = wide(x)?;
                let length = (values.sqr()?.sum_keepdim(1)?.sqrt()? + 1e-12)?;
                values.broadcast_div(&length)?.to_dtype(x.dtype())?
            }
            Self::Sequence(layers) => run(&layers.iter().collect::<Vec<_>>(), x, mode)?,
            Self::Concat(layers) => {
                let parts = layers.iter().map(|l| l.forward(x, mode));
                Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?
            }
            Self::Residual {
                body,
                shortcut,
                scale,
                activation,
            } => {
                let body = body.forward(x, mode)?;
                let body = if *scale == 1.0 {
                    body
                } else {
                    (body * *scale)?
                };
                match shortcut {
                    Some(shortcut) => add(&shortcut.forward(x, mode)?, &body, *activation)?,
                    None => add(x, &body, *activation)?,
                }
            }
            Self::Embed(embed) => embed.forward(x)?,
            Self::Encoder(encoder) => encoder.forward(x)?,
            Self::LayerNorm(norm) => norm.forward(x)?,
            Self::ClassToken => x.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?,
            Self::ClassAndMean => {
                let (_, tokens, _) = x.dims3()?;
                let class = x.narrow(1, 0, 1)?.squeeze(1)?;
                let others = wide(&x.narrow(1, 1, tokens.saturating_sub(1))?)?.mean(1)?;
                Tensor::cat(&[class, others.to_dtype(x.dtype())?], 1)?
            }
        })
    }

    /// Applies this layer and the ReLU after it in one pass, with identical results. Returns
    /// `None` if no such pass exists.
    fn with_relu(&self, x: &Tensor, mode: Mode) -> Option<Result<Tensor>> {
        match self {
            Self::Conv(conv) if conv.config.activation == Activation::None => {
                Some(conv.forward(x, RELU, mode))
            }
            Self::Norm(norm) => Some(norm.forward(x, RELU, mode)),
            Self::Dense(dense) if dense.activation == Activation::None => {
                Some(dense.forward(x, RELU))
            }
            _ => None,
        }
    }

    /// The shape of the output for one image, given the shape of the input, both without the
    /// batch.
    pub(super) fn shape(&self, x: &[usize]) -> Result<Vec<usize>> {
        let pooled = |config: &PoolConfig| match x {
            &[c, h, w] => match config.size_of(h).zip(config.size_of(w)) {
                Some((h, w)) => Ok(vec![c, h, w]),
                None => Err(too_small(x)),
            },
            _ => Err(Error::shape(format!(
                "expected maps of shape (channels, height, width), found {x:?}"
            ))),
        };
        match self {
            Self::Conv(conv) => conv.shape(x),
            Self::Norm(_) | Self::Relu | Self::Softmax | Self::Normalise => Ok(x.to_vec()),
            Self::Encoder(_) | Self::LayerNorm(_) => Ok(x.to_vec()),
            Self::MaxPool(config) | Self::AvgPool(config) => pooled(config),
            Self::AdaptivePool(size) => Ok(vec![first(x), *size, *size]),
            Self::GlobalMean => Ok(vec![first(x)]),
            Self::Dense(dense) => {
                let (outputs, inputs) = dense.weight.dims2()?;
                if x.iter().product::<usize>() != inputs {
                    return Err(Error::shape(format!(
                        "expected {inputs} elements per image, found shape {x:?}: use images of \
                         the network's size"
                    )));
                }
                Ok(vec![outputs])
            }
            Self::Sequence(layers) => layers.iter().try_fold(x.to_vec(), |x, l| l.shape(&x)),
            Self::Concat(layers) => {
                let mut parts = layers.iter().map(|l| l.shape(x));
                let mut sum = parts.next().unwrap_or_else(|| Ok(x.to_vec()))?;
                for part in parts {
                    let part = part?;
                    if part.get(1..) != sum.get(1..) {
                        return Err(too_small(x));
                    }
                    if let Some(channels) = sum.first_mut() {
                        *channels += first(&part);
                    }
                }
                Ok(sum)
            }
            Self::Residual { body, .. } => body.shape(x),
            Self::Embed(embed) => embed.shape(x),
            Self::ClassToken => Ok(x.last().copied().into_iter().collect()),
            Self::ClassAndMean => Ok(x.last().map(|n| 2 * n).into_iter().collect()),
        }
    }

    /// The number of trainable parameters.
    pub(super) fn parameters(&self) -> usize {
        match self {
            Self::Conv(conv) => conv.parameters,
            Self::Norm(norm) => norm.parameters(),
            Self::Dense(dense) => dense.parameters(),
            Self::Sequence(layers) | Self::Concat(layers) => {
                layers.iter().map(Self::parameters).sum()
            }
            Self::Residual { body, shortcut, .. } => {
                body.parameters() + shortcut.as_ref().map_or(0, |s| s.parameters())
            }
            Self::Embed(embed) => embed.parameters(),
            Self::Encoder(encoder) => encoder.parameters(),
            Self::LayerNorm(norm) => norm.parameters(),
            Self::Relu
            | Self::MaxPool(_)
            | Self::AvgPool(_)
            | Self::AdaptivePool(_)
            | Self::GlobalMean
            | Self::Softmax
            | Self::Normalise
            | Self::ClassToken
            | Self::ClassAndMean => 0,
        }
    }

    /// The layer as a constant on a device and with a number type: its parameters have no
    /// gradient, and each batch norm is folded into the convolution before it.
    pub(super) fn frozen(&self, to: &Placement) -> Result<Self> {
        let all = |layers: &[Self]| {
            let each = layers.iter().map(|l| l.frozen(to));
            each.collect::<Result<Vec<_>>>()
        };
        Ok(match self {
            Self::Conv(conv) => Self::Conv(conv.frozen(to)?),
            Self::Norm(norm) => Self::Norm(norm.frozen(to)?),
            Self::Dense(dense) => Self::Dense(dense.frozen(to)?),
            Self::Sequence(layers) => Self::Sequence(all(layers)?),
            Self::Concat(layers) => Self::Concat(all(layers)?),
            Self::Residual {
                body,
                shortcut,
                scale,
                activation,
            } => Self::Residual {
                body: Box::new(body.frozen(to)?),
                shortcut: match shortcut {
                    Some(shortcut) => Some(Box::new(shortcut.frozen(to)?)),
                    None => None,
                },
                scale: *scale,
                activation: *activation,
            },
            Self::Embed(embed) => Self::Embed(embed.frozen(to)?),
            Self::Encoder(encoder) => Self::Encoder(Box::new(encoder.frozen(to)?)),
            Self::LayerNorm(norm) => Self::LayerNorm(norm.frozen(to)?),
            other => other.clone(),
        })
    }
}

/// Returns an error for a layer without inputs or outputs. It would fail later as well, but with
/// a message that does not contain the layer's name.
fn check_sizes(inputs: usize, outputs: usize, at: &Scope) -> Result<()> {
    if inputs > 0 && outputs > 0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "expected widths and classes of at least 1, found {inputs} inputs and {outputs} outputs in \
         layer {}",
        at.name()
    )))
}

/// A parameter's values without a gradient, on a device and with a number type.
pub(super) fn constant(parameter: &Tensor, to: &Placement) -> Result<Tensor> {
    to.take(&parameter.detach())
}

fn first(x: &[usize]) -> usize {
    x.first().copied().unwrap_or(0)
}

/// Applies layers in sequence. A layer and the ReLU after it run in one pass if the layer
/// supports it.
pub(super) fn run(layers: &[&Layer], x: &Tensor, mode: Mode) -> Result<Tensor> {
    let mut x = x.clone();
    let mut at = 0;
    while let Some(layer) = layers.get(at) {
        let fused = match layers.get(at + 1) {
            Some(Layer::Relu) => layer.with_relu(&x, mode),
            _ => None,
        };
        at += if fused.is_some() { 2 } else { 1 };
        x = match fused {
            Some(y) => y?,
            None => layer.forward(&x, mode)?,
        };
    }
    Ok(x)
}
