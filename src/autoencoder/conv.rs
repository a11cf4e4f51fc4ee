//! A small residual convolutional VAE for square images.

use super::{Autoencoder, Decoder, Posterior};
use crate::ops::{Activation, Conv2d, ConvConfig, ConvTranspose2d, Init, Linear, Placement, Scope};
use crate::outline::{parameters_of, shows_outline};
use crate::{Error, Outline, Result};
use candle_core::{Tensor, Var};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::sync::Arc;

/// The configuration of a [`ConvVae`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvVaeConfig {
    /// Side of the square images in pixels, a multiple of 8.
    pub size: usize,
    /// Length of the code z̄.
    pub code: usize,
    /// Channels at 1/2, 1/4 and 1/8 of the image size.
    pub widths: [usize; 3],
    /// Number of residual blocks of E at each of these sizes.
    pub encoder_blocks: [usize; 3],
    /// Number of residual blocks of D at each of these sizes.
    pub decoder_blocks: [usize; 3],
    /// Channels of D at the full image size.
    pub last_width: usize,
    /// Whether the code scales and shifts the channels of every residual block of D (FiLM, arXiv
    /// 1709.07871), so that it decides what a block draws and not only what it starts from.
    #[serde(default, skip_serializing_if = "is_false")]
    pub modulated: bool,
}

/// Whether a setting has the value that is not written: the keys of networks that were trained
/// before the setting existed stay valid.
fn is_false(setting: &bool) -> bool {
    !setting
}

impl Default for ConvVaeConfig {
    fn default() -> Self {
        Self {
            size: 32,
            code: 48,
            widths: [32, 64, 128],
            encoder_blocks: [1, 1, 1],
            decoder_blocks: [1, 1, 1],
            last_width: 16,
            modulated: false,
        }
    }
}

/// A small residual convolutional VAE. E halves the image three times by strided convolutions, D
/// doubles it three times by transposed convolutions, with residual blocks between them.
///
/// There is no normalisation. Instead, each residual block is initialised as the identity (its
/// second convolution is zero). Training is as reliable as with normalisation, at no cost. The
/// scale of the likelihood is the learned parameter `gamma` (Dai & Wipf 2019; the paper's VAE
/// loss has the same scalar).
///
/// ```
/// use invariances::autoencoder::{Autoencoder, ConvVae, ConvVaeConfig};
/// use invariances::candle_core::Device;
/// use invariances::ops::{Params, Rng};
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let x = Rng::new(0).uniform(-1., 1., (2, 3, 32, 32), &Device::Cpu)?;
/// assert_eq!(vae.encode(&x)?.mode().dims(), [2, 48]);
/// assert_eq!(vae.reconstruct(&x)?.dims(), x.dims());
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct ConvVae {
    config: ConvVaeConfig,
    down: Vec<Stage<Conv2d>>,
    to_code: Linear,
    from_code: Linear,
    up: Vec<Stage<ConvTranspose2d>>,
    last: Conv2d,
    gamma: Var,
    at: Scope,
}

/// A change of resolution and the residual blocks at the lower resolution.
#[derive(Clone, Debug)]
struct Stage<C> {
    resample: C,
    blocks: Vec<Residual>,
}

#[derive(Clone, Debug)]
struct Residual {
    first: Conv2d,
    second: Conv2d,
    /// Maps the code to a scale and a shift of each channel between the convolutions.
    film: Option<Linear>,
}

const LEAKY: Activation = Activation::Leaky(0.2);

impl Residual {
    /// Creates a block that does not change its input. It is modulated by a code of the given
    /// length, if there is one.
    fn new(width: usize, code: Option<usize>, at: &Scope) -> Result<Self> {
        let config = |activation| ConvConfig {
            stride: 1,
            padding: (1, 1),
            activation,
        };
        Ok(Self {
            first: Conv2d::new(width, width, 3, config(LEAKY), Init::He, &at.pp("conv1"))?,
            second: Conv2d::new(
                width,
                width,
                3,
                config(Activation::None),
                Init::Const(0.0),
                &at.pp("conv2"),
            )?,
            film: match code {
                Some(code) => Some(Linear::new(
                    code,
                    2 * width,
                    Init::Const(0.0),
                    &at.pp("film"),
                )?),
                None => None,
            },
        })
    }

    fn forward(&self, x: &Tensor, code: Option<&Tensor>) -> Result<Tensor> {
        let mut h = self.first.forward(x)?;
        if let (Some(film), Some(code)) = (&self.film, code) {
            let (batch, width) = (h.dim(0)?, h.dim(1)?);
            let both = film.forward(code)?.reshape((batch, 2 * width, 1, 1))?;
            let (scale, shift) = (both.narrow(1, 0, width)?, both.narrow(1, width, width)?);
            h = h.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(&shift)?;
        }
        Ok((x + self.second.forward(&h)?)?)
    }
}

fn residuals(count: usize, width: usize, code: Option<usize>, at: &Scope) -> Result<Vec<Residual>> {
    (0..count)
        .map(|n| Residual::new(width, code, &at.pp(n)))
        .collect()
}

impl ConvVae {
    /// Creates the network with the parameters at `at`, which are created if they do not exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the size is not a multiple of 8, or if the size, a width or the code
    /// is 0.
    pub fn new(config: &ConvVaeConfig, at: &Scope) -> Result<Self> {
        let ConvVaeConfig {
            size, code, widths, ..
        } = *config;
        if size == 0 || size % 8 != 0 || code == 0 || widths.contains(&0) || config.last_width == 0
        {
            return Err(Error::invalid(format!(
                "expected a size that is a multiple of 8, and widths and a code of at least 1, \
                 found {config:?}"
            )));
        }
        let halve = ConvConfig {
            stride: 2,
            padding: (1, 1),
            activation: LEAKY,
        };
        let (e, d) = (at.pp("encoder"), at.pp("decoder"));
        let (mut down, mut up) = (Vec::new(), Vec::new());
        for n in 0..3 {
            let inputs = if n == 0 { 3 } else { widths[n - 1] };
            let at = e.pp(n);
            down.push(Stage {
                resample: Conv2d::new(inputs, widths[n], 4, halve, Init::He, &at.pp("down"))?,
                blocks: residuals(config.encoder_blocks[n], widths[n], None, &at.pp("block"))?,
            });
            let outputs = if n == 0 {
                config.last_width
            } else {
                widths[n - 1]
            };
            let at = d.pp(n);
            up.push(Stage {
                blocks: residuals(
                    config.decoder_blocks[n],
                    widths[n],
                    config.modulated.then_some(code),
                    &at.pp("block"),
                )?,
                resample: ConvTranspose2d::new(widths[n], outputs, 4, halve, &at.pp("up"))?,
            });
        }
        let smallest = widths[2] * (size / 8) * (size / 8);
        let same = ConvConfig {
            stride: 1,
            padding: (1, 1),
            activation: Activation::None,
        };
        Ok(Self {
            config: config.clone(),
            down,
            to_code: Linear::new(smallest, 2 * code, Init::FanIn, &e.pp("code"))?,
            from_code: Linear::new(code, smallest, Init::He, &d.pp("code"))?,
            up,
            last: Conv2d::new(config.last_width, 3, 3, same, Init::FanIn, &d.pp("last"))?,
            gamma: at.get(1, "gamma", Init::Const(-2.0))?,
            at: at.clone(),
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &ConvVaeConfig {
        &self.config
    }

    /// Returns a copy with the same weights below `scope`. The copy shares no parameters with the
    /// original.
    ///
    /// # Errors
    /// [`Error::Shape`] if parameters of these names exist there with other shapes.
    pub fn copy_to(&self, scope: &Scope) -> Result<Self> {
        let copy = Self::new(&self.config, scope)?;
        scope.set_all(&self.at.tensors())?;
        Ok(copy)
    }

    /// Describes the layers, as `Display` prints them.
    pub fn outline(&self) -> Outline {
        let conv = |l: &Conv2d| layer_outline(l, l.weight(), l.bias());
        let linear = |l: &Linear| layer_outline(l, l.weight(), l.bias()).named("code");
        let residuals = |blocks: &[Residual]| -> Vec<Outline> {
            let residual = |b: &Residual| {
                let film = b.film.iter();
                let film = film.map(|l| layer_outline(l, l.weight(), l.bias()).named("film"));
                Outline::new("Residual")
                    .with_parts([conv(&b.first)])
                    .with_parts(film)
                    .with_parts([conv(&b.second)])
            };
            blocks.iter().map(residual).collect()
        };
        let mut encoder = Outline::new("encoder");
        for stage in &self.down {
            encoder = encoder
                .with_parts([conv(&stage.resample)])
                .with_parts(residuals(&stage.blocks));
        }
        let mut decoder = Outline::new("decoder").with_parts([linear(&self.from_code)]);
        for stage in self.up.iter().rev() {
            let up = &stage.resample;
            decoder = decoder
                .with_parts(residuals(&stage.blocks))
                .with_parts([layer_outline(up, up.weight(), up.bias())]);
        }
        let ConvVaeConfig { size, code, .. } = self.config;
        Outline::new(format!("ConvVae(size={size}, code={code})")).with_parts([
            encoder.with_parts([linear(&self.to_code)]),
            decoder.with_parts([conv(&self.last)]),
            Outline::new("gamma").with_parameters(self.gamma.elem_count()),
        ])
    }

    /// Returns γ, the learned logarithm of the likelihood's variance.
    pub fn gamma(&self) -> Tensor {
        self.gamma.as_tensor().clone()
    }
}

/// Describes a layer that prints itself.
fn layer_outline(layer: &impl Display, weight: &Tensor, bias: Option<&Tensor>) -> Outline {
    let own = parameters_of([weight].into_iter().chain(bias));
    Outline::new(layer.to_string()).with_parameters(own)
}

shows_outline!(ConvVae);

impl Autoencoder for ConvVae {
    fn code(&self) -> usize {
        self.config.code
    }

    fn placement(&self) -> Option<Placement> {
        Some(self.at.placement())
    }

    fn encode(&self, x: &Tensor) -> Result<Posterior> {
        let size = self.config.size;
        match x.dims() {
            &[_, 3, h, w] if h == size && w == size => {}
            other => {
                return Err(Error::shape(format!(
                    "expected images of shape (batch, 3, {size}, {size}), found {other:?}: resize \
                     them first"
                )));
            }
        }
        let mut h = self.at.placement().take(x)?;
        for stage in &self.down {
            h = stage.resample.forward(&h)?;
            for block in &stage.blocks {
                h = block.forward(&h, None)?;
            }
        }
        let h = self.to_code.forward(&h.flatten_from(1)?)?;
        let code = self.config.code;
        Posterior::new(&h.narrow(1, 0, code)?, &h.narrow(1, code, code)?)
    }

    fn decode(&self, code: &Tensor) -> Result<Tensor> {
        self.last_layer(&self.before_last(code)?)
    }
}

impl Decoder for ConvVae {
    fn copy_below(&self, scope: &Scope) -> Result<Arc<dyn Decoder>> {
        Ok(Arc::new(self.copy_to(scope)?))
    }

    fn before_last(&self, code: &Tensor) -> Result<Tensor> {
        match code.dims() {
            &[_, n] if n == self.config.code => {}
            other => {
                return Err(Error::shape(format!(
                    "expected codes of shape (batch, {}), found {other:?}",
                    self.config.code
                )));
            }
        }
        let side = self.config.size / 8;
        let code = self.at.placement().take(code)?;
        let mut h =
            self.from_code
                .forward(&code)?
                .reshape(((), self.config.widths[2], side, side))?;
        for stage in self.up.iter().rev() {
            for block in &stage.blocks {
                h = block.forward(&h, Some(&code))?;
            }
            h = stage.resample.forward(&h)?;
        }
        Ok(h)
    }

    fn last_layer(&self, hidden: &Tensor) -> Result<Tensor> {
        self.last.forward(&self.at.placement().take(hidden)?)
    }

    fn last_weight(&self) -> Tensor {
        self.last.weight().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Params, Rng, values};
    use candle_core::{DType, Device};

    #[test]
    fn an_autoencoder_prints_its_layers() -> Result<()> {
        let config = ConvVaeConfig {
            size: 16,
            code: 5,
            widths: [4, 6, 8],
            encoder_blocks: [0, 0, 2],
            decoder_blocks: [0, 1, 0],
            last_width: 3,
            modulated: false,
        };
        let params = Params::new(0);
        let vae = ConvVae::new(&config, &params.root())?;
        let expected = "\
ConvVae(size=16, code=5)
  encoder                                                                                  4,028
    Conv2d(3, 4, kernel_size=4, stride=2, padding=1, activation=leaky_relu(0.2))             196
    Conv2d(4, 6, kernel_size=4, stride=2, padding=1, activation=leaky_relu(0.2))             390
    Conv2d(6, 8, kernel_size=4, stride=2, padding=1, activation=leaky_relu(0.2))             776
    2 × Residual                                                                           2,336
      Conv2d(8, 8, kernel_size=3, stride=1, padding=1, activation=leaky_relu(0.2))           584
      Conv2d(8, 8, kernel_size=3, stride=1, padding=1)                                       584
    code: Linear(in_features=32, out_features=10, bias=True)                                 330
  decoder                                                                                  2,293
    code: Linear(in_features=5, out_features=32, bias=True)                                  192
    ConvTranspose2d(8, 6, kernel_size=4, stride=2, padding=1, activation=leaky_relu(0.2))    774
    Residual                                                                                 660
      Conv2d(6, 6, kernel_size=3, stride=1, padding=1, activation=leaky_relu(0.2))           330
      Conv2d(6, 6, kernel_size=3, stride=1, padding=1)                                       330
    ConvTranspose2d(6, 4, kernel_size=4, stride=2, padding=1, activation=leaky_relu(0.2))    388
    ConvTranspose2d(4, 3, kernel_size=4, stride=2, padding=1, activation=leaky_relu(0.2))    195
    Conv2d(3, 3, kernel_size=3, stride=1, padding=1)                                          84
  gamma                                                                                        1
Parameters: 6,322";
        assert_eq!(vae.to_string(), expected);
        assert_eq!(format!("{vae:?}"), expected);
        let trained: usize = params.trained().iter().map(|(_, v)| v.elem_count()).sum();
        assert_eq!(vae.outline().parameters(), Some(trained));
        Ok(())
    }

    /// A modulated D starts as the same function as one that is not, because its scales are 1 and
    /// its shifts 0. Once they are not, the code changes what the blocks do.
    #[test]
    fn the_code_modulates_the_blocks_of_the_decoder() -> Result<()> {
        let plain = ConvVaeConfig::default();
        let config = ConvVaeConfig {
            modulated: true,
            ..plain.clone()
        };
        let params = Params::new(0);
        let vae = ConvVae::new(&config, &params.root())?;
        let same = ConvVae::new(&plain, &Params::new(0).root())?;
        let code = Rng::new(1).normal((2, 48), &Device::Cpu)?;
        let expected = values(&same.decode(&code)?)?;
        assert_eq!(values(&vae.decode(&code)?)?, expected);
        let mut films = 0;
        for (name, var) in params.trained() {
            if name.contains("film") || name.contains("conv2.weight") {
                var.set(
                    &Rng::named(2, &name)
                        .normal(var.shape(), &Device::Cpu)?
                        .affine(0.1, 0.0)?,
                )?;
                films += usize::from(name.ends_with("film.weight"));
            }
        }
        assert_eq!(films, 3);
        assert_ne!(values(&vae.decode(&code)?)?, expected);
        let gradients = crate::ops::backward(&vae.decode(&code)?.sqr()?.sum_all()?)?;
        for (name, var) in params.trained() {
            if name.contains("decoder") {
                let gradient = gradients.get(var.as_tensor()).expect(&name);
                assert!(values(gradient)?.iter().any(|v| *v != 0.0), "{name}");
            }
        }
        // The setting is written only if it is on: earlier keys stay valid.
        let written = |config: &ConvVaeConfig| serde_json::to_string(config).unwrap_or_default();
        assert!(written(&config).contains("modulated") && !written(&plain).contains("modulated"));
        let outline = vae.outline().to_string();
        assert!(
            outline.contains("film: Linear(in_features=48, out_features=64"),
            "{outline}"
        );
        Ok(())
    }

    #[test]
    fn an_autoencoder_runs_in_half_precision() -> Result<()> {
        let config = ConvVaeConfig::default();
        let vae = ConvVae::new(&config, &Params::new(0).root())?;
        let x = Rng::new(1).uniform(-1.0, 1.0, (2, 3, 32, 32), &Device::Cpu)?;
        let expected = values(&vae.reconstruct(&x)?)?;
        for dtype in [DType::F16, DType::F64] {
            let params = Params::with(0, dtype, &Device::Cpu);
            let other = ConvVae::new(&config, &params.root())?;
            let posterior = other.encode(&x)?;
            assert_eq!(posterior.sample(&mut Rng::new(2))?.dtype(), dtype);
            assert!(values(&posterior.kl()?)?.iter().all(|v| v.is_finite()));
            let images = other.reconstruct(&x)?;
            assert_eq!(images.dtype(), dtype);
            for (a, b) in values(&images)?.iter().zip(&expected) {
                assert!((a - b).abs() < 0.1, "{dtype:?}: {a} {b}");
            }
        }
        Ok(())
    }
}
