//! The conditional invertible network t, its configuration, and how its blocks receive the
//! condition z.

use super::chain::{BlockConfig, Chain, Names};
use super::layer::{dense_parameters, detached};
use super::statistics::check_varies;
use super::{
    Condition, CouplingConfig, Embedder, Flow, FlowActivation, Memory, Mixing, check_batch,
    check_finite, normal, required, rows,
};
use crate::ops::{Activation, Placement, Rng, Scope, dense};
use crate::outline::{linear, parameters_of, shows_outline};
use crate::{Outline, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How many z are embedded at once, where all are embedded beforehand.
const EMBEDDED_AT_ONCE: usize = 256;

/// The name of the network in error messages.
const NAME: &str = "the conditional invertible network t";

/// How the blocks of t receive the embedded z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditioning {
    /// All blocks receive the same embedding (the authors' "none", and so stored).
    #[default]
    #[serde(rename = "none")]
    Shared,
    /// Each block receives a linear map of the previous block's condition; the first block, of
    /// the embedding.
    Sequential,
    /// Each block receives its own linear map of the embedding. (In the authors' code this option
    /// fails, because the embedding is passed without its two trailing dimensions. This
    /// implementation does what the option describes.)
    Parallel,
}

/// The configuration of t.
///
/// ```
/// use invariances::flow::{CinnConfig, Condition};
/// let config = CinnConfig { hidden: 256, flows: 12, ..CinnConfig::new(48, Condition::Vector(256)) };
/// assert_eq!((config.depth, config.conditioning_depth), (2, 4));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CinnConfig {
    /// Dimension of the code z̄, at least 2. Its stored name is `code`.
    #[serde(rename = "code")]
    pub dim: usize,
    /// The shape of z.
    pub condition: Condition,
    /// Width of the nets s and t of each coupling.
    pub hidden: usize,
    /// Number of hidden layers of the nets s and t after the first.
    pub depth: usize,
    /// Number of blocks.
    pub flows: usize,
    /// How the blocks receive the embedded z.
    pub conditioning: Conditioning,
    /// Number of widths in the embedder of a vector, input and output included.
    pub conditioning_depth: usize,
    /// The nonlinearity of a block.
    pub activation: FlowActivation,
    /// How one half of the code transforms the other.
    #[serde(default)]
    pub coupling: CouplingConfig,
    /// The mixing layer after the coupling.
    #[serde(default)]
    pub mixing: Mixing,
}

impl CinnConfig {
    /// Returns a small configuration (8 flows, hidden 128, depth 2); the paper's t has 20 flows
    /// and hidden 1024.
    pub fn new(dim: usize, condition: Condition) -> Self {
        Self {
            dim,
            condition,
            hidden: 128,
            depth: 2,
            flows: 8,
            conditioning: Conditioning::Shared,
            conditioning_depth: 4,
            activation: FlowActivation::None,
            coupling: CouplingConfig::default(),
            mixing: Mixing::default(),
        }
    }
}

/// The part of t that turns z into the conditions of the blocks.
#[derive(Clone)]
struct ConditionNet {
    embedder: Embedder,
    conditioning: Conditioning,
    /// One layer per block; empty for [`Conditioning::Shared`].
    layers: Vec<(Tensor, Tensor)>,
}

impl ConditionNet {
    fn detached(&self) -> Self {
        Self {
            embedder: self.embedder.detached(),
            conditioning: self.conditioning,
            layers: detached(&self.layers),
        }
    }

    /// Returns the conditions of the blocks. If they differ, they are concatenated as columns.
    fn conditions(&self, embedding: &Tensor) -> Result<Tensor> {
        if self.layers.is_empty() {
            return Ok(embedding.clone());
        }
        let mut conditions = Vec::with_capacity(self.layers.len());
        let mut c = embedding.clone();
        for (weight, bias) in &self.layers {
            let input = match self.conditioning {
                Conditioning::Parallel => embedding,
                _ => &c,
            };
            c = dense(input, weight, bias, Activation::None)?;
            conditions.push(c.clone());
        }
        Ok(Tensor::cat(&conditions, 1)?)
    }
}

/// The conditional invertible network t: v = t(z̄ | z), with the inverse z̄ = t⁻¹(v | z).
///
/// If it is trained with [`crate::loss::nll`] (arXiv 2008.01777, equations 4 to 6), v becomes
/// standard normal and independent of z. Then v holds the information in the code that z lacks:
/// the invariances of the layer from which z was read. Clones share the parameters.
///
/// ```
/// use invariances::{candle_core::Device, flow::{Cinn, CinnConfig, Condition}, ops::{Params, Rng}};
/// let params = Params::new(0);
/// let config = CinnConfig { hidden: 16, flows: 2, ..CinnConfig::new(6, Condition::Vector(10)) };
/// let t = Cinn::new(&config, &params.root())?;
/// let mut rng = Rng::new(1);
/// let (code, z) = (rng.normal((32, 6), &Device::Cpu)?, rng.normal((32, 10), &Device::Cpu)?);
/// t.initialize(&code, &z)?;
/// let (v, logdet) = t.forward(&code, &z)?;
/// assert_eq!((v.dims(), logdet.dims()), (&[32, 6][..], &[32][..]));
/// let samples = t.sample(&z, 4, &mut rng)?; // four codes per z, in consecutive rows
/// assert_eq!(samples.dims(), [128, 6]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct Cinn {
    config: CinnConfig,
    chain: Chain,
    condition_net: ConditionNet,
    /// The same layers with shared parameters; their results keep no graph.
    frozen: ConditionNet,
}

impl Cinn {
    /// Creates the network below `scope`, with the parameter names of the authors' checkpoints
    /// (`flow.sub_layers.0…`, `embedder…`).
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if the configuration is invalid; [`crate::Error::Shape`] if
    /// parameters of these names exist with other shapes.
    pub fn new(config: &CinnConfig, scope: &Scope) -> Result<Self> {
        let flow = scope.pp("flow");
        let block = BlockConfig {
            code: config.dim,
            condition: config.dim,
            hidden: config.hidden,
            depth: config.depth,
            activation: config.activation,
            coupling: config.coupling,
            mixing: config.mixing,
        };
        let chain = Chain::new(&block, config.flows, |i| {
            let place = flow.pp("sub_layers").pp(i);
            Names {
                norm: place.pp("norm_layer"),
                coupling: place.pp("coupling"),
                mixing: place.pp("shuffle"),
            }
        })?;
        let mut layers = Vec::new();
        if config.conditioning != Conditioning::Shared {
            for i in 0..config.flows {
                let layer = flow.pp("conditioning_layers").pp(i);
                layers.push(dense_parameters(config.dim, config.dim, &[1, 1], &layer)?);
            }
        }
        let condition_net = ConditionNet {
            embedder: Embedder::new(
                config.condition,
                config.dim,
                config.conditioning_depth,
                &scope.pp("embedder"),
            )?,
            conditioning: config.conditioning,
            layers,
        };
        Ok(Self {
            config: config.clone(),
            chain,
            frozen: condition_net.detached(),
            condition_net,
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &CinnConfig {
        &self.config
    }

    /// Returns the device and number type of the parameters. Codes and representations of another
    /// device or number type are converted; results stay there.
    pub fn placement(&self) -> Option<Placement> {
        self.chain.placement()
    }

    /// Returns the same network for evaluation: parameters are shared, and results keep no graph.
    pub fn detached(&self) -> Self {
        Self {
            config: self.config.clone(),
            chain: self.chain.detached(),
            condition_net: self.frozen.clone(),
            frozen: self.frozen.clone(),
        }
    }

    /// Returns the same network with shared parameters and another memory setting of the backward
    /// pass.
    ///
    /// ```
    /// use invariances::{candle_core::Device, flow::*, loss::nll, ops::{Params, Rng}};
    /// let params = Params::new(0);
    /// let config = CinnConfig { hidden: 16, flows: 40, ..CinnConfig::new(6, Condition::Vector(10)) };
    /// let t = Cinn::new(&config, &params.root())?.with_memory(Memory::constant());
    /// let mut rng = Rng::new(1);
    /// let (code, z) = (rng.normal((32, 6), &Device::Cpu)?, rng.normal((32, 10), &Device::Cpu)?);
    /// t.initialize(&code, &z)?;
    /// let (v, logdet) = t.forward(&code, &z)?;
    /// nll(&v, &logdet)?.backward()?; // inverts the network and measures the rounding error
    /// assert!(t.drift().unwrap() < 1e-4);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn with_memory(&self, memory: Memory) -> Self {
        Self {
            chain: self.chain.with_memory(memory),
            ..self.clone()
        }
    }

    /// Returns the memory setting of the backward pass.
    pub fn memory(&self) -> Memory {
        self.chain.memory()
    }

    /// Returns the largest difference so far between the code and its reconstruction in a
    /// backward pass with [`Memory::Constant`], relative to the code's largest absolute value (or
    /// to 1, if that is larger). `None` before the first such pass.
    pub fn drift(&self) -> Option<f64> {
        self.chain.drift()
    }

    /// Returns whether every ActNorm was initialised, from data or from a checkpoint.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if a flag cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        for norm in self.condition_net.embedder.norms() {
            if !norm.is_initialized()? {
                return Ok(false);
            }
        }
        self.chain.is_initialized()
    }

    /// Initialises every ActNorm from a batch, one layer after the other, so that each receives
    /// the output of the layers before it. Initialised layers keep their values: a second call,
    /// or a call after loading a checkpoint, changes nothing. Before initialisation every ActNorm
    /// is the identity.
    ///
    /// Columns that are constant in this batch ([`super::constant_columns`]) get the scale of the
    /// other columns, and a notice with their indices is printed.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for shapes that do not fit, and for a batch of one, which has no
    /// standard deviation; [`crate::Error::Invalid`] for codes in which every column is constant,
    /// and for NaN or infinity.
    pub fn initialize(&self, code: &Tensor, z: &Tensor) -> Result<()> {
        if self.is_initialized()? {
            return Ok(());
        }
        let (code, z) = (&self.chain.take(code)?, &self.chain.take(z)?);
        self.check(code, "codes")?;
        // All checks run before the first layer is initialised, so that a rejected batch does not
        // leave a partly initialised network.
        check_batch(code, z)?;
        check_varies(code)?;
        self.condition_net.embedder.initialize(&z.detach())?;
        let embedding = self.frozen.embedder.forward(&z.detach())?;
        self.chain
            .initialize(code, &self.frozen.conditions(&embedding)?)
    }

    /// Returns the embedding of z, (batch, code). It can be computed once and used for many codes
    /// or samples.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if z does not have the configured shape;
    /// [`crate::Error::Invalid`] if z contains NaN or infinity.
    pub fn embed(&self, z: &Tensor) -> Result<Tensor> {
        self.condition_net.embedder.forward(&self.chain.take(z)?)
    }

    /// Returns v = t(z̄ | z), (batch, code), and log|det ∂v/∂z̄|, (batch,), in nats.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if a shape does not fit; [`crate::Error::Invalid`] if a value is
    /// NaN or infinite.
    pub fn forward(&self, code: &Tensor, z: &Tensor) -> Result<(Tensor, Tensor)> {
        self.forward_embedded(code, &self.embed(z)?)
    }

    /// Evaluates [`Cinn::forward`] with an embedding from [`Cinn::embed`].
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn forward_embedded(&self, code: &Tensor, embedding: &Tensor) -> Result<(Tensor, Tensor)> {
        let (code, embedding) = (&self.chain.take(code)?, &self.chain.take(embedding)?);
        self.check(code, "codes")?;
        check_batch(code, embedding)?;
        self.chain
            .forward(code, &self.condition_net.conditions(embedding)?)
    }

    /// Returns z̄ = t⁻¹(v | z), (batch, code). Unlike the authors' networks, the inverse
    /// initialises no ActNorm: before [`Cinn::initialize`] or a checkpoint, each ActNorm is the
    /// identity.
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn inverse(&self, v: &Tensor, z: &Tensor) -> Result<Tensor> {
        self.inverse_embedded(v, &self.embed(z)?)
    }

    /// Evaluates [`Cinn::inverse`] with an embedding from [`Cinn::embed`].
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn inverse_embedded(&self, v: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        let (v, embedding) = (&self.chain.take(v)?, &self.chain.take(embedding)?);
        self.check(v, "v")?;
        check_batch(v, embedding)?;
        self.chain
            .inverse(v, &self.condition_net.conditions(embedding)?, 1)
    }

    /// Returns the steps from v to z̄: v itself and the result after each inverted block, each
    /// (batch, code). The last one equals [`Cinn::inverse`]. The results keep no graph.
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn stages(&self, v: &Tensor, z: &Tensor) -> Result<Vec<Tensor>> {
        let (v, z) = (&self.chain.take(v)?, &self.chain.take(z)?);
        self.check(v, "v")?;
        check_batch(v, z)?;
        let embedding = self.frozen.embedder.forward(&z.detach())?;
        let conditions = self.frozen.conditions(&embedding)?;
        self.chain.detached().stages(&v.detach(), &conditions)
    }

    /// Samples `n` codes per z from t's conditional density: (batch·n, code). Samples of one z
    /// are consecutive. The results keep no graph.
    ///
    /// The standard normal values are drawn on the CPU. Everything else runs on the device of the
    /// parameters; docs/gpu.md lists the kernels.
    ///
    /// # Errors
    /// As [`Cinn::forward`], and [`crate::Error::Invalid`] if `n` or the batch is 0.
    pub fn sample(&self, z: &Tensor, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let z = self.chain.take(&z.detach())?;
        let embedding = self.frozen.embedder.forward(&z)?;
        let (batch, code) = embedding.dims2()?;
        let v = normal(batch * n, code, rng, z.dtype(), z.device())?;
        // The conditions of each z are computed once and shared by all of its samples.
        let conditions = self.frozen.conditions(&embedding)?;
        self.chain.detached().inverse(&v, &conditions, n)
    }

    fn check(&self, x: &Tensor, what: &str) -> Result<()> {
        rows(x, self.config.dim, what)?;
        check_finite(x, what)
    }
}

impl Flow for Cinn {
    /// The condition is z.
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        Cinn::forward(self, x, required(condition, NAME)?)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Cinn::inverse(self, v, required(condition, NAME)?)
    }

    fn dim(&self) -> Option<usize> {
        Some(self.config.dim)
    }

    fn placement(&self) -> Option<Placement> {
        Cinn::placement(self)
    }

    fn frozen(&self) -> Option<Arc<dyn Flow>> {
        Some(Arc::new(self.detached()))
    }

    /// The condition of the returned flow is the embedding of z ([`Cinn::embed`]).
    fn embedded(&self, condition: &Tensor) -> Result<(Option<Arc<dyn Flow>>, Tensor)> {
        let (t, rows) = (self.detached(), condition.dim(0)?);
        if rows <= EMBEDDED_AT_ONCE {
            return Ok((Some(Arc::new(Embedded(t.clone()))), t.embed(condition)?));
        }
        let mut parts = Vec::new();
        for start in (0..rows).step_by(EMBEDDED_AT_ONCE) {
            let count = EMBEDDED_AT_ONCE.min(rows - start);
            parts.push(t.embed(&condition.narrow(0, start, count)?.contiguous()?)?);
        }
        Ok((Some(Arc::new(Embedded(t))), Tensor::cat(&parts, 0)?))
    }

    /// Initialises every ActNorm; see [`Cinn::initialize`].
    fn initialize(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<()> {
        Cinn::initialize(self, x, required(condition, NAME)?)
    }

    fn outline(&self) -> Outline {
        let CinnConfig { dim, condition, .. } = self.config;
        let net = &self.condition_net;
        let layers = net.layers.iter().map(|(weight, bias)| {
            Outline::new(linear(weight, true)).with_parameters(parameters_of([weight, bias]))
        });
        let conditioning = Outline::new(format!("{:?}", net.conditioning))
            .with_parts(layers)
            .named("conditioning");
        Outline::new(format!("Cinn({dim}, condition={condition:?})"))
            .with_parts([net.embedder.outline().named("embedder"), conditioning])
            .with_parts(self.chain.outlines())
    }

    fn sample(&self, condition: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        Cinn::sample(self, required(condition, NAME)?, n, rng)
    }
}

shows_outline!(Cinn);

/// t as a flow whose condition is the embedded z.
struct Embedded(Cinn);

impl Flow for Embedded {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        self.0.forward_embedded(x, required(condition, NAME)?)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        self.0.inverse_embedded(v, required(condition, NAME)?)
    }

    fn dim(&self) -> Option<usize> {
        Flow::dim(&self.0)
    }

    fn placement(&self) -> Option<Placement> {
        self.0.placement()
    }
}
