//! The factor network e, which splits a code into semantic factors, and the choice of the
//! factors' sizes.

use super::chain::{BlockConfig, Chain, Names};
use super::statistics::check_varies;
use super::{Coupling, Flow, FlowActivation, Memory, Mixing, check_finite, normal, rows};
use crate::ops::{Rng, Scope, host};
use crate::{Error, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

/// The configuration of e.
///
/// ```
/// use invariances::flow::FactorConfig;
/// let config = FactorConfig { hidden: 64, ..FactorConfig::new(vec![5, 4, 7]) };
/// assert_eq!((config.code(), config.flows), (16, 12));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactorConfig {
    /// Size of each factor. The last one is the residual, which no named concept explains.
    pub factors: Vec<usize>,
    /// Width of the nets s and t of each coupling.
    pub hidden: usize,
    /// Number of hidden layers of the nets s and t after the first.
    pub depth: usize,
    /// Number of blocks.
    pub flows: usize,
    /// The nonlinearity of a block.
    #[serde(default)]
    pub activation: FlowActivation,
    /// How one half of the code transforms the other.
    #[serde(default)]
    pub coupling: Coupling,
    /// The mixing layer after the coupling.
    #[serde(default)]
    pub mixing: Mixing,
}

impl FactorConfig {
    /// Returns the authors' configuration (12 flows, hidden 512, depth 2) for factors of these
    /// sizes, the residual last.
    pub fn new(factors: Vec<usize>) -> Self {
        Self {
            factors,
            hidden: 512,
            depth: 2,
            flows: 12,
            activation: FlowActivation::None,
            coupling: Coupling::default(),
            mixing: Mixing::default(),
        }
    }

    /// Returns the dimension of the code, the sum of all factor sizes.
    pub fn code(&self) -> usize {
        self.factors.iter().sum()
    }
}

/// The invertible factor network e, which splits a code into semantic factors: (e₀ … e_K) = e(z̄)
/// (Esser, Rombach, Ommer 2020, [arXiv 2004.13166](https://arxiv.org/abs/2004.13166); arXiv
/// 2008.01777, section 3.3).
///
/// It is trained with [`crate::loss::pair_nll`] on pairs of codes that share a concept. Factor k
/// then holds what the images of concept k have in common, and the residual holds the rest.
/// [`FactorInn::inverse`] turns edited factors back into a code. As in the authors' networks, the
/// residual is the **last** factor (the paper calls it e₀). Clones share the parameters.
///
/// ```
/// use invariances::{candle_core::Device, flow::{FactorConfig, FactorInn}, ops::{Params, Rng}};
/// let params = Params::new(0);
/// let config = FactorConfig { hidden: 16, flows: 2, ..FactorConfig::new(vec![2, 4]) };
/// let e = FactorInn::new(&config, &params.root())?;
/// let code = Rng::new(1).normal((32, 6), &Device::Cpu)?;
/// e.initialize(&code)?;
/// let (factors, _logdet) = e.forward(&code)?;
/// let parts = e.split(&factors)?;
/// assert_eq!((parts[0].dims(), parts[1].dims()), (&[32, 2][..], &[32, 4][..]));
/// // Puts factor 0 of the first image into the code of the second.
/// let (first, second) = (factors.narrow(0, 0, 1)?, factors.narrow(0, 1, 1)?);
/// let swapped = e.inverse(&e.swap(&second, &first, 0)?)?;
/// assert_eq!(swapped.dims(), [1, 6]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FactorInn {
    config: FactorConfig,
    chain: Chain,
    dtype: DType,
    device: Device,
}

impl FactorInn {
    /// Creates the network below `scope`, with the parameter names of the authors' checkpoints
    /// (`realnvp.flow.0.flow.0…`).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the configuration is invalid, or if parameters of these names exist
    /// with other shapes.
    pub fn new(config: &FactorConfig, scope: &Scope) -> Result<Self> {
        if config.factors.is_empty() || config.factors.contains(&0) {
            return Err(Error::invalid(format!(
                "e needs at least one factor, each of at least 1 number, found {:?}; the last is the residual",
                config.factors
            )));
        }
        let block = BlockConfig {
            code: config.code(),
            condition: 0,
            hidden: config.hidden,
            depth: config.depth,
            activation: config.activation,
            coupling: config.coupling,
            mixing: config.mixing,
        };
        let flow = scope.pp("realnvp").pp("flow");
        let chain = Chain::new(&block, config.flows, |i| {
            let place = flow.pp(i).pp("flow");
            Names {
                norm: place.pp(0),
                coupling: place.pp(1),
                mixing: place.pp(2),
            }
        })?;
        Ok(Self {
            config: config.clone(),
            chain,
            dtype: scope.dtype(),
            device: scope.device().clone(),
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &FactorConfig {
        &self.config
    }

    /// Returns the same network for evaluation: parameters are shared, and results keep no graph.
    pub fn detached(&self) -> Self {
        Self {
            chain: self.chain.detached(),
            ..self.clone()
        }
    }

    /// Returns the same network with shared parameters and another memory setting of the backward
    /// pass.
    pub fn with_memory(&self, memory: Memory) -> Self {
        Self {
            chain: self.chain.with_memory(memory),
            ..self.clone()
        }
    }

    /// Returns the largest drift of a backward pass so far; see [`super::Cinn::drift`].
    pub fn drift(&self) -> Option<f64> {
        self.chain.drift()
    }

    /// Returns whether every ActNorm was initialised, from data or from a checkpoint.
    ///
    /// # Errors
    /// [`Error::Tensor`] if a flag cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        self.chain.is_initialized()
    }

    /// Initialises every ActNorm from a batch of codes; see [`super::Cinn::initialize`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a batch of one, which has no standard deviation, for codes in which
    /// every column is constant, for a shape that does not fit, and for NaN or infinity.
    pub fn initialize(&self, code: &Tensor) -> Result<()> {
        if self.is_initialized()? {
            return Ok(());
        }
        let code = &self.chain.take(code)?;
        self.check(code, "the code")?;
        check_varies(code)?;
        self.chain.initialize(code, &self.no_condition(code)?)
    }

    /// Returns all factors concatenated, (batch, code), and log|det ∂e/∂z̄|, (batch,), in nats.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the shape does not fit, or if a value is NaN or infinite.
    pub fn forward(&self, code: &Tensor) -> Result<(Tensor, Tensor)> {
        let code = &self.chain.take(code)?;
        self.check(code, "the code")?;
        self.chain.forward(code, &self.no_condition(code)?)
    }

    /// Returns the code z̄ of concatenated factors, (batch, code).
    ///
    /// # Errors
    /// As [`FactorInn::forward`].
    pub fn inverse(&self, factors: &Tensor) -> Result<Tensor> {
        let factors = &self.chain.take(factors)?;
        self.check(factors, "the factors")?;
        self.chain.inverse(factors, &self.no_condition(factors)?, 1)
    }

    /// Splits concatenated factors into one tensor (batch, factor size) per factor, the residual
    /// last.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `factors` is (batch, code).
    pub fn split(&self, factors: &Tensor) -> Result<Vec<Tensor>> {
        rows(factors, self.config.code(), "the factors")?;
        let mut start = 0;
        let parts = self.config.factors.iter().map(|&size| {
            start += size;
            Ok(factors.narrow(1, start - size, size)?.contiguous()?)
        });
        parts.collect()
    }

    /// Returns `factors` with factor `k` replaced by that of `other`; both are (batch, code).
    ///
    /// # Errors
    /// [`Error::Invalid`] if factor `k` does not exist, or if the shapes differ.
    pub fn swap(&self, factors: &Tensor, other: &Tensor, k: usize) -> Result<Tensor> {
        let (mut parts, others) = (self.split(factors)?, self.split(other)?);
        super::check_batch(factors, other)?;
        let Some(place) = parts.get_mut(k) else {
            return Err(Error::invalid(format!(
                "there is no factor {k}: e has {}, 0 to {} (the residual)",
                others.len(),
                others.len() - 1
            )));
        };
        *place = others[k].clone();
        Ok(Tensor::cat(&parts, 1)?)
    }

    fn check(&self, x: &Tensor, what: &str) -> Result<()> {
        rows(x, self.config.code(), what)?;
        check_finite(x, what)
    }

    fn no_condition(&self, x: &Tensor) -> Result<Tensor> {
        // A view: a GPU has no memory of length 0.
        Ok(x.detach().narrow(1, 0, 0)?)
    }
}

impl Flow for FactorInn {
    fn forward(&self, x: &Tensor, _: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        FactorInn::forward(self, x)
    }

    fn inverse(&self, v: &Tensor, _: Option<&Tensor>) -> Result<Tensor> {
        FactorInn::inverse(self, v)
    }

    fn code(&self) -> Option<usize> {
        Some(self.config.code())
    }

    /// Samples `n` codes; a condition is ignored. The results keep no graph.
    fn sample(&self, _: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let v = normal(n, self.config.code(), rng, self.dtype, &self.device)?;
        self.detached().inverse(&v)
    }
}

/// Chooses the size of each concept's factor in e, and, last, of the residual. The sizes depend
/// on the share of the code's variance that two images of a concept have in common (arXiv
/// 2004.13166, section 3.3).
///
/// `a` and `b` are codes (pairs, code); the images of pair i share concept `factor[i]` (0 …
/// `concepts` − 1). A concept's score is the covariance of a and b over its pairs, summed over
/// the code's dimensions and divided by the variance of all codes. The residual's score is 1. The
/// sizes are proportional to the softmax of the scores, rounded down; the remainder goes to the
/// residual.
///
/// # Errors
/// [`Error::Invalid`] if the shapes do not fit, a concept has no pair or is not in 0 … `concepts`
/// − 1, a value is NaN or infinite, all codes are equal, or a concept would get size 0.
pub fn factor_dims(
    a: &Tensor,
    b: &Tensor,
    factor: &[usize],
    concepts: usize,
) -> Result<Vec<usize>> {
    let (pairs, code) = a.dims2()?;
    if b.dims() != a.dims() || factor.len() != pairs || pairs == 0 || concepts == 0 {
        return Err(Error::invalid(format!(
            "the sizes of factors need two tensors (pairs, code), a concept for each pair and at least 1 concept, found {:?}, {:?}, {} and {concepts}",
            a.dims(),
            b.dims(),
            factor.len()
        )));
    }
    check_finite(a, "the first codes")?;
    check_finite(b, "the second codes")?;
    if let Some(other) = factor.iter().find(|f| **f >= concepts) {
        return Err(Error::invalid(format!(
            "concept {other} is not among 0 … {}; the residual has no pairs",
            concepts - 1
        )));
    }
    let numbers = |t: &Tensor| -> Result<Vec<Vec<f64>>> { Ok(host(t)?.to_vec2()?) };
    let (a, b) = (numbers(a)?, numbers(b)?);
    let mut mean = vec![0.0; code];
    let mut variance = 0.0;
    let all = || a.iter().chain(&b);
    for row in all() {
        mean.iter_mut()
            .zip(row)
            .for_each(|(m, x)| *m += x / (2 * pairs) as f64);
    }
    for row in all() {
        let square = row
            .iter()
            .zip(&mean)
            .map(|(x, m)| (x - m).powi(2))
            .sum::<f64>();
        variance += square / (2 * pairs) as f64;
    }
    if variance == 0.0 {
        return Err(Error::invalid(
            "the codes are all the same, so no concept has a share of their variance",
        ));
    }
    let mut scores = Vec::with_capacity(concepts + 1);
    for concept in 0..concepts {
        let of = || {
            let rows = a.iter().zip(&b).zip(factor);
            rows.filter(move |(_, f)| **f == concept).map(|(ab, _)| ab)
        };
        let count = of().count() as f64;
        if count == 0.0 {
            return Err(Error::invalid(format!("concept {concept} has no pair")));
        }
        let mut mean = vec![0.0; code];
        for (x, y) in of() {
            let both = x.iter().zip(y);
            mean.iter_mut()
                .zip(both)
                .for_each(|(m, (x, y))| *m += 0.5 * (x + y) / count);
        }
        let covariance = of().map(|(x, y)| {
            let each = x.iter().zip(y).zip(&mean);
            each.map(|((x, y), m)| (x - m) * (y - m)).sum::<f64>()
        });
        scores.push(covariance.sum::<f64>() / count / variance);
    }
    scores.push(1.0);
    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut sizes: Vec<usize> = weights[..concepts]
        .iter()
        .map(|w| (w / sum * code as f64) as usize)
        .collect();
    if sizes.contains(&0) {
        return Err(Error::invalid(format!(
            "a code of {code} numbers is too small for {concepts} concepts and the residual: their sizes came out as {sizes:?}"
        )));
    }
    sizes.push(code - sizes.iter().sum::<usize>());
    Ok(sizes)
}
