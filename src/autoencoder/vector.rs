use super::Posterior;
use crate::ops::{Init, Linear, Scope, leaky_relu};
use crate::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// What a [`VectorVae`] is made of. The default is the authors' `dequant_vae`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorVaeConfig {
    /// Length of the vectors.
    pub size: usize,
    /// Length of the code.
    pub code: usize,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Hidden layers beyond the first; the decoder has one more.
    pub depth: usize,
}

impl Default for VectorVaeConfig {
    fn default() -> Self {
        Self {
            size: 128,
            code: 128,
            hidden: 4096,
            depth: 2,
        }
    }
}

/// A VAE for vectors, as the authors use it to dequantise BigGAN's class embeddings: there are as many of those as classes, and a flow
/// needs a density. t of the ResNet-50 figures works on its codes beside BigGAN's noise, and its decoding is what BigGAN takes.
///
/// The parameters have the names of the authors' `FlatVAE` (`encoder`, `mu_layer`, `logvar_layer`, `decoder`, each a chain `main.0`,
/// `main.2`, … of linear maps with leaky ReLU of slope 0.01 between), so that their checkpoint `dequant_vae` loads.
///
/// ```
/// use invariances::prelude::*;
/// let config = VectorVaeConfig { size: 10, code: 4, hidden: 32, depth: 1 };
/// let vae = VectorVae::new(&config, &Params::new(0).root())?;
/// let x = Rng::new(0).normal((3, 10), &Device::Cpu)?;
/// assert_eq!(vae.encode(&x)?.mode().dims(), [3, 4]);
/// assert_eq!(vae.reconstruct(&x)?.dims(), [3, 10]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct VectorVae {
    config: VectorVaeConfig,
    encoder: Chain,
    mean: Chain,
    logvar: Chain,
    decoder: Chain,
}

/// Linear maps with leaky ReLU between.
#[derive(Clone, Debug)]
struct Chain(Vec<Linear>);

impl Chain {
    fn new(inputs: usize, hidden: usize, depth: usize, outputs: usize, at: &Scope) -> Result<Self> {
        let last = depth + 1;
        let layer = |n: usize| {
            let from = if n == 0 { inputs } else { hidden };
            let to = if n == last { outputs } else { hidden };
            Linear::new(from, to, Init::FanIn, &at.pp("main").pp(2 * n))
        };
        Ok(Self((0..=last).map(layer).collect::<Result<_>>()?))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut h = x.clone();
        let last = self.0.len() - 1;
        for (n, layer) in self.0.iter().enumerate() {
            h = layer.forward(&h)?;
            if n < last {
                h = leaky_relu(&h, 0.01)?;
            }
        }
        Ok(h)
    }
}

impl VectorVae {
    /// The network with its parameters at `at`: new ones, or those that are there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a width of zero.
    pub fn new(config: &VectorVaeConfig, at: &Scope) -> Result<Self> {
        let VectorVaeConfig {
            size,
            code,
            hidden,
            depth,
        } = *config;
        if size == 0 || code == 0 || hidden == 0 {
            return Err(Error::invalid(format!(
                "a VectorVae needs widths of at least 1, found {config:?}"
            )));
        }
        Ok(Self {
            config: config.clone(),
            encoder: Chain::new(size, hidden, depth, size, &at.pp("encoder"))?,
            mean: Chain::new(size, hidden, depth, code, &at.pp("mu_layer"))?,
            logvar: Chain::new(size, hidden, depth, code, &at.pp("logvar_layer"))?,
            decoder: Chain::new(code, hidden, depth + 1, size, &at.pp("decoder"))?,
        })
    }

    /// What it is made of.
    pub fn config(&self) -> &VectorVaeConfig {
        &self.config
    }

    /// The distribution of codes of each vector; `x` is (batch, size).
    ///
    /// # Errors
    /// [`Error::Invalid`] for vectors of another length.
    pub fn encode(&self, x: &Tensor) -> Result<Posterior> {
        fits(x, self.config.size, "vectors")?;
        let h = self.encoder.forward(x)?;
        Posterior::new(&self.mean.forward(&h)?, &self.logvar.forward(&h)?)
    }

    /// The vectors (batch, size) of codes (batch, code).
    ///
    /// # Errors
    /// [`Error::Invalid`] for codes of another length.
    pub fn decode(&self, code: &Tensor) -> Result<Tensor> {
        fits(code, self.config.code, "codes")?;
        self.decoder.forward(code)
    }

    /// The decoding of the most probable code, without a graph.
    ///
    /// # Errors
    /// As [`VectorVae::encode`].
    pub fn reconstruct(&self, x: &Tensor) -> Result<Tensor> {
        let code = self.encode(&x.detach())?.mode().detach();
        Ok(self.decode(&code)?.detach())
    }
}

fn fits(x: &Tensor, size: usize, what: &str) -> Result<()> {
    match x.dims() {
        &[_, n] if n == size => Ok(()),
        other => Err(Error::invalid(format!(
            "this VAE takes {what} (batch, {size}), found {other:?}"
        ))),
    }
}
