use super::{
    ActNorm, Condition, Coupling, Embedder, Flow, InvertibleLeakyRelu, Permutation, check_finite,
    coupling, rows,
};
use crate::ops::{Activation, Rng, Scope, dense};
use crate::{Error, Result};
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

/// The nonlinearity between the norm and the coupling of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowActivation {
    /// None.
    #[default]
    None,
    /// [`InvertibleLeakyRelu::compatible`]: log-determinant counted as 0, as in the authors' checkpoints.
    Lrelu,
    /// [`InvertibleLeakyRelu::exact`].
    LreluExact,
}

/// The sizes of t.
///
/// ```
/// use invariances::flow::{CinnConfig, Condition};
/// let config = CinnConfig { hidden: 256, flows: 12, ..CinnConfig::new(48, Condition::Vector(256)) };
/// assert_eq!((config.depth, config.conditioning_depth), (2, 4));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        }
    }
}

/// ActNorm, nonlinearity, double coupling, permutation.
#[derive(Clone, Debug)]
struct Block {
    norm: ActNorm,
    activation: Option<InvertibleLeakyRelu>,
    coupling: Coupling,
    shuffle: Permutation,
}

impl Block {
    fn new(config: &CinnConfig, scope: &Scope) -> Result<Self> {
        let code = config.code;
        Ok(Self {
            norm: ActNorm::new(code, &scope.pp("norm_layer"))?,
            activation: match config.activation {
                FlowActivation::None => None,
                FlowActivation::Lrelu => Some(InvertibleLeakyRelu::compatible()),
                FlowActivation::LreluExact => Some(InvertibleLeakyRelu::exact()),
            },
            coupling: Coupling::new(
                code,
                code,
                config.hidden,
                config.depth,
                &scope.pp("coupling"),
            )?,
            shuffle: Permutation::new(code, &scope.pp("shuffle"))?,
        })
    }

    fn detached(&self) -> Self {
        Self {
            norm: self.norm.detached(),
            activation: self.activation.clone(),
            coupling: self.coupling.detached(),
            shuffle: self.shuffle.clone(),
        }
    }
}

impl Flow for Block {
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        let (mut h, mut logdet) = self.norm.forward(x, None)?;
        if let Some(activation) = &self.activation {
            let (next, more) = activation.forward(&h, None)?;
            (h, logdet) = (next, (logdet + more)?);
        }
        let (h, more) = self.coupling.forward(&h, condition)?;
        // The permutation keeps volume.
        let (v, _) = self.shuffle.forward(&h, None)?;
        Ok((v, (logdet + more)?))
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        let h = self.shuffle.inverse(v, None)?;
        let mut h = self.coupling.inverse(&h, condition)?;
        if let Some(activation) = &self.activation {
            h = activation.inverse(&h, None)?;
        }
        self.norm.inverse(&h, None)
    }
}

#[derive(Clone, Debug)]
struct Net {
    embedder: Embedder,
    conditioning: Conditioning,
    conditioning_layers: Vec<(Tensor, Tensor)>,
    blocks: Vec<Block>,
}

impl Net {
    /// What each block sees of the embedded z.
    fn conditions(&self, embedding: &Tensor) -> Result<Vec<Tensor>> {
        let mut conditions = Vec::with_capacity(self.blocks.len());
        let mut c = embedding.clone();
        for i in 0..self.blocks.len() {
            if let Some((weight, bias)) = self.conditioning_layers.get(i) {
                let from = match self.conditioning {
                    Conditioning::Parallel => embedding,
                    _ => &c,
                };
                c = dense(from, &weight.flatten_from(1)?, bias, Activation::None)?;
            }
            conditions.push(c.clone());
        }
        Ok(conditions)
    }

    fn forward(&self, code: &Tensor, embedding: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut v = code.clone();
        let mut total = Tensor::zeros(code.dim(0)?, code.dtype(), code.device())?;
        for (block, c) in self.blocks.iter().zip(self.conditions(embedding)?) {
            let (next, logdet) = block.forward(&v, Some(&c))?;
            (v, total) = (next, (total + logdet)?);
        }
        Ok((v, total))
    }

    fn inverse(&self, v: &Tensor, embedding: &Tensor) -> Result<Tensor> {
        let mut code = v.clone();
        let conditions = self.conditions(embedding)?;
        for (block, c) in self.blocks.iter().zip(&conditions).rev() {
            code = block.inverse(&code, Some(c))?;
        }
        Ok(code)
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
    net: Net,
    /// Shares the parameters of `net`, and keeps no graph.
    frozen: Net,
}

impl Cinn {
    /// The network below `scope`, under the names of the authors' checkpoints (`flow.sub_layers.0…`,
    /// `embedder…`).
    ///
    /// # Errors
    /// [`Error::Invalid`] for sizes that make no network, and where parameters of these names exist
    /// with other shapes.
    pub fn new(config: &CinnConfig, scope: &Scope) -> Result<Self> {
        if config.flows == 0 {
            return Err(Error::invalid("t needs at least 1 flow, found 0"));
        }
        let flow = scope.pp("flow");
        let blocks = (0..config.flows).map(|i| Block::new(config, &flow.pp("sub_layers").pp(i)));
        let mut conditioning_layers = Vec::new();
        if config.conditioning != Conditioning::None {
            for i in 0..config.flows {
                let layer = flow.pp("conditioning_layers").pp(i);
                let layer = coupling::dense_parameters(config.code, config.code, &[1, 1], &layer)?;
                conditioning_layers.push(layer);
            }
        }
        let net = Net {
            blocks: blocks.collect::<Result<_>>()?,
            embedder: Embedder::new(
                config.condition,
                config.code,
                config.conditioning_depth,
                &scope.pp("embedder"),
            )?,
            conditioning: config.conditioning,
            conditioning_layers,
        };
        let frozen = Net {
            blocks: net.blocks.iter().map(Block::detached).collect(),
            embedder: net.embedder.detached(),
            conditioning: net.conditioning,
            conditioning_layers: coupling::detached(&net.conditioning_layers),
        };
        Ok(Self {
            config: config.clone(),
            net,
            frozen,
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
            net: self.frozen.clone(),
            frozen: self.frozen.clone(),
        }
    }

    /// Whether every ActNorm has started, from data or from a checkpoint.
    ///
    /// # Errors
    /// [`Error::Tensor`] where a flag cannot be read.
    pub fn is_initialized(&self) -> Result<bool> {
        let blocks = self.net.blocks.iter().map(|b| &b.norm);
        for norm in blocks.chain(self.net.embedder.norms()) {
            if !norm.is_initialized()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Starts every ActNorm from a batch, layer after layer, so that each sees what the layers before
    /// it give. Layers that have started keep their values: calling it again, or after a checkpoint was
    /// loaded, changes nothing. Until then every ActNorm is the identity.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a batch of one, which has no standard deviation, for shapes that do not
    /// fit, and for NaN or infinity.
    pub fn initialize(&self, code: &Tensor, z: &Tensor) -> Result<()> {
        if self.is_initialized()? {
            return Ok(());
        }
        self.check(code, "the code")?;
        // Everything is looked at before the first layer starts: a refused batch leaves no half-started network.
        check_batch(code, z)?;
        self.net.embedder.initialize(&z.detach())?;
        let embedding = self.frozen.embedder.forward(&z.detach())?;
        let mut h = code.detach();
        let conditions = self.frozen.conditions(&embedding)?;
        for ((block, frozen), c) in self
            .net
            .blocks
            .iter()
            .zip(&self.frozen.blocks)
            .zip(&conditions)
        {
            block.norm.initialize(&h)?;
            (h, _) = frozen.forward(&h, Some(c))?;
        }
        Ok(())
    }

    /// The embedding (batch, code) of z, computed once and used for many codes or samples.
    ///
    /// # Errors
    /// [`Error::Invalid`] where z has another shape than the configuration says, or holds NaN or infinity.
    pub fn embed(&self, z: &Tensor) -> Result<Tensor> {
        self.net.embedder.forward(z)
    }

    /// v = t(z̄ | z), (batch, code), and log|det ∂v/∂z̄|, (batch,), in nats.
    ///
    /// # Errors
    /// [`Error::Invalid`] where a shape does not fit, or a number is NaN or infinite.
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
        self.net.forward(code, embedding)
    }

    /// z̄ = t⁻¹(v | z), (batch, code).
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
        self.net.inverse(v, embedding)
    }

    /// `n` codes for each z, drawn from t's density: (batch·n, code), those of one z side by side.
    /// Keeps no graph.
    ///
    /// # Errors
    /// As [`Cinn::forward`], and [`Error::Invalid`] for no sample or no z.
    pub fn sample(&self, z: &Tensor, n: usize, rng: &mut Rng) -> Result<Tensor> {
        let embedding = self.frozen.embedder.forward(&z.detach())?;
        let (batch, code) = embedding.dims2()?;
        if batch * n == 0 {
            return Err(Error::invalid(format!(
                "sampling needs at least 1 sample of at least 1 z, found {n} of {batch}"
            )));
        }
        let each = embedding.unsqueeze(1)?.broadcast_as((batch, n, code))?;
        let each = each.contiguous()?.reshape((batch * n, code))?;
        let v = rng.normal((batch * n, code), z.device())?;
        self.frozen.inverse(&v.to_dtype(z.dtype())?, &each)
    }

    fn check(&self, x: &Tensor, what: &str) -> Result<()> {
        rows(x, self.config.code, what)?;
        check_finite(x, what)
    }
}

fn check_batch(code: &Tensor, embedding: &Tensor) -> Result<()> {
    let (codes, conditions) = (code.dim(0)?, embedding.dim(0)?);
    if codes == conditions {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{codes} codes need as many z, found {conditions}"
    )))
}

impl Flow for Cinn {
    /// The condition is z.
    fn forward(&self, x: &Tensor, condition: Option<&Tensor>) -> Result<(Tensor, Tensor)> {
        Cinn::forward(self, x, given(condition)?)
    }

    fn inverse(&self, v: &Tensor, condition: Option<&Tensor>) -> Result<Tensor> {
        Cinn::inverse(self, v, given(condition)?)
    }
}

fn given(condition: Option<&Tensor>) -> Result<&Tensor> {
    condition.ok_or_else(|| Error::invalid("t depends on z, and no condition was given"))
}
