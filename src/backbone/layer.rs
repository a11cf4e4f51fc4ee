//! The layers of the networks in this crate. A [`Layer`] computes the shape of its output without
//! running, and can be frozen.

use super::Mode;
use super::encoder::{Embed, Encoder, LayerNorm};
use crate::ops::widened as wide;
use crate::ops::{
    Activation, Placement, PoolConfig, Scope, adaptive_avg_pool2d, add, avg_pool2d, leaky_relu,
    max_pool2d, softmax,
};
use crate::{Error, Outline, Result, outline};
use candle_core::Tensor;

pub(super) use super::conv::Conv;
pub(super) use super::dense::Dense;
pub(super) use super::norm::{Norm, NormKind};

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

    /// Describes the layer and its parts.
    pub(super) fn outline(&self) -> Outline {
        let window = |name: &str, config: &PoolConfig, mean: bool| {
            let PoolConfig {
                kernel,
                stride,
                padding,
                ceil,
                count_padding,
            } = *config;
            let mut text = format!("{name}(kernel_size={kernel}, stride={stride}");
            if padding > 0 {
                text += &format!(", padding={padding}");
            }
            if ceil {
                text += ", ceil_mode=True";
            }
            if mean && padding > 0 && !count_padding {
                text += ", count_include_pad=False";
            }
            text + ")"
        };
        let parts = |text: &str, layers: &[Self]| {
            Outline::new(text).with_parts(layers.iter().map(Self::outline))
        };
        let text = match self {
            Self::Sequence(layers) => return parts("Sequential", layers),
            Self::Concat(layers) => return parts("Concat", layers),
            Self::Residual {
                body,
                shortcut,
                scale,
                activation,
            } => {
                let scale = match *scale == 1.0 {
                    true => String::new(),
                    false => format!("(scale={scale})"),
                };
                let text = format!("Residual{scale}{}", outline::activation(*activation));
                let shortcut = shortcut.iter().map(|s| s.outline().named("shortcut"));
                let body = match &**body {
                    Self::Sequence(layers) => &layers[..],
                    body => std::slice::from_ref(body),
                };
                return parts(&text, body).with_parts(shortcut);
            }
            Self::Conv(conv) => conv.text(),
            Self::Norm(norm) => norm.text(),
            Self::Relu => "ReLU()".into(),
            Self::MaxPool(config) => window("MaxPool2d", config, false),
            Self::AvgPool(config) => window("AvgPool2d", config, true),
            Self::AdaptivePool(size) => format!("AdaptiveAvgPool2d({size})"),
            Self::GlobalMean => "GlobalAvgPool2d()".into(),
            Self::Dense(dense) => dense.text(),
            Self::Softmax => "Softmax()".into(),
            Self::Normalise => "Normalize()".into(),
            Self::Embed(embed) => embed.text(),
            Self::Encoder(encoder) => encoder.text(),
            Self::LayerNorm(norm) => norm.text(),
            Self::ClassToken => "ClassToken()".into(),
            Self::ClassAndMean => "ClassAndMean()".into(),
        };
        Outline::new(text).with_parameters(self.parameters())
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

/// A parameter's values without a gradient, on a device and with a number type.
pub(super) fn constant(parameter: &Tensor, to: &Placement) -> Result<Tensor> {
    to.take(&parameter.detach())
}

pub(super) fn too_small(image: &[usize]) -> Error {
    Error::shape(format!(
        "maps of shape {image:?} (channels, height, width) are too small: use larger images"
    ))
}

/// Returns an error for a layer without inputs or outputs. It would fail later as well, but with
/// a message that does not contain the layer's name.
pub(super) fn check_sizes(inputs: usize, outputs: usize, at: &Scope) -> Result<()> {
    if inputs > 0 && outputs > 0 {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "expected widths and classes of at least 1, found {inputs} inputs and {outputs} outputs in \
         layer {}",
        at.name()
    )))
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
