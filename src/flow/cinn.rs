use super::chain::{BlockConfig, Chain, Names};
use super::layer::{dense_parameters, detached};
use super::statistics::check_varies;
use super::{
    Condition, Coupling, Embedder, Flow, FlowActivation, Memory, Mixing, check_batch, check_finite,
    given, normal, rows,
};
use crate::Result;
use crate::ops::{Activation, Rng, Scope, dense};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// How the blocks of t see the embedded z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditioning {
    /// All blocks the same embedding (the authors' "none").
    #[default]
    None,
    /// Each block a linear map of what the block before saw.
    Sequential,
    /// Each block a linear map of its own of the embedding. (The authors' network fails with this
    /// option, which it gives an embedding without the two trailing dimensions; this is what it says.)
    Parallel,
}

/// The sizes of t.
///
/// ```
/// use invariances::flow::{CinnConfig, Condition};
/// let config = CinnConfig { hidden: 256, flows: 12, ..CinnConfig::new(48, Condition::Vector(256)) };
/// assert_eq!((config.depth, config.conditioning_depth), (2, 4));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CinnConfig {
    /// Numbers in the code z̄, at least 2.
    pub code: usize,
    /// The shape of z.
    pub condition: Condition,
    /// Width of the nets s and t.
    pub hidden: usize,
    /// Hidden layers of the nets s and t after the first.
    pub depth: usize,
    /// Blocks.
    pub flows: usize,
    /// How the blocks see the embedded z.
    pub conditioning: Conditioning,
    /// Widths in the embedder of a vector, both ends included.
    pub conditioning_depth: usize,
    /// The nonlinearity of a block.
    pub activation: FlowActivation,
    /// How one half of the code changes the other.
    #[serde(default)]
    pub coupling: Coupling,
    /// What follows the coupling.
    #[serde(default)]
    pub mixing: Mixing,
}

impl CinnConfig {
    /// A small t (8 flows, hidden 128, depth 2); the paper's has 20 flows and hidden 1024.
    pub fn new(code: usize, condition: Condition) -> Self {
        Self {
            code,
            condition,
            hidden: 128,
            depth: 2,
            flows: 8,
            conditioning: Conditioning::None,
            conditioning_depth: 4,
            activation: FlowActivation::None,
            coupling: Coupling::default(),
            mixing: Mixing::default(),
        }
    }
}

/// What brings z to the blocks.
#[derive(Clone, Debug)]
struct Entrance {
    embedder: Embedder,
    conditioning: Conditioning,
    /// One for each block, but for [`Conditioning::None`].
    layers: Vec<(Tensor, Tensor)>,
}

impl Entrance {
    fn detached(&self) -> Self {
        Self {
            embedder: self.embedder.detached(),
            conditioning: self.conditioning,
            layers: detached(&self.layers),
        }
    }

    /// What the blocks see of the embedded z, side by side where they see different things.
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

/// The conditional invertible network t: v = t(z̄ | z), and back, z̄ = t⁻¹(v | z).
///
/// Trained by [`crate::loss::nll`] (arXiv 2008.01777, equations 4 to 6), v becomes standard normal and
/// independent of z: it holds what the code has beyond z, the invariances of the layer that z was read
/// from. Cloning shares the parameters.
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
/// let samples = t.sample(&z, 4, &mut rng)?; // four codes for each z, side by side
/// assert_eq!(samples.dims(), [128, 6]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cinn {
    config: CinnConfig,
    chain: Chain,
    entrance: Entrance,
    /// Shares the parameters of `entrance`, and keeps no graph.
    frozen: Entrance,
}

impl Cinn {
    /// The network below `scope`, under the names of the authors' checkpoints (`flow.sub_layers.0…`,
    /// `embedder…`).
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for sizes that make no network, and where parameters of these names exist
    /// with other shapes.
    pub fn new(config: &CinnConfig, scope: &Scope) -> Result<Self> {
        let flow = scope.pp("flow");
        let block = BlockConfig {
            code: config.code,
            condition: config.code,
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
        if config.conditioning != Conditioning::None {
            for i in 0..config.flows {
                let layer = flow.pp("conditioning_layers").pp(i);
                layers.push(dense_parameters(config.code, config.code, &[1, 1], &layer)?);
            }
        }
        let entrance = Entrance {
            embedder: Embedder::new(
                config.condition,
                config.code,
                config.conditioning_depth,
                &scope.pp("embedder"),
            )?,
            conditioning: config.conditioning,
            layers,
        };
        Ok(Self {
            config: config.clone(),
            chain,
            frozen: entrance.detached(),
            entrance,
        })
    }

    /// The sizes it was made with.
    pub fn config(&self) -> &CinnConfig {
        &self.config
    }

    /// The same network, sharing its parameters, whose results keep no graph: for evaluation.
    pub fn detached(&self) -> Self {
        Self {
            config: self.config.clone(),
            chain: self.chain.detached(),
            entrance: self.frozen.clone(),
            frozen: self.frozen.clone(),
        }
    }

    /// The same network, sharing its parameters, with another way through the backward pass.
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
    /// nll(&v, &logdet)?.backward()?; // goes back through the network, and measures how well that went
    /// assert!(t.drift().unwrap() < 1e-4);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn with_memory(&self, memory: Memory) -> Self {
        Self {
            chain: self.chain.with_memory(memory),
            ..self.clone()
        }
    }

    /// How the backward pass gets what it needs.
    pub fn memory(&self) -> Memory {
        self.chain.memory()
    }

    /// How far from the code a backward pass of [`Memory::Constant`] ended at most so far, as a share of the code's
    /// largest number (or of 1, if that is more); nothing before the first.
    pub fn drift(&self) -> Option<f64> {
        self.chain.drift()
    }

    /// Whether every ActNorm has started, from data or from a checkpoint.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] where a flag cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        for norm in self.entrance.embedder.norms() {
            if !norm.is_initialized()? {
                return Ok(false);
            }
        }
        self.chain.is_initialized()
    }

    /// Starts every ActNorm from a batch, layer after layer, so that each sees what the layers before
    /// it give. Layers that have started keep their values: calling it again, or after a checkpoint was
    /// loaded, changes nothing. Until then every ActNorm is the identity.
    ///
    /// Columns that are constant in this batch ([`super::constant_columns`]) get the scale of the
    /// other columns, and a notice with their numbers is printed.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a batch of one, which has no standard deviation, for codes in
    /// which every column is constant, for shapes that do not fit, and for NaN or infinity.
    pub fn initialize(&self, code: &Tensor, z: &Tensor) -> Result<()> {
        if self.is_initialized()? {
            return Ok(());
        }
        self.check(code, "the code")?;
        // Everything is looked at before the first layer starts: a refused batch leaves no half-started network.
        check_batch(code, z)?;
        check_varies(code)?;
        self.entrance.embedder.initialize(&z.detach())?;
        let embedding = self.frozen.embedder.forward(&z.detach())?;
        self.chain
            .initialize(code, &self.frozen.conditions(&embedding)?)
    }

    /// The embedding (batch, code) of z, computed once and used for many codes or samples.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] where z has another shape than the configuration says, or holds NaN or infinity.
    pub fn embed(&self, z: &Tensor) -> Result<Tensor> {
        self.entrance.embedder.forward(z)
    }

    /// v = t(z̄ | z), (batch, code), and log|det ∂v/∂z̄|, (batch,), in nats.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] where a shape does not fit, or a number is NaN or infinite.
    pub fn forward(&self, code: &Tensor, z: &Tensor) -> Result<(Tensor, Tensor)> {
        self.forward_embedded(code, &self.embed(z)?)
    }

    /// As [`Cinn::forward`], from what [`Cinn::embed`] gave.
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn forward_embedded(&self, code: &Tensor, embedding: &Tensor) -> Result<(Tensor, Tensor)> {
        self.check(code, "the code")?;
        check_batch(code, embedding)?;
        self.chain
            .forward(code, &self.entrance.conditions(embedding)?)
    }

    /// z̄ = t⁻¹(v | z), (batch, code). Unlike the authors' networks this starts no ActNorm: before
    /// [`Cinn::initialize`] or a checkpoint each is the identity.
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn inverse(&self, v: &Tensor, z: &Tensor) -> Result<Tensor> {
        self.inverse_embedded(v, &self.embed(z)?)
    }

    /// As [`Cinn::inverse`], from what [`Cinn::embed`] gave.
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn inverse_embedded(&self, v: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        self.check(v, "v")?;
        check_batch(v, embedding)?;
        self.chain
            .inverse(v, &self.entrance.conditions(embedding)?, 1)
    }

    /// How v becomes z̄: v itself, and what it is after each block on the way, each (batch, code); the last is
    /// [`Cinn::inverse`]. Keeps no graph.
    ///
    /// # Errors
    /// As [`Cinn::forward`].
    pub fn stages(&self, v: &Tensor, z: &Tensor) -> Result<Vec<Tensor>> {
        self.check(v, "v")?;
        check_batch(v, z)?;
        let embedding = self.frozen.embedder.forward(&z.detach())?;
        let conditions = self.frozen.conditions(&embedding)?;
        self.chain.detached().stages(&v.detach(), &conditions)
    }

    /// `n` codes for each z, drawn from t's density: (batch·n, code), those of one z side by side.
    /// Keeps no graph.
    ///
    /// # Errors
    /// As [`Cinn::forward`], and [`crate::Error::Invalid`] for no sample or no z.
    pub fn sample(&self, z: &Tensor, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let embedding = self.frozen.embedder.forward(&z.detach())?;
        let (batch, code) = embedding.dims2()?;
        let v = normal(batch * n, code, rng, z.dtype(), z.device())?;
        // What each z contributes is computed once for all its samples.
        let conditions = self.frozen.conditions(&embedding)?;
        self.chain.detached().inverse(&v, &conditions, n)
    }

    fn check(&self, x: &Tensor, what: &str) -> Result<()> {
        rows(x, self.config.code, what)?;
        check_finite(x, what)
    }
}

impl Flow for Cinn {
    /// The condition is z.
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        Cinn::forward(self, x, given(condition, "t")?)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Cinn::inverse(self, v, given(condition, "t")?)
    }

    fn code(&self) -> Option<usize> {
        Some(self.config.code)
    }

    fn sample(&self, condition: Option<&Tensor>, n: usize, rng: &mut Rng) -> Result<Tensor> {
        Cinn::sample(self, given(condition, "t")?, n, rng)
    }
}
