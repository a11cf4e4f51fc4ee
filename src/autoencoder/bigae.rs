//! The paper's autoencoders for photographs: BigAE (a ResNet encoder and a BigGAN-128 decoder),
//! and the generator of BigGAN-256 as a decoder.

use super::biggan::{CLASSES, EMBEDDING, Generator};
use super::{Autoencoder, Decoder, Posterior};
use crate::backbone::{Backbone, Network, NormKind, Preprocess, resnet_features};
use crate::ops::{Activation, Init, Placement, Scope, dense, softmax};
use crate::outline::{activation, linear, parameters_of, shows_outline};
use crate::{Error, Outline, Result};
use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The configuration of a [`BigAe`]. The defaults are those of the authors' `bigae_animalfaces`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BigAeConfig {
    /// Number of layers of the encoder's ResNet: 50 or 101.
    pub depth: usize,
    /// Length of the code z̄, more than 100.
    pub code: usize,
    /// Channels of D's last block; the authors use 96.
    pub width: usize,
    /// If true (`bigae_animals`), E and the last norm of D use ActNorm; if false, batch norm.
    pub act_norm: bool,
}

impl Default for BigAeConfig {
    fn default() -> Self {
        Self {
            depth: 101,
            code: 128,
            width: 96,
            act_norm: false,
        }
    }
}

impl BigAeConfig {
    /// Returns the configuration of the authors' `bigae_animals`.
    pub fn animals() -> Self {
        Self {
            act_norm: true,
            ..Self::default()
        }
    }
}

/// The paper's autoencoder for photographs of 128 pixels. E is a ResNet; D is the generator of
/// BigGAN-128. Three hidden layers map the code to the generator's class embedding. Parameters
/// have the names of the authors' checkpoints. Batch norms use their running statistics.
///
/// ```no_run
/// use invariances::{autoencoder::{BigAe, BigAeConfig}, hub::{Hub, published}, ops::Params};
/// let file = published("bigae_animals")?;
/// file.fetch(&Hub::open()?)?;
/// let params = Params::blank(&invariances::candle_core::Device::Cpu);
/// let bigae = BigAe::new(&BigAeConfig::animals(), &params.root())?;
/// file.open()?.load_into(&params)?;
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct BigAe {
    config: BigAeConfig,
    encoder: Backbone,
    to_code: (Tensor, Tensor),
    to_class: Vec<(Tensor, Tensor)>,
    generator: Generator,
    at: Scope,
}

/// The side of the images in pixels.
const SIZE: usize = 128;
/// The slope of the leaky ReLU between the layers that map a code to class logits.
const SLOPE: f64 = 0.01;

fn layer(shape: &[usize], at: &Scope) -> Result<(Tensor, Tensor)> {
    let weight = at.get(shape, "weight", Init::FanIn)?;
    let bias = at.get(shape[0], "bias", Init::Const(0.0))?;
    Ok((weight.as_tensor().clone(), bias.as_tensor().clone()))
}

impl BigAe {
    /// Creates the network with parameters from `at`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ResNet's depth is not 50 or 101, the code is too short or the
    /// width is 0; [`Error::Shape`] if parameters exist with other shapes.
    pub fn new(config: &BigAeConfig, at: &Scope) -> Result<Self> {
        if !matches!(config.depth, 50 | 101) || config.width == 0 {
            return Err(Error::invalid(format!(
                "expected a ResNet depth of 50 or 101 and a width of at least 1, found {config:?}"
            )));
        }
        let kind = match config.act_norm {
            true => NormKind::Act,
            false => NormKind::Batch(1e-5),
        };
        let model = at.pp("encoder.model");
        let hidden = 2 * CLASSES;
        let sizes = [config.code, hidden, hidden, hidden, CLASSES];
        let to_class = sizes.windows(2).enumerate().map(|(i, pair)| {
            let at = at.pp("decoder.map_to_class_embedding.main").pp(2 * i);
            layer(&[pair[1], pair[0]], &at)
        });
        let w = config.width;
        let widths = [16 * w, 16 * w, 8 * w, 4 * w, 2 * w, w];
        Ok(Self {
            encoder: resnet_features(config.depth, kind, &model)?,
            to_code: layer(&[2 * config.code, 2048, 1, 1], &model.pp("fc.sub_layers.0"))?,
            to_class: to_class.collect::<Result<_>>()?,
            generator: Generator::new(
                config.code,
                &widths,
                config.act_norm,
                &at.pp("decoder.decoder"),
            )?,
            config: config.clone(),
            at: at.clone(),
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> BigAeConfig {
        self.config.clone()
    }

    /// Returns frozen networks with the same weights. Their results keep no graph, and E's norms
    /// are folded into the convolutions before them. Without freezing, all activations between a
    /// code and its image stay in memory as long as the image. Call this after the weights are
    /// loaded.
    ///
    /// # Errors
    /// [`Error::Tensor`] if memory runs out.
    pub fn frozen(&self) -> Result<Self> {
        let detached = |(weight, bias): &(Tensor, Tensor)| (weight.detach(), bias.detach());
        Ok(Self {
            config: self.config.clone(),
            encoder: self.encoder.frozen()?,
            to_code: detached(&self.to_code),
            to_class: self.to_class.iter().map(detached).collect(),
            generator: self.generator.detached(),
            at: self.at.clone(),
        })
    }

    /// Describes the layers, as `Display` prints them.
    pub fn outline(&self) -> Outline {
        let dense = |(weight, bias): &(Tensor, Tensor)| {
            Outline::new(linear(weight, true)).with_parameters(parameters_of([weight, bias]))
        };
        let to_class = Outline::new(format!(
            "to class probabilities{}",
            activation(Activation::Leaky(SLOPE))
        ))
        .with_parts(self.to_class.iter().map(dense));
        let encoder = self.encoder.outline();
        Outline::new(format!("BigAe(size={SIZE}, code={})", self.config.code)).with_parts([
            encoder
                .with_parts([dense(&self.to_code).named("code")])
                .named("encoder"),
            Outline::new("decoder").with_parts([to_class, self.generator.outline()]),
        ])
    }

    /// Returns the class embedding that is computed from a code.
    fn class(&self, code: &Tensor) -> Result<Tensor> {
        check_code(code, self.config.code)?;
        let mut classes = code.clone();
        for (i, (weight, bias)) in self.to_class.iter().enumerate() {
            let activation = match i + 1 == self.to_class.len() {
                true => Activation::None,
                false => Activation::Leaky(SLOPE),
            };
            classes = dense(&classes, weight, bias, activation)?;
        }
        self.generator.embed(&softmax(&classes)?)
    }
}

shows_outline!(BigAe, BigGan);

impl Autoencoder for BigAe {
    fn code(&self) -> usize {
        self.config.code
    }

    fn placement(&self) -> Option<Placement> {
        Some(self.at.placement())
    }

    fn encode(&self, x: &Tensor) -> Result<Posterior> {
        if x.dims().get(1..) != Some(&[3, SIZE, SIZE][..]) {
            return Err(Error::shape(format!(
                "expected images of shape (batch, 3, {SIZE}, {SIZE}), found {:?}",
                x.dims()
            )));
        }
        // ImageNet's normalisation is applied twice: the original normalises in two places, and
        // its weights were trained with that.
        let colours = Preprocess {
            size: None,
            ..Preprocess::imagenet(SIZE)
        };
        let x = self.at.placement().take(x)?;
        let x = colours.apply(&colours.apply(&x)?)?;
        let (weight, bias) = &self.to_code;
        let both = dense(&self.encoder.forward(&x)?, weight, bias, Activation::None)?;
        let halves = both.chunk(2, D::Minus1)?;
        Posterior::new(&halves[0], &halves[1])
    }

    fn decode(&self, code: &Tensor) -> Result<Tensor> {
        self.last_layer(&self.before_last(code)?)
    }
}

impl Decoder for BigAe {
    fn copy_below(&self, scope: &Scope) -> Result<Arc<dyn Decoder>> {
        let copy = Self::new(&self.config, scope)?;
        scope.set_all(&self.at.tensors())?;
        Ok(Arc::new(copy))
    }

    fn before_last(&self, code: &Tensor) -> Result<Tensor> {
        let code = self.at.placement().take(code)?;
        self.generator.before_last(&code, &self.class(&code)?)
    }

    fn last_layer(&self, hidden: &Tensor) -> Result<Tensor> {
        self.generator.last(&self.at.placement().take(hidden)?)
    }

    fn last_weight(&self) -> Tensor {
        self.generator.last_layer()
    }
}

fn check_code(code: &Tensor, length: usize) -> Result<()> {
    if code.dims().get(1..) == Some(&[length][..]) {
        return Ok(());
    }
    Err(Error::shape(format!(
        "expected codes of shape (batch, {length}), found {:?}",
        code.dims()
    )))
}

/// The generator of BigGAN-256, which is D in the paper's figures on ResNet-50. A code z̄ =
/// (noise, embedding) has 140 elements of noise and 128 of a class embedding. Images have 256
/// pixels per side.
#[derive(Clone)]
pub struct BigGan {
    generator: Generator,
    width: usize,
}

impl BigGan {
    /// Length of the noise, the first part of a code.
    pub const NOISE: usize = 140;

    /// Creates the network with parameters from `at` and `width` channels in the last block (96
    /// in the published network).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `width` is 0; [`Error::Shape`] if parameters exist with other shapes.
    pub fn new(width: usize, at: &Scope) -> Result<Self> {
        if width == 0 {
            return Err(Error::invalid("expected a width of at least 1, found 0"));
        }
        let w = width;
        let widths = [16 * w, 16 * w, 8 * w, 8 * w, 4 * w, 2 * w, w];
        Ok(Self {
            generator: Generator::new(Self::NOISE, &widths, false, at)?,
            width,
        })
    }

    /// Describes the layers, as `Display` prints them.
    pub fn outline(&self) -> Outline {
        Outline::new(format!("BigGan(size=256, code={})", self.code()))
            .with_parts([self.generator.outline()])
    }

    /// Returns the length of a code, 268.
    pub fn code(&self) -> usize {
        Self::NOISE + EMBEDDING
    }

    /// Returns the number of channels of the last block.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Returns the device and the number type of the parameters. Codes and probabilities are
    /// moved and converted to them.
    pub fn placement(&self) -> Placement {
        self.generator.placement()
    }

    /// Computes the embedding (batch, 128) of class probabilities (batch, 1000); a single class
    /// is one-hot.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn embed(&self, classes: &Tensor) -> Result<Tensor> {
        self.generator.embed(&self.placement().take(classes)?)
    }

    /// Decodes codes (batch, 268) to images (batch, 3, 256, 256).
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn decode(&self, code: &Tensor) -> Result<Tensor> {
        check_code(code, self.code())?;
        let code = self.placement().take(code)?;
        let noise = code.narrow(1, 0, Self::NOISE)?;
        let embedding = code.narrow(1, Self::NOISE, EMBEDDING)?.contiguous()?;
        self.generator.forward(&noise, &embedding)
    }
}
