//! The generator of BigGAN (arXiv 1809.11096), with the structure and parameter names of the port
//! that the paper's authors used.

use crate::flow::ActNorm;
use crate::ops::widened as wide;
use crate::ops::{
    Activation, ConvConfig, Init, Placement, PoolConfig, Scope, batch_norm, conv2d, dense,
    leaky_relu, max_pool2d, resize_nearest, softmax,
};
use crate::outline::{convolution, linear};
use crate::{Error, Outline, Result};
use candle_core::{D, Tensor, Var};

/// The epsilon of all batch norms in this file and of the power iteration.
const EPS: f64 = 1e-4;

/// A spectrally normalised weight: the weight divided by its largest singular value (arXiv
/// 1802.05957). The singular value is computed by one step of the power iteration from the stored
/// vector `u`. As in the original network, `u` is not updated.
#[derive(Clone, Debug)]
struct Spectral {
    weight: Tensor,
    u: Tensor,
    bias: Tensor,
    /// Number of elements of the bias; 0 if it is not a parameter.
    bias_length: usize,
}

impl Spectral {
    /// Creates a weight whose first dimension is the outputs; only some of the original's layers
    /// have a bias.
    fn new(shape: &[usize], biased: bool, at: &Scope) -> Result<Self> {
        let at = at.pp("module");
        let outputs = shape.first().copied().unwrap_or(0);
        let weight = at.get(shape, "weight_bar", Init::Normal(0.02))?;
        // Checkpoints contain both vectors; v is computed from u.
        let u = at.buffer(outputs, "weight_u", Init::Normal(1.0))?;
        at.buffer(outputs, "weight_v", Init::Normal(1.0))?;
        let bias = if biased {
            let bias = at.get(outputs, "bias", Init::Const(0.0))?;
            bias.as_tensor().clone()
        } else {
            Tensor::zeros(outputs, at.dtype(), at.device())?
        };
        Ok(Self {
            weight: weight.as_tensor().clone(),
            u: u.as_tensor().clone(),
            bias,
            bias_length: if biased { outputs } else { 0 },
        })
    }

    fn detached(&self) -> Self {
        Self {
            weight: self.weight.detach(),
            u: self.u.detach(),
            bias: self.bias.detach(),
            bias_length: self.bias_length,
        }
    }

    /// Describes the layer, named.
    fn outline(&self, name: &str) -> Outline {
        let (dims, biased) = (self.weight.dims(), self.bias_length > 0);
        let text = match dims {
            [_, _, kernel, _] => {
                let config = ConvConfig {
                    padding: ((kernel - 1) / 2, (kernel - 1) / 2),
                    ..ConvConfig::default()
                };
                convolution(&self.weight, &config, biased, false)
            }
            _ => linear(&self.weight, biased),
        };
        Outline::new(format!("SpectralNorm, {text}"))
            .with_parameters(self.weight.elem_count() + self.bias_length)
            .named(name)
    }

    /// Returns the normalised weight. The gradient passes through the singular value, but not
    /// through its singular vectors. In half precision, the singular value is computed in f32.
    fn weight(&self) -> Result<Tensor> {
        let weight = wide(&self.weight)?;
        let flat = weight.flatten_from(1)?;
        let unit = |x: Tensor| -> Result<Tensor> {
            let norm = (x.sqr()?.sum_all()?.sqrt()? + EPS)?;
            Ok(x.broadcast_div(&norm)?)
        };
        let fixed = flat.detach();
        let u = wide(&self.u.detach())?.unsqueeze(1)?;
        let v = unit(fixed.t()?.matmul(&u)?)?;
        let u = unit(fixed.matmul(&v)?)?;
        let sigma = (flat.matmul(&v)? * u)?.sum_all()?;
        let normalised = weight.broadcast_div(&sigma)?;
        Ok(normalised.to_dtype(self.weight.dtype())?)
    }

    fn dense(&self, x: &Tensor) -> Result<Tensor> {
        dense(x, &self.weight()?, &self.bias, Activation::None)
    }

    fn conv(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight()?;
        let padding = (weight.dim(2)? - 1) / 2;
        let config = ConvConfig {
            padding: (padding, padding),
            ..ConvConfig::default()
        };
        conv2d(x, &weight, &self.bias, config)
    }
}

/// The running statistics of a batch norm without learned parameters.
#[derive(Clone, Debug)]
struct Statistics {
    mean: Var,
    variance: Var,
}

impl Statistics {
    fn new(channels: usize, at: &Scope) -> Result<Self> {
        Ok(Self {
            mean: at.buffer(channels, "running_mean", Init::Const(0.0))?,
            variance: at.buffer(channels, "running_var", Init::Const(1.0))?,
        })
    }
}

/// A conditional batch norm: its scale and shift depend on the condition.
#[derive(Clone, Debug)]
struct Conditional {
    statistics: Statistics,
    gamma: Spectral,
    beta: Spectral,
    channels: usize,
}

impl Conditional {
    fn new(channels: usize, condition: usize, at: &Scope) -> Result<Self> {
        let shape = [channels, condition];
        Ok(Self {
            statistics: Statistics::new(channels, &at.pp("bn"))?,
            gamma: Spectral::new(&shape, false, &at.pp("gamma_embed"))?,
            beta: Spectral::new(&shape, false, &at.pp("beta_embed"))?,
            channels,
        })
    }

    fn detached(&self) -> Self {
        Self {
            statistics: self.statistics.clone(),
            gamma: self.gamma.detached(),
            beta: self.beta.detached(),
            channels: self.channels,
        }
    }

    fn outline(&self) -> Outline {
        Outline::new(format!("ConditionalBatchNorm({})", self.channels))
            .with_parts([self.gamma.outline("scale"), self.beta.outline("shift")])
    }

    fn forward(&self, x: &Tensor, condition: &Tensor) -> Result<Tensor> {
        let one = Tensor::ones(self.channels, x.dtype(), x.device())?;
        let zero = one.zeros_like()?;
        let Statistics { mean, variance } = &self.statistics;
        let running = [mean.as_tensor(), variance.as_tensor()];
        let normed = batch_norm(x, running, [&one, &zero], EPS, Activation::None)?;
        let map = |t: Tensor| t.reshape(((), self.channels, 1, 1));
        let gamma = map((self.gamma.dense(condition)? + 1.0)?)?;
        let beta = map(self.beta.dense(condition)?)?;
        Ok(normed.broadcast_mul(&gamma)?.broadcast_add(&beta)?)
    }
}

/// A residual block that doubles height and width.
#[derive(Clone, Debug)]
struct Block {
    norms: [Conditional; 2],
    convolutions: [Spectral; 2],
    shortcut: Spectral,
}

impl Block {
    fn new(inputs: usize, outputs: usize, condition: usize, at: &Scope) -> Result<Self> {
        let conv = |inputs: usize, kernel: usize, name: &str| {
            Spectral::new(&[outputs, inputs, kernel, kernel], true, &at.pp(name))
        };
        Ok(Self {
            norms: [
                Conditional::new(inputs, condition, &at.pp("HyperBN"))?,
                Conditional::new(outputs, condition, &at.pp("HyperBN_1"))?,
            ],
            convolutions: [conv(inputs, 3, "conv0")?, conv(outputs, 3, "conv1")?],
            shortcut: conv(inputs, 1, "conv_sc")?,
        })
    }

    fn detached(&self) -> Self {
        Self {
            norms: [self.norms[0].detached(), self.norms[1].detached()],
            convolutions: [
                self.convolutions[0].detached(),
                self.convolutions[1].detached(),
            ],
            shortcut: self.shortcut.detached(),
        }
    }

    fn outline(&self) -> Outline {
        Outline::new("ResidualUp").with_parts([
            self.norms[0].outline(),
            self.convolutions[0].outline("conv0"),
            self.norms[1].outline(),
            self.convolutions[1].outline("conv1"),
            self.shortcut.outline("shortcut"),
        ])
    }

    fn forward(&self, x: &Tensor, condition: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = x.dims4()?;
        let twice = |x: &Tensor| resize_nearest(x, (2 * h, 2 * w));
        let [norm, norm_1] = &self.norms;
        let [conv, conv_1] = &self.convolutions;
        let y = leaky_relu(&norm.forward(x, condition)?, 0.0)?;
        let y = conv.conv(&twice(&y)?)?;
        let y = leaky_relu(&norm_1.forward(&y, condition)?, 0.0)?;
        // A 1×1 convolution commutes with nearest-neighbour upsampling. Applied before it, the
        // convolution needs a quarter of the work.
        let shortcut = twice(&self.shortcut.conv(x)?)?;
        Ok((conv_1.conv(&y)? + shortcut)?)
    }
}

/// Self-attention over all positions of a feature map (arXiv 1805.08318).
#[derive(Clone, Debug)]
struct Attention {
    theta: Spectral,
    phi: Spectral,
    g: Spectral,
    out: Spectral,
    gamma: Tensor,
}

impl Attention {
    fn new(channels: usize, at: &Scope) -> Result<Self> {
        let conv = |outputs: usize, inputs: usize, name: &str| {
            Spectral::new(&[outputs, inputs, 1, 1], false, &at.pp(name))
        };
        let gamma = at.get(1, "gamma", Init::Const(0.0))?;
        Ok(Self {
            theta: conv(channels / 8, channels, "theta")?,
            phi: conv(channels / 8, channels, "phi")?,
            g: conv(channels / 2, channels, "g")?,
            out: conv(channels, channels / 2, "o_conv")?,
            gamma: gamma.as_tensor().clone(),
        })
    }

    fn detached(&self) -> Self {
        Self {
            theta: self.theta.detached(),
            phi: self.phi.detached(),
            g: self.g.detached(),
            out: self.out.detached(),
            gamma: self.gamma.detach(),
        }
    }

    fn outline(&self) -> Outline {
        Outline::new("SelfAttention")
            .with_parameters(self.gamma.elem_count())
            .with_parts([
                self.theta.outline("theta"),
                self.phi.outline("phi"),
                self.g.outline("g"),
                self.out.outline("out"),
            ])
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, _, h, w) = x.dims4()?;
        let pooled = |y: Tensor| -> Result<Tensor> {
            Ok(max_pool2d(&y, PoolConfig::new(2, 2))?.flatten_from(2)?)
        };
        let theta = self.theta.conv(x)?.flatten_from(2)?.transpose(1, 2)?;
        let phi = pooled(self.phi.conv(x)?)?;
        let g = pooled(self.g.conv(x)?)?;
        let weights = softmax(&theta.contiguous()?.matmul(&phi)?)?;
        let attended = g.matmul(&weights.transpose(1, 2)?.contiguous()?)?;
        let attended = attended.reshape((batch, (), h, w))?;
        let out = self.out.conv(&attended)?;
        Ok((out.broadcast_mul(&self.gamma.reshape((1, 1, 1, 1))?)? + x)?)
    }
}

#[derive(Clone, Debug)]
enum LastNorm {
    Batch {
        statistics: Statistics,
        weight: Tensor,
        bias: Tensor,
    },
    Act(ActNorm),
}

/// The generator. Its inputs are noise and a class embedding. The noise is split into pieces: one
/// for the first feature map and one per block.
#[derive(Clone, Debug)]
pub(super) struct Generator {
    /// The lengths of the noise pieces.
    pieces: Vec<usize>,
    /// Channels of the first feature map.
    first: usize,
    embedding: Tensor,
    start: Spectral,
    blocks: Vec<Block>,
    /// Index of the block before which self-attention is applied.
    attention_at: usize,
    attention: Attention,
    last: LastNorm,
    image: Spectral,
}

/// Length of a class embedding.
pub(super) const EMBEDDING: usize = 128;
/// Number of classes, those of ImageNet.
pub(super) const CLASSES: usize = 1000;
/// Length of the noise piece of a block.
const PIECE: usize = 20;

impl Generator {
    /// Creates a generator. `widths` are the channels of the first feature map and of each
    /// block's output. If `act_norm` is true, the last norm is an ActNorm, otherwise a batch
    /// norm.
    pub(super) fn new(noise: usize, widths: &[usize], act_norm: bool, at: &Scope) -> Result<Self> {
        let count = widths.len().saturating_sub(1);
        let pieces: Vec<usize> = noise
            .checked_sub(count * PIECE)
            .filter(|first| *first > 0 && count > 0)
            .map(|first| {
                std::iter::once(first)
                    .chain(std::iter::repeat_n(PIECE, count))
                    .collect()
            })
            .ok_or_else(|| {
                Error::invalid(format!(
                    "expected more than {} elements of noise for a generator of {count} blocks, \
                     found {noise}",
                    count * PIECE
                ))
            })?;
        let condition = PIECE + EMBEDDING;
        let blocks = widths
            .windows(2)
            .enumerate()
            .map(|(i, pair)| Block::new(pair[0], pair[1], condition, &at.pp("GBlock").pp(i)));
        let (first, last) = (widths[0], widths[count]);
        let norm = at.pp("ScaledCrossReplicaBN");
        let last_norm = if act_norm {
            LastNorm::Act(ActNorm::new(last, &norm)?)
        } else {
            let weight = norm.get(last, "weight", Init::Const(1.0))?;
            let bias = norm.get(last, "bias", Init::Const(0.0))?;
            LastNorm::Batch {
                statistics: Statistics::new(last, &norm)?,
                weight: weight.as_tensor().clone(),
                bias: bias.as_tensor().clone(),
            }
        };
        let embedding = at
            .pp("linear")
            .get((EMBEDDING, CLASSES), "weight", Init::Normal(0.02))?;
        Ok(Self {
            first,
            embedding: embedding.as_tensor().clone(),
            start: Spectral::new(&[16 * first, pieces[0]], true, &at.pp("G_linear"))?,
            blocks: blocks.collect::<Result<_>>()?,
            attention_at: count - 1,
            attention: Attention::new(widths[count - 1], &at.pp("attention"))?,
            last: last_norm,
            image: Spectral::new(&[3, last, 3, 3], true, &at.pp("colorize"))?,
            pieces,
        })
    }

    /// Returns the device and the number type of the parameters.
    pub(super) fn placement(&self) -> Placement {
        Placement::of(&self.embedding)
    }

    /// Computes the embedding (batch, 128) of class probabilities (batch, 1000).
    pub(super) fn embed(&self, classes: &Tensor) -> Result<Tensor> {
        let none = Tensor::zeros(EMBEDDING, classes.dtype(), classes.device())?;
        dense(classes, &self.embedding, &none, Activation::None)
    }

    /// Describes the layers, in the order in which they are applied.
    pub(super) fn outline(&self) -> Outline {
        let embedding = Outline::new(linear(&self.embedding, false))
            .with_parameters(self.embedding.elem_count())
            .named("embedding");
        let mut parts = vec![embedding, self.start.outline("start")];
        for (i, block) in self.blocks.iter().enumerate() {
            if i == self.attention_at {
                parts.push(self.attention.outline());
            }
            parts.push(block.outline());
        }
        let norm = match &self.last {
            LastNorm::Act(norm) => Outline::new(format!("ActNorm({}), ReLU", norm.channels()))
                .with_parameters(2 * norm.channels()),
            LastNorm::Batch { weight, .. } => {
                let channels = weight.elem_count();
                Outline::new(format!("BatchNorm({channels}, eps={EPS:e}), ReLU"))
                    .with_parameters(2 * channels)
            }
        };
        parts.extend([norm, self.image.outline("image")]);
        Outline::new("Generator").with_parts(parts)
    }

    /// Returns the same generator with shared parameters; its images keep no graph.
    pub(super) fn detached(&self) -> Self {
        Self {
            embedding: self.embedding.detach(),
            start: self.start.detached(),
            blocks: self.blocks.iter().map(Block::detached).collect(),
            attention: self.attention.detached(),
            last: match &self.last {
                LastNorm::Act(norm) => LastNorm::Act(norm.detached()),
                LastNorm::Batch {
                    statistics,
                    weight,
                    bias,
                } => LastNorm::Batch {
                    statistics: statistics.clone(),
                    weight: weight.detach(),
                    bias: bias.detach(),
                },
            },
            image: self.image.detached(),
            ..self.clone()
        }
    }

    /// Generates images from noise (batch, noise) and an embedding (batch, 128).
    pub(super) fn forward(&self, noise: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        self.last(&self.before_last(noise, embedding)?)
    }

    /// Evaluates all layers but the last.
    pub(super) fn before_last(&self, noise: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        let (batch, _) = noise.dims2()?;
        let mut from = 0;
        let mut piece = |length: usize| -> Result<Tensor> {
            let piece = noise.narrow(1, from, length)?.contiguous()?;
            from += length;
            Ok(piece)
        };
        let start = self.start.dense(&piece(self.pieces[0])?)?;
        let mut x = start
            .reshape((batch, 4, 4, self.first))?
            .permute((0, 3, 1, 2))?
            .contiguous()?;
        for (i, block) in self.blocks.iter().enumerate() {
            if i == self.attention_at {
                x = self.attention.forward(&x)?;
            }
            let condition = Tensor::cat(&[&piece(PIECE)?, embedding], D::Minus1)?;
            x = block.forward(&x, &condition)?;
        }
        match &self.last {
            LastNorm::Act(norm) => leaky_relu(&norm.normalize(&x)?, 0.0),
            LastNorm::Batch {
                statistics: Statistics { mean, variance },
                weight,
                bias,
            } => {
                let running = [mean.as_tensor(), variance.as_tensor()];
                batch_norm(&x, running, [weight, bias], EPS, Activation::Leaky(0.0))
            }
        }
    }

    /// Evaluates the last layer.
    pub(super) fn last(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.image.conv(hidden)?.tanh()?)
    }

    /// Returns the weight of the last layer, where the gradients of the losses are compared.
    pub(super) fn last_layer(&self) -> Tensor {
        self.image.weight.clone()
    }
}
