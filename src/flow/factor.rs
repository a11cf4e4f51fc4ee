//! The factor network e, which splits a code into semantic factors, and the choice of the
//! factors' sizes.

use super::chain::{BlockConfig, Chain, Names};
use super::statistics::check_varies;
use super::{CouplingConfig, Flow, FlowActivation, Memory, Mixing, check_finite, normal, rows};
use crate::ops::{Placement, Rng, Scope, host};
use crate::outline::shows_outline;
use crate::{Error, Outline, Result};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

/// The configuration of e.
///
/// ```
/// use invariances::flow::FactorConfig;
/// let config = FactorConfig { hidden: 64, ..FactorConfig::new(vec![5, 4, 7]) };
/// assert_eq!((config.dim(), config.flows), (16, 12));
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
    pub coupling: CouplingConfig,
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
            coupling: CouplingConfig::default(),
            mixing: Mixing::default(),
        }
    }

    /// Returns the dimension of the code, the sum of all factor sizes.
    pub fn dim(&self) -> usize {
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
#[derive(Clone)]
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
    /// [`Error::Invalid`] if the configuration is invalid; [`Error::Shape`] if parameters of these
    /// names exist with other shapes.
    pub fn new(config: &FactorConfig, scope: &Scope) -> Result<Self> {
        if config.factors.is_empty() || config.factors.contains(&0) {
            return Err(Error::invalid(format!(
                "expected at least one factor and factor sizes of at least 1, found {:?}: the last \
                 factor is the residual",
                config.factors
            )));
        }
        let block = BlockConfig {
            code: config.dim(),
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
    /// [`Error::Shape`] for a shape that does not fit, and for a batch of one, which has no
    /// standard deviation; [`Error::Invalid`] for codes in which every column is constant, and for
    /// NaN or infinity.
    pub fn initialize(&self, code: &Tensor) -> Result<()> {
        if self.is_initialized()? {
            return Ok(());
        }
        let code = &self.chain.take(code)?;
        self.check(code, "codes")?;
        check_varies(code)?;
        self.chain.initialize(code, &self.no_condition(code)?)
    }

    /// Returns all factors concatenated, (batch, code), and log|det ∂e/∂z̄|, (batch,), in nats.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape does not fit; [`Error::Invalid`] if a value is NaN or
    /// infinite.
    pub fn forward(&self, code: &Tensor) -> Result<(Tensor, Tensor)> {
        let code = &self.chain.take(code)?;
        self.check(code, "codes")?;
        self.chain.forward(code, &self.no_condition(code)?)
    }

    /// Returns the code z̄ of concatenated factors, (batch, code).
    ///
    /// # Errors
    /// As [`FactorInn::forward`].
    pub fn inverse(&self, factors: &Tensor) -> Result<Tensor> {
        let factors = &self.chain.take(factors)?;
        self.check(factors, "factors")?;
        self.chain.inverse(factors, &self.no_condition(factors)?, 1)
    }

    /// Splits concatenated factors into one tensor (batch, factor size) per factor, the residual
    /// last.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `factors` is (batch, code).
    pub fn split(&self, factors: &Tensor) -> Result<Vec<Tensor>> {
        rows(factors, self.config.dim(), "factors")?;
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
    /// [`Error::Unknown`] if factor `k` does not exist; [`Error::Shape`] if the shapes differ.
    pub fn swap(&self, factors: &Tensor, other: &Tensor, k: usize) -> Result<Tensor> {
        let (mut parts, others) = (self.split(factors)?, self.split(other)?);
        let (count, other_count) = (factors.dim(0)?, other.dim(0)?);
        if count != other_count {
            return Err(Error::shape(format!(
                "expected factors of the same batch size, found {count} and {other_count}"
            )));
        }
        let Some(part) = parts.get_mut(k) else {
            return Err(Error::unknown(format!(
                "no factor {k}: the network has {} factors, numbered from 0 to {} (the residual)",
                others.len(),
                others.len() - 1
            )));
        };
        *part = others[k].clone();
        Ok(Tensor::cat(&parts, 1)?)
    }

    fn check(&self, x: &Tensor, what: &str) -> Result<()> {
        rows(x, self.config.dim(), what)?;
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

    fn dim(&self) -> Option<usize> {
        Some(self.config.dim())
    }

    fn placement(&self) -> Option<Placement> {
        Some(Placement {
            device: self.device.clone(),
            dtype: self.dtype,
        })
    }

    /// Initialises every ActNorm; see [`FactorInn::initialize`]. A condition is ignored.
    fn initialize(&self, x: &Tensor, _: Option<&Tensor>) -> Result<()> {
        FactorInn::initialize(self, x)
    }

    fn outline(&self) -> Outline {
        let factors = &self.config.factors;
        Outline::new(format!("FactorInn(factors={factors:?})")).with_parts(self.chain.outlines())
    }

    /// Samples `n` codes; a condition is ignored. The results keep no graph.
    fn sample(&self, _: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let v = normal(n, self.config.dim(), rng, self.dtype, &self.device)?;
        self.detached().inverse(&v)
    }
}

shows_outline!(FactorInn);

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
/// [`Error::Shape`] if the shapes do not fit; [`Error::Unknown`] for a concept that is not in 0 …
/// `concepts` − 1; [`Error::Invalid`] if a concept has no pair, a value is NaN or infinite, all
/// codes are equal, or a concept would get size 0.
pub fn factor_dims(
    a: &Tensor,
    b: &Tensor,
    factor: &[usize],
    concepts: usize,
) -> Result<Vec<usize>> {
    let (pairs, code) = a.dims2()?;
    if b.dims() != a.dims() || factor.len() != pairs || pairs == 0 || concepts == 0 {
        return Err(Error::shape(format!(
            "expected two tensors of codes (pairs, code), a concept for each pair and at least 1 \
             concept, found shapes {:?} and {:?}, {} pair labels and {concepts} concepts",
            a.dims(),
            b.dims(),
            factor.len()
        )));
    }
    check_finite(a, "the first codes")?;
    check_finite(b, "the second codes")?;
    if let Some(other) = factor.iter().find(|f| **f >= concepts) {
        return Err(Error::unknown(format!(
            "no concept {other}: expected 0 to {} (the residual has no pairs)",
            concepts - 1
        )));
    }
    let to_rows = |t: &Tensor| -> Result<Vec<Vec<f64>>> { Ok(host(t)?.to_vec2()?) };
    let (a, b) = (to_rows(a)?, to_rows(b)?);
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
            "expected codes that differ, found only equal codes: no concept can have a share of \
             their variance",
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
            return Err(Error::invalid(format!(
                "expected at least one pair of each concept, found none of concept {concept}"
            )));
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
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut sizes: Vec<usize> = weights[..concepts]
        .iter()
        .map(|w| (w / sum * code as f64) as usize)
        .collect();
    if sizes.contains(&0) {
        return Err(Error::invalid(format!(
            "expected a code with enough elements for {concepts} concepts and the residual, found \
             {code}, which gives the concepts the sizes {sizes:?}: use a longer code or fewer \
             concepts"
        )));
    }
    sizes.push(code - sizes.iter().sum::<usize>());
    Ok(sizes)
}
