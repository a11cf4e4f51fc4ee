//! The causal transformer of a [`TarFlow`](super::TarFlow), for all tokens at once and for one after
//! the other.

use super::layer::dense_parameters;
use crate::ops::{Activation, Init, Scope, dense, layer_norm, softmax, widened};
use crate::outline::{linear, parameters_of};
use crate::{Outline, Result};
use candle_core::{D, DType, Tensor};

/// Added to the variance in a layer norm, as in PyTorch.
const EPS: f64 = 1e-5;

/// The hidden width of the MLP in a layer, in multiples of the transformer's width.
const EXPANSION: usize = 2;

type Dense = (Tensor, Tensor);

/// Sizes of a [`Transformer`].
#[derive(Clone, Copy)]
pub(super) struct TransformerConfig {
    /// Number of tokens.
    pub(super) tokens: usize,
    /// Elements per token.
    pub(super) token: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
}

/// A transformer whose i-th output depends on the tokens before the i-th and on z.
///
/// The input at position i is the token before it (none at position 0), a learned position and a
/// linear map of the embedded z. The layers are pre-norm: attention, then an MLP with SiLU. The
/// output layer starts with zeros.
#[derive(Clone)]
pub(super) struct Transformer {
    config: TransformerConfig,
    input: Dense,
    /// (tokens, hidden).
    positions: Tensor,
    of_z: Dense,
    layers: Vec<Layer>,
    norm: Dense,
    output: Dense,
}

#[derive(Clone)]
struct Layer {
    heads: usize,
    first_norm: Dense,
    /// Queries, keys and values.
    qkv: Dense,
    projection: Dense,
    second_norm: Dense,
    mlp: [Dense; 2],
}

/// Keys and values of the tokens so far, (batch, heads, tokens, width), of each layer.
#[derive(Default)]
pub(super) struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    tokens: usize,
}

impl Transformer {
    pub(super) fn new(config: TransformerConfig, scope: &Scope) -> Result<Self> {
        let TransformerConfig {
            tokens,
            token,
            hidden,
            ..
        } = config;
        let layer = |inputs, outputs, at: &Scope| dense_parameters(inputs, outputs, &[], at);
        let layers = scope.pp("layers");
        let out = scope.pp("output");
        Ok(Self {
            config,
            input: layer(token, hidden, &scope.pp("input"))?,
            positions: scope
                .get((tokens, hidden), "positions", Init::Normal(0.02))?
                .into_inner(),
            of_z: layer(hidden, hidden, &scope.pp("z"))?,
            layers: (0..config.layers)
                .map(|i| Layer::new(hidden, config.heads, &layers.pp(i)))
                .collect::<Result<_>>()?,
            norm: norm_parameters(hidden, &scope.pp("norm"))?,
            output: (
                out.get((2 * token, hidden), "weight", Init::Const(0.0))?
                    .into_inner(),
                out.get(2 * token, "bias", Init::Const(0.0))?.into_inner(),
            ),
        })
    }

    /// Returns the same network with shared parameters; its results keep no graph.
    pub(super) fn detached(&self) -> Self {
        Self {
            config: self.config,
            input: detached(&self.input),
            positions: self.positions.detach(),
            of_z: detached(&self.of_z),
            layers: self.layers.iter().map(Layer::detached).collect(),
            norm: detached(&self.norm),
            output: detached(&self.output),
        }
    }

    /// Returns a parameter, for the placement of the network.
    pub(super) fn parameter(&self) -> &Tensor {
        &self.positions
    }

    /// Returns what z contributes to every token, (batch, hidden), from its embedding.
    pub(super) fn of_z(&self, embedding: &Tensor) -> Result<Tensor> {
        dense(
            &embedding.silu()?,
            &self.of_z.0,
            &self.of_z.1,
            Activation::None,
        )
    }

    /// Returns the outputs at all positions, (batch, tokens, 2·token).
    pub(super) fn all(&self, tokens: &Tensor, of_z: &Tensor) -> Result<Tensor> {
        let (batch, count, _) = tokens.dims3()?;
        let first = Tensor::zeros(
            (batch, 1, self.config.hidden),
            tokens.dtype(),
            tokens.device(),
        )?;
        let before = match count {
            1 => first,
            _ => {
                let before = tokens.narrow(1, 0, count - 1)?;
                Tensor::cat(&[first, linear_of(&before, &self.input)?], 1)?
            }
        };
        let h = before
            .broadcast_add(&self.positions.unsqueeze(0)?)?
            .broadcast_add(&of_z.unsqueeze(1)?)?;
        let mask = causal(count, &h)?;
        let h = self.layers.iter().try_fold(h, |h, layer| {
            layer.apply(&h, |scores| Ok(scores.broadcast_add(&mask)?), None)
        })?;
        self.outputs(&h)
    }

    /// Returns the output at the next position, (batch, 2·token), from the token before it, and
    /// adds to the cache.
    pub(super) fn next(
        &self,
        before: Option<&Tensor>,
        of_z: &Tensor,
        cache: &mut Cache,
    ) -> Result<Tensor> {
        let position = self.positions.narrow(0, cache.tokens, 1)?;
        let mut h = of_z.broadcast_add(&position)?;
        if let Some(token) = before {
            h = (h + dense(token, &self.input.0, &self.input.1, Activation::None)?)?;
        }
        let mut h = h.unsqueeze(1)?;
        for (i, layer) in self.layers.iter().enumerate() {
            h = layer.apply(&h, Ok, Some((cache, i)))?;
        }
        cache.tokens += 1;
        Ok(self.outputs(&h)?.squeeze(1)?)
    }

    fn outputs(&self, h: &Tensor) -> Result<Tensor> {
        let h = layer_norm(h, &self.norm.0, &self.norm.1, EPS)?;
        linear_of(&h, &self.output)
    }

    pub(super) fn outline(&self) -> Outline {
        let TransformerConfig {
            tokens,
            token,
            hidden,
            heads,
            ..
        } = self.config;
        let one = |name: &str, layer: &Dense| {
            Outline::new(linear(&layer.0, true))
                .with_parameters(parameters_of([&layer.0, &layer.1]))
                .named(name)
        };
        let layer = |layer: &Layer| {
            let parts = layer.parameters();
            Outline::new(format!("TransformerLayer({hidden}, heads={heads})"))
                .with_parameters(parameters_of(parts))
        };
        Outline::new(format!("CausalTransformer({tokens} tokens of {token})"))
            .with_parameters(parameters_of([&self.positions, &self.norm.0, &self.norm.1]))
            .with_parts([one("input", &self.input), one("z", &self.of_z)])
            .with_parts(self.layers.iter().map(layer))
            .with_parts([one("output", &self.output)])
    }
}

impl Layer {
    fn new(hidden: usize, heads: usize, scope: &Scope) -> Result<Self> {
        let layer =
            |inputs, outputs, name: &str| dense_parameters(inputs, outputs, &[], &scope.pp(name));
        Ok(Self {
            heads,
            first_norm: norm_parameters(hidden, &scope.pp("norm1"))?,
            qkv: layer(hidden, 3 * hidden, "qkv")?,
            projection: layer(hidden, hidden, "proj")?,
            second_norm: norm_parameters(hidden, &scope.pp("norm2"))?,
            mlp: [
                layer(hidden, EXPANSION * hidden, "mlp.0")?,
                layer(EXPANSION * hidden, hidden, "mlp.2")?,
            ],
        })
    }

    fn detached(&self) -> Self {
        Self {
            heads: self.heads,
            first_norm: detached(&self.first_norm),
            qkv: detached(&self.qkv),
            projection: detached(&self.projection),
            second_norm: detached(&self.second_norm),
            mlp: [detached(&self.mlp[0]), detached(&self.mlp[1])],
        }
    }

    fn parameters(&self) -> Vec<&Tensor> {
        let layers = [
            &self.first_norm,
            &self.qkv,
            &self.projection,
            &self.second_norm,
            &self.mlp[0],
            &self.mlp[1],
        ];
        layers.iter().flat_map(|(w, b)| [w, b]).collect()
    }

    /// Applies the layer to h (batch, tokens, hidden). With a cache, h is the newest token and
    /// attends to those in the cache too.
    fn apply(
        &self,
        h: &Tensor,
        masked: impl Fn(Tensor) -> Result<Tensor>,
        cache: Option<(&mut Cache, usize)>,
    ) -> Result<Tensor> {
        let (batch, tokens, hidden) = h.dims3()?;
        let width = hidden / self.heads;
        let normed = layer_norm(h, &self.first_norm.0, &self.first_norm.1, EPS)?;
        // (3, batch, heads, tokens, width)
        let qkv = linear_of(&normed, &self.qkv)?
            .reshape((batch, tokens, 3, self.heads, width))?
            .permute((2, 0, 3, 1, 4))?;
        let part = |i: usize| qkv.get(i)?.contiguous();
        let (query, mut key, mut value) = (part(0)?, part(1)?, part(2)?);
        if let Some((cache, i)) = cache {
            if let Some((keys, values)) = cache.layers.get(i) {
                key = Tensor::cat(&[keys, &key], 2)?;
                value = Tensor::cat(&[values, &value], 2)?;
            }
            let known = (key.clone(), value.clone());
            match cache.layers.get_mut(i) {
                Some(place) => *place = known,
                None => cache.layers.push(known),
            }
        }
        // In f32 also for half precision: sums over tokens need it.
        let scores = widened(&query)?.matmul(&widened(&key)?.t()?)?;
        let scores = masked((scores / (width as f64).sqrt())?)?;
        let attended = softmax(&scores)?.matmul(&widened(&value)?)?;
        let attended = attended.to_dtype(h.dtype())?;
        let joined = attended.transpose(1, 2)?.reshape((batch, tokens, hidden))?;
        let h = (h + linear_of(&joined, &self.projection)?)?;
        let normed = layer_norm(&h, &self.second_norm.0, &self.second_norm.1, EPS)?;
        let inner = linear_of(&normed, &self.mlp[0])?.silu()?;
        Ok((h + linear_of(&inner, &self.mlp[1])?)?)
    }
}

/// A dense layer on the last of three dimensions.
fn linear_of(x: &Tensor, layer: &Dense) -> Result<Tensor> {
    let (batch, tokens, width) = x.dims3()?;
    let flat = x.reshape((batch * tokens, width))?;
    let y = dense(&flat, &layer.0, &layer.1, Activation::None)?;
    let outputs = y.dim(D::Minus1)?;
    Ok(y.reshape((batch, tokens, outputs))?)
}

/// Weight (1 at the start) and bias (0) of a layer norm.
fn norm_parameters(width: usize, scope: &Scope) -> Result<Dense> {
    Ok((
        scope.get(width, "weight", Init::Const(1.0))?.into_inner(),
        scope.get(width, "bias", Init::Const(0.0))?.into_inner(),
    ))
}

/// (tokens, tokens): −10⁴ where a position would see a later one, 0 elsewhere.
fn causal(tokens: usize, like: &Tensor) -> Result<Tensor> {
    let mask: Vec<f32> = (0..tokens)
        .flat_map(|i| (0..tokens).map(move |j| if j > i { -1e4 } else { 0.0 }))
        .collect();
    let mask = Tensor::from_vec(mask, (tokens, tokens), like.device())?;
    Ok(match like.dtype() {
        DType::F64 => mask.to_dtype(DType::F64)?,
        _ => mask,
    })
}

fn detached(layer: &Dense) -> Dense {
    (layer.0.detach(), layer.1.detach())
}
