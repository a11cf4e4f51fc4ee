//! A VAE for vectors, used for BigGAN's class embeddings.

use super::Posterior;
use crate::ops::{Init, Linear, Placement, Scope, leaky_relu};
use crate::outline::{parameters_of, shows_outline};
use crate::{Error, Outline, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// The configuration of a [`VectorVae`]. The default is the authors' `dequant_vae`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VectorVaeConfig {
    /// Length of the vectors.
    pub size: usize,
    /// Length of the code.
    pub code: usize,
    /// Width of the hidden layers.
    pub hidden: usize,
    /// Number of hidden layers after the first; the decoder has one more.
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

/// A VAE for vectors, with which the authors dequantise BigGAN's class embeddings. There are only
/// as many embeddings as classes, but a flow needs a density. In the paper's ResNet-50 figures, t
/// models BigGAN's noise together with the codes of this VAE, whose decoding is BigGAN's class
/// embedding.
///
/// The parameters have the names of the authors' `FlatVAE`, so that their checkpoint
/// `dequant_vae` can be loaded. `encoder`, `mu_layer`, `logvar_layer` and `decoder` are each a
/// chain `main.0`, `main.2`, … of linear layers with leaky ReLU of slope 0.01 between them.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::autoencoder::{VectorVae, VectorVaeConfig};
/// let config = VectorVaeConfig { size: 10, code: 4, hidden: 32, depth: 1 };
/// let vae = VectorVae::new(&config, &Params::new(0).root())?;
/// let x = Rng::new(0).normal((3, 10), &Device::Cpu)?;
/// assert_eq!(vae.encode(&x)?.mode().dims(), [3, 4]);
/// assert_eq!(vae.reconstruct(&x)?.dims(), [3, 10]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct VectorVae {
    config: VectorVaeConfig,
    encoder: Chain,
    mean: Chain,
    logvar: Chain,
    decoder: Chain,
    placement: Placement,
}

/// A chain of linear layers with leaky ReLU between them.
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

    fn outline(&self, name: &str) -> Outline {
        let layers = self.0.iter().map(|l| {
            let own = parameters_of([l.weight()].into_iter().chain(l.bias()));
            Outline::new(l.to_string()).with_parameters(own)
        });
        Outline::new(name).with_parts(layers)
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
    /// Creates the network with the parameters at `at`, which are created if they do not exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a width is 0.
    pub fn new(config: &VectorVaeConfig, at: &Scope) -> Result<Self> {
        let VectorVaeConfig {
            size,
            code,
            hidden,
            depth,
        } = *config;
        if size == 0 || code == 0 || hidden == 0 {
            return Err(Error::invalid(format!(
                "expected a size, a code and a hidden width of at least 1, found {config:?}"
            )));
        }
        Ok(Self {
            config: config.clone(),
            encoder: Chain::new(size, hidden, depth, size, &at.pp("encoder"))?,
            mean: Chain::new(size, hidden, depth, code, &at.pp("mu_layer"))?,
            logvar: Chain::new(size, hidden, depth, code, &at.pp("logvar_layer"))?,
            decoder: Chain::new(code, hidden, depth + 1, size, &at.pp("decoder"))?,
            placement: at.placement(),
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &VectorVaeConfig {
        &self.config
    }

    /// Describes the layers, as `Display` prints them.
    pub fn outline(&self) -> Outline {
        let VectorVaeConfig { size, code, .. } = self.config;
        Outline::new(format!("VectorVae(size={size}, code={code})")).with_parts([
            self.encoder.outline("encoder"),
            self.mean.outline("mean"),
            self.logvar.outline("log-variance"),
            self.decoder.outline("decoder"),
        ])
    }

    /// Returns the device and the number type of the parameters. Vectors and codes are moved and
    /// converted to them.
    pub fn placement(&self) -> Placement {
        self.placement.clone()
    }

    /// Returns the distribution of codes of each vector; `x` is (batch, size).
    ///
    /// # Errors
    /// [`Error::Shape`] for vectors of another length.
    pub fn encode(&self, x: &Tensor) -> Result<Posterior> {
        fits(x, self.config.size, "vectors")?;
        let h = self.encoder.forward(&self.placement.take(x)?)?;
        Posterior::new(&self.mean.forward(&h)?, &self.logvar.forward(&h)?)
    }

    /// Decodes codes (batch, code) to vectors (batch, size).
    ///
    /// # Errors
    /// [`Error::Shape`] for codes of another length.
    pub fn decode(&self, code: &Tensor) -> Result<Tensor> {
        fits(code, self.config.code, "codes")?;
        self.decoder.forward(&self.placement.take(code)?)
    }

    /// Returns the reconstructions of the vectors: the decoded mode of the posterior, without a
    /// graph.
    ///
    /// # Errors
    /// As [`VectorVae::encode`].
    pub fn reconstruct(&self, x: &Tensor) -> Result<Tensor> {
        let code = self.encode(&x.detach())?.mode().detach();
        Ok(self.decode(&code)?.detach())
    }
}

shows_outline!(VectorVae);

fn fits(x: &Tensor, size: usize, what: &str) -> Result<()> {
    match x.dims() {
        &[_, n] if n == size => Ok(()),
        other => Err(Error::shape(format!(
            "expected {what} of shape (batch, {size}), found {other:?}"
        ))),
    }
}
