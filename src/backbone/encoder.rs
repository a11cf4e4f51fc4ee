//! The parts of a vision transformer: the embedding of patches, layer norm, and the block.

use super::layer::{Dense, constant};
use super::transformer::{Family, TransformerConfig};
use crate::ops::{ConvConfig, Init, Placement, Scope, conv2d, layer_norm, resize_bicubic, softmax};
use crate::{Error, Result};
use candle_core::Tensor;

/// Layer norm over the elements of a token.
#[derive(Clone, Debug)]
pub(super) struct LayerNorm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl LayerNorm {
    pub(super) fn new(width: usize, eps: f64, at: &Scope) -> Result<Self> {
        let weight = at.get(width, "weight", Init::Const(1.0))?;
        let bias = at.get(width, "bias", Init::Const(0.0))?;
        Ok(Self {
            weight: weight.as_tensor().clone(),
            bias: bias.as_tensor().clone(),
            eps,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.eps)
    }

    pub(super) fn parameters(&self) -> usize {
        2 * self.weight.elem_count()
    }

    /// Describes the layer in a line.
    pub(super) fn text(&self) -> String {
        format!(
            "LayerNorm({}, eps={:e})",
            self.weight.elem_count(),
            self.eps
        )
    }

    pub(super) fn frozen(&self, to: &Placement) -> Result<Self> {
        Ok(Self {
            weight: constant(&self.weight, to)?,
            bias: constant(&self.bias, to)?,
            eps: self.eps,
        })
    }
}

/// The embedding: the class token, then the patches as tokens, plus position embeddings.
#[derive(Clone, Debug)]
pub(super) struct Embed {
    weight: Tensor,
    /// Zeros without a gradient if the published network has no bias.
    bias: Tensor,
    class: Tensor,
    /// (tokens, width); the first row belongs to the class token.
    position: Tensor,
    parameters: usize,
}

impl Embed {
    pub(super) fn new(config: &TransformerConfig, at: &Scope) -> Result<Self> {
        let TransformerConfig {
            patch, width: d, ..
        } = *config;
        let tokens = (config.image / patch.max(1)).pow(2) + 1;
        let (class, position, projection) = match config.family {
            Family::Clip => (
                at.get(d, "class_embedding", Init::Normal(0.02))?,
                at.pp("position_embedding")
                    .get((tokens, d), "weight", Init::Normal(0.02))?,
                at.pp("patch_embedding"),
            ),
            _ => (
                at.get((1, 1, d), "cls_token", Init::Normal(0.02))?,
                at.get((1, tokens, d), "position_embeddings", Init::Normal(0.02))?,
                at.pp("patch_embeddings.projection"),
            ),
        };
        let weight = projection.get((d, 3, patch, patch), "weight", Init::FanIn)?;
        let bias = match config.family {
            Family::Clip => Tensor::zeros(d, at.dtype(), at.device())?,
            _ => projection
                .get(d, "bias", Init::Const(0.0))?
                .as_tensor()
                .clone(),
        };
        let has_bias = config.family != Family::Clip;
        Ok(Self {
            parameters: weight.elem_count()
                + if has_bias { d } else { 0 }
                + class.elem_count()
                + position.elem_count(),
            weight: weight.as_tensor().clone(),
            bias,
            class: class.as_tensor().clone(),
            position: position.as_tensor().clone(),
        })
    }

    fn grid(&self, h: usize, w: usize) -> Result<(usize, usize)> {
        let patch = self.weight.dim(2)?;
        if h == 0 || w == 0 || !h.is_multiple_of(patch) || !w.is_multiple_of(patch) {
            return Err(Error::shape(format!(
                "expected images whose height and width are multiples of the patch size {patch}, \
                 found {h}×{w}"
            )));
        }
        Ok((h / patch, w / patch))
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, _, h, w) = x.dims4()?;
        let (rows, columns) = self.grid(h, w)?;
        let config = ConvConfig {
            stride: self.weight.dim(2)?,
            ..ConvConfig::default()
        };
        let patches = conv2d(x, &self.weight, &self.bias, config)?
            .flatten_from(2)?
            .transpose(1, 2)?;
        let d = self.bias.elem_count();
        let class = self.class.reshape((1, 1, d))?;
        let class = class.broadcast_as((batch, 1, d))?;
        let position = self.position(rows, columns)?;
        let tokens = Tensor::cat(&[class.contiguous()?, patches.contiguous()?], 1)?;
        Ok(tokens.broadcast_add(&position)?)
    }

    /// The position embeddings (tokens, width), interpolated if the grid is not the trained one.
    fn position(&self, rows: usize, columns: usize) -> Result<Tensor> {
        let d = self.bias.elem_count();
        let all = self.position.reshape(((), d))?;
        let count = all.dim(0)? - 1;
        let side = count.isqrt();
        if (rows, columns) == (side, side) {
            return Ok(all);
        }
        let grid = all
            .narrow(0, 1, count)?
            .t()?
            .contiguous()?
            .reshape((1, d, side, side))?;
        let grid = resize_bicubic(&grid, (rows, columns))?
            .reshape((d, rows * columns))?
            .t()?;
        Ok(Tensor::cat(&[all.narrow(0, 0, 1)?, grid.contiguous()?], 0)?)
    }

    pub(super) fn shape(&self, image: &[usize]) -> Result<Vec<usize>> {
        match image {
            &[3, h, w] => {
                let (rows, columns) = self.grid(h, w)?;
                Ok(vec![rows * columns + 1, self.bias.elem_count()])
            }
            _ => Err(Error::shape(format!(
                "expected images with 3 channels, found shape {image:?}"
            ))),
        }
    }

    pub(super) fn parameters(&self) -> usize {
        self.parameters
    }

    /// Describes the layer in a line.
    pub(super) fn text(&self) -> String {
        let dims = self.weight.dims();
        let width = self.bias.elem_count();
        let tokens = self.position.elem_count() / width.max(1);
        format!(
            "PatchEmbedding({}, {width}, patch={}, tokens={tokens})",
            dims[1], dims[2]
        )
    }

    pub(super) fn frozen(&self, to: &Placement) -> Result<Self> {
        Ok(Self {
            weight: constant(&self.weight, to)?,
            bias: constant(&self.bias, to)?,
            class: constant(&self.class, to)?,
            position: constant(&self.position, to)?,
            parameters: self.parameters,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Gelu {
    /// x·Φ(x), the definition (arXiv 1606.08415).
    Exact,
    /// x·σ(1.702 x), as in CLIP.
    Quick,
    /// The tanh approximation, as in candle-transformers' DINOv2.
    #[cfg(test)]
    Tanh,
}

impl Gelu {
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Exact => x.gelu_erf()?,
            Self::Quick => ((x * 1.702)?.silu()? / 1.702)?,
            #[cfg(test)]
            Self::Tanh => x.gelu()?,
        })
    }
}

/// A transformer block: attention and then an MLP, each after a layer norm and with a shortcut.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    pub(super) norms: [LayerNorm; 2],
    pub(super) query: Dense,
    pub(super) key: Dense,
    pub(super) value: Dense,
    pub(super) out: Dense,
    pub(super) perceptron: [Dense; 2],
    /// The factor of each branch before it is added (DINOv2's layer scale).
    pub(super) scales: Option<[Tensor; 2]>,
    pub(super) heads: usize,
    pub(super) gelu: Gelu,
}

impl Encoder {
    pub(super) fn new(config: &TransformerConfig, at: &Scope) -> Result<Self> {
        let (d, family) = (config.width, config.family);
        // Names of: both norms, query, key, value, the attention's output, both layers of the
        // MLP.
        let names = match family {
            Family::Vit => [
                "layernorm_before",
                "layernorm_after",
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            ],
            Family::Dinov2 => [
                "norm1",
                "norm2",
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
                "mlp.fc1",
                "mlp.fc2",
            ],
            Family::Clip => [
                "layer_norm1",
                "layer_norm2",
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.out_proj",
                "mlp.fc1",
                "mlp.fc2",
            ],
        };
        let eps = eps(family);
        let norm = |i: usize| LayerNorm::new(d, eps, &at.pp(names[i]));
        let square = |i: usize| Dense::new(d, d, &at.pp(names[i]));
        let scale = |name: &str| -> Result<Tensor> {
            let lambda = at.pp(name).get(d, "lambda1", Init::Const(1.0))?;
            Ok(lambda.as_tensor().clone())
        };
        Ok(Self {
            norms: [norm(0)?, norm(1)?],
            query: square(2)?,
            key: square(3)?,
            value: square(4)?,
            out: square(5)?,
            perceptron: [
                Dense::new(d, config.hidden, &at.pp(names[6]))?,
                Dense::new(config.hidden, d, &at.pp(names[7]))?,
            ],
            scales: match family {
                Family::Dinov2 => Some([scale("layer_scale1")?, scale("layer_scale2")?]),
                _ => None,
            },
            heads: config.heads,
            gelu: match family {
                Family::Clip => Gelu::Quick,
                _ => Gelu::Exact,
            },
        })
    }

    fn attend(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, d) = x.dims3()?;
        let each = d / self.heads;
        let split = |layer: &Dense| -> Result<Tensor> {
            let y = layer.tokens(x)?;
            let y = y.reshape((batch, tokens, self.heads, each))?;
            Ok(y.transpose(1, 2)?.contiguous()?)
        };
        let query = (split(&self.query)? / (each as f64).sqrt())?;
        let key = split(&self.key)?.t()?.contiguous()?;
        let weights = softmax(&query.matmul(&key)?)?;
        let y = weights.matmul(&split(&self.value)?)?;
        let y = y.transpose(1, 2)?.contiguous()?;
        self.out.tokens(&y.reshape((batch, tokens, d))?)
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let scaled = |y: Tensor, i: usize| -> Result<Tensor> {
            Ok(match &self.scales {
                Some(scales) => y.broadcast_mul(&scales[i])?,
                None => y,
            })
        };
        let [norm1, norm2] = &self.norms;
        let x = (x + scaled(self.attend(&norm1.forward(x)?)?, 0)?)?;
        let [wide, narrow] = &self.perceptron;
        let y = wide.tokens(&norm2.forward(&x)?)?;
        let y = narrow.tokens(&self.gelu.forward(&y)?)?;
        Ok((&x + scaled(y, 1)?)?)
    }

    fn dense(&self) -> [&Dense; 6] {
        let [wide, narrow] = &self.perceptron;
        [&self.query, &self.key, &self.value, &self.out, wide, narrow]
    }

    pub(super) fn parameters(&self) -> usize {
        let dense: usize = self.dense().iter().map(|d| d.parameters()).sum();
        let norms: usize = self.norms.iter().map(LayerNorm::parameters).sum();
        let scales = self.scales.iter().flatten().map(Tensor::elem_count);
        dense + norms + scales.sum::<usize>()
    }

    /// Describes the block in a line.
    pub(super) fn text(&self) -> String {
        let dims = self.perceptron[0].weight.dims();
        format!(
            "TransformerBlock({}, heads={}, hidden={})",
            dims[1], self.heads, dims[0]
        )
    }

    pub(super) fn frozen(&self, to: &Placement) -> Result<Self> {
        let [norm1, norm2] = &self.norms;
        let [wide, narrow] = &self.perceptron;
        let scales = match &self.scales {
            Some([a, b]) => Some([constant(a, to)?, constant(b, to)?]),
            None => None,
        };
        Ok(Self {
            norms: [norm1.frozen(to)?, norm2.frozen(to)?],
            query: self.query.frozen(to)?,
            key: self.key.frozen(to)?,
            value: self.value.frozen(to)?,
            out: self.out.frozen(to)?,
            perceptron: [wide.frozen(to)?, narrow.frozen(to)?],
            scales,
            heads: self.heads,
            gelu: self.gelu,
        })
    }
}

/// The epsilon of a family's layer norms.
pub(super) fn eps(family: Family) -> f64 {
    match family {
        Family::Vit => 1e-12,
        Family::Dinov2 => 1e-6,
        Family::Clip => 1e-5,
    }
}
