//! Networks to ask, each a chain of named layers that can be split at any of them: f = Ψ∘Φ.

mod small;

pub use small::{plain_small, squeezenet_small};

use crate::ops::{Conv2d, Linear, PoolConfig, avg_pool2d, max_pool2d};
use crate::{Error, Result};
use candle_core::{D, Tensor};

/// One named step of a [`Chain`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Layer {
    /// A convolution, with its activation.
    Conv(Conv2d),
    /// SqueezeNet's fire module (arXiv 1602.07360, section 3.2): a narrow 1×1 convolution, then a 1×1 and a 3×3 beside each other.
    Fire {
        squeeze: Conv2d,
        expand1: Conv2d,
        expand3: Conv2d,
    },
    /// The maximum of windows.
    MaxPool(PoolConfig),
    /// The mean of windows.
    AvgPool(PoolConfig),
    /// The mean over all pixels: (batch, channels, h, w) to (batch, channels).
    GlobalMean,
    /// A linear layer.
    Linear(Linear),
    /// Probabilities from logits.
    Softmax,
}

impl Layer {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Conv(conv) => conv.forward(x)?,
            Self::Fire {
                squeeze,
                expand1,
                expand3,
            } => {
                let s = squeeze.forward(x)?;
                Tensor::cat(&[expand1.forward(&s)?, expand3.forward(&s)?], 1)?
            }
            Self::MaxPool(config) => max_pool2d(x, *config)?,
            Self::AvgPool(config) => avg_pool2d(x, *config)?,
            Self::GlobalMean => x.flatten_from(2)?.mean(2)?,
            Self::Linear(linear) => linear.forward(x)?,
            Self::Softmax => candle_nn::ops::softmax(x, D::Minus1)?,
        })
    }
}

/// A network as a chain of named layers. Its output is that of its layer `fc`, or its last.
#[derive(Clone, Debug)]
pub struct Chain {
    layers: Vec<(String, Layer)>,
}

impl Chain {
    /// A chain of layers with their names, each name once.
    pub fn new(layers: Vec<(String, Layer)>) -> Self {
        Self { layers }
    }

    /// The names of the layers, from image to output.
    pub fn layers(&self) -> Vec<String> {
        self.layers.iter().map(|(name, _)| name.clone()).collect()
    }

    fn position(&self, layer: &str) -> Result<usize> {
        self.layers
            .iter()
            .position(|(name, _)| name == layer)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "no layer {layer:?}; this network has {}",
                    self.layers().join(", ")
                ))
            })
    }

    fn run(&self, x: &Tensor, layers: &[(String, Layer)]) -> Result<Tensor> {
        layers.iter().try_fold(x.clone(), |x, (name, layer)| {
            layer
                .forward(&x)
                .map_err(|e| Error::invalid(format!("layer {name}: {e}")))
        })
    }

    /// Logits of images (batch, 3, h, w): the output of the layer `fc`, (batch, classes).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let end = self.position("fc").map_or(self.layers.len(), |p| p + 1);
        self.run(x, &self.layers[..end])
    }

    /// z = Φ(x): the output of the named layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the names that there are.
    pub fn encode(&self, x: &Tensor, layer: &str) -> Result<Tensor> {
        self.run(x, &self.layers[..=self.position(layer)?])
    }

    /// Ψ(z): what the rest of the chain makes of the named layer's output, up to its last layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the names that there are.
    pub fn decode(&self, z: &Tensor, layer: &str) -> Result<Tensor> {
        self.run(z, &self.layers[self.position(layer)? + 1..])
    }

    /// The class of each image, u32 (batch,), without a graph.
    pub fn classify(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.forward(&x.detach())?.argmax(D::Minus1)?)
    }
}
