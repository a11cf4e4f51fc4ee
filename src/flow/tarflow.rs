//! [`TarFlow`]: an autoregressive flow of causal transformers.

use super::attention::{Cache, Transformer, TransformerConfig};
use super::{
    ActNorm, Condition, Embedder, Flow, check_batch, check_finite, normal, required, rows,
};
use crate::ops::{Placement, Rng, Scope, repeated};
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The name of the network in error messages.
const NAME: &str = "a TarFlow";

/// The largest absolute log-scale of a block. It keeps codes that are far from all training codes
/// from giving infinite numbers; trained blocks stay far below it.
const LIMIT: f64 = 4.0;

/// The largest group that [`TarFlowConfig::new`] chooses.
const LARGEST_GROUP: usize = 8;

/// The smallest number of tokens that [`TarFlowConfig::new`] chooses, where the code allows it.
const FEWEST_TOKENS: usize = 4;

/// The configuration of a [`TarFlow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TarFlowConfig {
    /// Dimension of the code z̄.
    pub dim: usize,
    /// The shape of z.
    pub condition: Condition,
    /// Number of consecutive elements of the code that form one token. It divides `dim`. Within a
    /// block, the elements of a token do not depend on each other.
    pub group: usize,
    /// Number of autoregressive blocks. The order of the elements is reversed between them.
    pub flows: usize,
    /// Number of transformer layers per block.
    pub layers: usize,
    /// Width of the transformers.
    pub hidden: usize,
    /// Number of attention heads. It divides `hidden`.
    pub heads: usize,
    /// Number of widths in the embedder of a vector, input and output included.
    pub conditioning_depth: usize,
}

impl TarFlowConfig {
    /// Returns a configuration for some minutes of training on two CPU cores: 4 blocks of 2
    /// layers with width 64 and 4 heads, and tokens of at most 8 elements.
    pub fn new(dim: usize, condition: Condition) -> Self {
        let divides = |group: &usize| dim.is_multiple_of(*group);
        let largest = (dim / FEWEST_TOKENS).clamp(1, LARGEST_GROUP);
        Self {
            dim,
            condition,
            group: (1..=largest).rev().find(divides).unwrap_or(1),
            flows: 4,
            layers: 2,
            hidden: 64,
            heads: 4,
            conditioning_depth: 4,
        }
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            self.dim,
            self.group,
            self.flows,
            self.layers,
            self.hidden,
            self.heads,
        ];
        if sizes.contains(&0) {
            return Err(Error::invalid(format!(
                "expected sizes of at least 1 for {NAME}, found {self:?}"
            )));
        }
        if !self.dim.is_multiple_of(self.group) || !self.hidden.is_multiple_of(self.heads) {
            return Err(Error::invalid(format!(
                "expected a group that divides the code and heads that divide the width, found \
                 groups of {} of {} elements, and {} heads for a width of {}",
                self.group, self.dim, self.heads, self.hidden
            )));
        }
        Ok(())
    }
}

/// A transformer autoregressive flow (Zhai et al. 2024,
/// [arXiv 2412.06329](https://arxiv.org/abs/2412.06329)), conditioned on z.
///
/// The code is divided into tokens of consecutive elements. In each block a causal transformer
/// reads the tokens before the i-th and the embedding of z, and returns mean μᵢ and log-scale αᵢ of
/// that token: vᵢ = (xᵢ − μᵢ)·exp(−αᵢ). The order of the elements is reversed from block to block.
/// All means and log-scales are 0 before training. The embedding of z is added to every token. This is
/// not a copy of the published network: an ActNorm comes first, the first token is transformed
/// too (by z alone), log-scales are limited to ±4, and no noise is added to the codes.
///
/// [`Flow::forward`] evaluates all tokens at once; [`Flow::inverse`] computes one after the other,
/// with a cache of keys and values, and takes longer.
///
/// ```
/// use invariances::flow::{Condition, Flow, TarFlow, TarFlowConfig};
/// use invariances::{candle_core::Device, ops::{Params, Rng}};
/// let params = Params::new(0);
/// let t = TarFlow::new(&TarFlowConfig::new(24, Condition::Vector(10)), &params.root())?;
/// assert_eq!(t.config().group, 6); // four tokens
/// let mut rng = Rng::new(1);
/// let (code, z) = (rng.normal((32, 24), &Device::Cpu)?, rng.normal((32, 10), &Device::Cpu)?);
/// t.initialize(&code, Some(&z))?;
/// let (v, logdet) = t.forward(&code, Some(&z))?;
/// assert_eq!((v.dims(), logdet.dims()), (&[32, 24][..], &[32][..]));
/// assert_eq!(t.sample(Some(&z), 4, &mut rng)?.dims(), [128, 24]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct TarFlow {
    config: TarFlowConfig,
    norm: ActNorm,
    embedder: Embedder,
    blocks: Vec<Transformer>,
}

impl TarFlow {
    /// Creates the network below `scope`, with parameters `norm`, `embedder` and `blocks`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a size is 0, the group does not divide the code, or the heads do not
    /// divide the width; [`Error::Shape`] if parameters of these names exist with other shapes.
    pub fn new(config: &TarFlowConfig, scope: &Scope) -> Result<Self> {
        config.check()?;
        let transformer = TransformerConfig {
            tokens: config.dim / config.group,
            token: config.group,
            hidden: config.hidden,
            heads: config.heads,
            layers: config.layers,
        };
        let blocks = scope.pp("blocks");
        Ok(Self {
            config: config.clone(),
            norm: ActNorm::new(config.dim, &scope.pp("norm"))?,
            embedder: Embedder::new(
                config.condition,
                config.hidden,
                config.conditioning_depth,
                &scope.pp("embedder"),
            )?,
            blocks: (0..config.flows)
                .map(|i| Transformer::new(transformer, &blocks.pp(i)))
                .collect::<Result<_>>()?,
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &TarFlowConfig {
        &self.config
    }

    /// Returns the same network for evaluation: parameters are shared, and results keep no graph.
    pub fn detached(&self) -> Self {
        Self {
            config: self.config.clone(),
            norm: self.norm.detached(),
            embedder: self.embedder.detached(),
            blocks: self.blocks.iter().map(Transformer::detached).collect(),
        }
    }

    fn at(&self) -> Placement {
        Placement::of(self.blocks[0].parameter())
    }

    /// Checks a batch and returns it with z, both where the parameters are.
    fn checked(&self, x: &Tensor, z: Option<&Tensor>, what: &str) -> Result<(Tensor, Tensor)> {
        let at = self.at();
        let (x, z) = (at.take(x)?, at.take(required(z, NAME)?)?);
        rows(&x, self.config.dim, what)?;
        check_finite(&x, what)?;
        check_batch(&x, &z)?;
        Ok((x, z))
    }

    /// The number of tokens.
    fn tokens(&self) -> usize {
        self.config.dim / self.config.group
    }

    /// Inverts all blocks. `embedding` has one row for each row of v.
    fn invert(&self, v: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        let (batch, group) = (v.dim(0)?, self.config.group);
        let mut h = v.clone();
        for (i, block) in self.blocks.iter().enumerate().rev() {
            let of_z = block.of_z(embedding)?;
            let mut cache = Cache::default();
            let mut known: Vec<Tensor> = Vec::with_capacity(self.tokens());
            for token in 0..self.tokens() {
                let raw = block.next(known.last(), &of_z, &mut cache)?;
                let (mean, log_scale) = parameters(&raw, group)?;
                let v = h.narrow(1, token * group, group)?;
                known.push(((v * log_scale.exp()?)? + mean)?);
            }
            h = Tensor::cat(&known, 1)?.reshape((batch, self.config.dim))?;
            if i > 0 {
                h = reversed(&h)?;
            }
        }
        self.norm.inverse(&h, None)
    }
}

/// Splits (…, 2·group) into mean and log-scale.
fn parameters(raw: &Tensor, group: usize) -> Result<(Tensor, Tensor)> {
    let last = raw.rank() - 1;
    let log_scale = (raw.narrow(last, group, group)? / LIMIT)?.tanh()?;
    Ok((raw.narrow(last, 0, group)?, (log_scale * LIMIT)?))
}

/// Reverses the order of the columns.
fn reversed(x: &Tensor) -> Result<Tensor> {
    let columns = x.dim(1)? as u32;
    let order: Vec<u32> = (0..columns).rev().collect();
    let order = Tensor::from_vec(order, columns as usize, x.device())?;
    Ok(x.contiguous()?.index_select(&order, 1)?)
}

impl Flow for TarFlow {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (x, z) = self.checked(x, condition, "codes")?;
        let embedding = self.embedder.forward(&z)?;
        let (batch, group) = (x.dim(0)?, self.config.group);
        let (mut h, mut logdet) = self.norm.forward(&x, None)?;
        for (i, block) in self.blocks.iter().enumerate() {
            if i > 0 {
                h = reversed(&h)?;
            }
            let tokens = h.reshape((batch, self.tokens(), group))?;
            let raw = block.all(&tokens, &block.of_z(&embedding)?)?;
            let (mean, log_scale) = parameters(&raw, group)?;
            h = ((tokens - mean)? * log_scale.neg()?.exp()?)?.flatten_from(1)?;
            logdet = (logdet - log_scale.flatten_from(1)?.sum(1)?)?;
        }
        Ok((h, logdet))
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let (v, z) = self.checked(v, condition, "v")?;
        self.invert(&v, &self.embedder.forward(&z)?)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.config.dim)
    }

    fn placement(&self) -> Option<Placement> {
        Some(self.at())
    }

    fn frozen(&self) -> Option<Arc<dyn Flow>> {
        Some(Arc::new(self.detached()))
    }

    fn initialize(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<()> {
        let (x, z) = self.checked(x, condition, "codes")?;
        self.norm
            .initialize_with_notice(&x.detach(), "the codes of a flow")?;
        self.embedder.initialize(&z.detach())
    }

    fn sample(&self, condition: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let t = self.detached();
        let z = t.at().take(&required(condition, NAME)?.detach())?;
        let v = normal(n * z.dim(0)?, self.config.dim, rng, z.dtype(), z.device())?;
        t.invert(&v, &repeated(&t.embedder.forward(&z)?, n)?)
    }

    fn outline(&self) -> Outline {
        let TarFlowConfig {
            dim,
            condition,
            group,
            ..
        } = self.config;
        Outline::new(format!(
            "TarFlow({dim}, condition={condition:?}, group={group})"
        ))
        .with_parts([
            self.norm.outline().named("norm"),
            self.embedder.outline().named("embedder"),
        ])
        .with_parts(self.blocks.iter().map(Transformer::outline))
    }
}

shows_outline!(TarFlow);
