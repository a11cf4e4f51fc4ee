//! The small convolutional VAE of the factor network's authors.

use super::{Autoencoder, Posterior};
use crate::flow::ActNorm;
use crate::ops::{Activation, ConvConfig, Init, Placement, Scope, conv_transpose2d, conv2d};
use crate::outline::{activation, convolution, parameters_of, shows_outline};
use crate::{Error, Outline, Result};
use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

/// The activation between the layers.
const LEAKY: Activation = Activation::Leaky(0.2);

/// The configuration of an [`IinVae`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IinVaeConfig {
    /// Side of the square images in pixels, a multiple of 2 to the power of `down`.
    pub size: usize,
    /// Length of the code z̄.
    pub code: usize,
    /// Number of times that E halves the image.
    pub down: usize,
    /// Channels at half the size. Each further halving doubles them, up to 16 times this width.
    /// The authors use 64.
    pub width: usize,
}

impl Default for IinVaeConfig {
    fn default() -> Self {
        Self {
            size: 32,
            code: 64,
            down: 4,
            width: 64,
        }
    }
}

/// The small convolutional VAE of the factor network's authors (arXiv 2004.13166). E has strided
/// 4×4 convolutions with ActNorm and LeakyReLU(0.2), and a dense layer over the remaining
/// positions. D is the reverse with transposed convolutions and ends in a tanh. Parameters have
/// the authors' names.
///
/// The ActNorms are initialised from images: call [`IinVae::initialize`] before training.
#[derive(Clone)]
pub struct IinVae {
    config: IinVaeConfig,
    down: Vec<(Tensor, ActNorm)>,
    encode: (Tensor, Tensor),
    decode: (Tensor, Tensor),
    up: Vec<(Tensor, ActNorm)>,
    image: Tensor,
}

impl IinVae {
    /// Creates the network with parameters from `at`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the images cannot be halved `down` times, or if `down`, `code` or
    /// `width` is 0.
    pub fn new(config: &IinVaeConfig, at: &Scope) -> Result<Self> {
        let smallest = config.size.checked_shr(config.down as u32).unwrap_or(0);
        if smallest == 0
            || config.down == 0
            || smallest << config.down != config.size
            || config.code == 0
            || config.width == 0
        {
            return Err(Error::invalid(format!(
                "expected a size that can be halved {} times, and a code and a width of at least \
                 1, found {config:?}",
                config.down
            )));
        }
        let channels = |scale: usize| config.width << scale.min(4);
        let start = Init::Normal(0.02);
        let weight = |shape: (usize, usize, usize, usize), at: &Scope| -> Result<Tensor> {
            Ok(at.get(shape, "weight", start)?.as_tensor().clone())
        };
        let bias = |length: usize, at: &Scope| -> Result<Tensor> {
            Ok(at
                .get(length, "bias", Init::Const(0.0))?
                .as_tensor()
                .clone())
        };
        let (mut down, mut up) = (Vec::new(), Vec::new());
        for i in 0..config.down {
            let at = at.pp("feature_layers").pp(i).pp("sub_layers");
            let inputs = if i == 0 { 3 } else { channels(i - 1) };
            let weight = weight((channels(i), inputs, 4, 4), &at.pp(0))?;
            down.push((weight, ActNorm::new(channels(i), &at.pp(1))?));
        }
        for i in 0..config.down - 1 {
            let at = at.pp("decoder_layers").pp(i).pp("sub_layers");
            let weight = weight((channels(i + 1), channels(i), 4, 4), &at.pp(0))?;
            up.push((weight, ActNorm::new(channels(i), &at.pp(1))?));
        }
        let deepest = channels(config.down - 1);
        let dense = at.pp("dense_encode.sub_layers.0");
        let encode = (
            weight((2 * config.code, deepest, smallest, smallest), &dense)?,
            bias(2 * config.code, &dense)?,
        );
        let dense = at.pp("dense_decode.sub_layers.0");
        let decode = (
            weight((config.code, deepest, smallest, smallest), &dense)?,
            bias(deepest, &dense)?,
        );
        Ok(Self {
            config: config.clone(),
            down,
            encode,
            decode,
            up,
            image: weight((config.width, 3, 4, 4), &at.pp("image_layer.sub_layers.0"))?,
        })
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> IinVaeConfig {
        self.config.clone()
    }

    /// Describes the layers, as `Display` prints them.
    pub fn outline(&self) -> Outline {
        let normed = |(weight, norm): &(Tensor, ActNorm), transposed: bool| {
            let (conv, channels) = (
                convolution(weight, &STRIDED, false, transposed),
                norm.channels(),
            );
            Outline::new(format!("{conv}, ActNorm({channels}){}", activation(LEAKY)))
                .with_parameters(weight.elem_count() + 2 * channels)
        };
        let dense = |(weight, bias): &(Tensor, Tensor), transposed: bool| {
            let text = convolution(weight, &ConvConfig::default(), true, transposed);
            let own = parameters_of([weight, bias]);
            Outline::new(text).with_parameters(own).named("code")
        };
        let image = convolution(&self.image, &STRIDED, false, true);
        let IinVaeConfig { size, code, .. } = self.config;
        Outline::new(format!("IinVae(size={size}, code={code})")).with_parts([
            Outline::new("encoder")
                .with_parts(self.down.iter().map(|l| normed(l, false)))
                .with_parts([dense(&self.encode, false)]),
            Outline::new("decoder")
                .with_parts([dense(&self.decode, true)])
                .with_parts(self.up.iter().rev().map(|l| normed(l, true)))
                .with_parts([
                    Outline::new(format!("{image}, Tanh")).with_parameters(self.image.elem_count())
                ]),
        ])
    }

    /// Initialises the ActNorms from images (batch, 3, size, size); those of D from the images'
    /// codes. Initialised ActNorms keep their values.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another size, or for too few images.
    pub fn initialize(&self, images: &Tensor) -> Result<()> {
        let mut h = Placement::of(&self.image).take(&images.detach())?;
        for (weight, norm) in &self.down {
            h = strided(&h, weight, false)?;
            norm.initialize_with_notice(&h, "a layer of the encoder")?;
            h = norm.activated(&h, LEAKY)?;
        }
        let mut h = self.first(&self.encode(images)?.mode().detach())?;
        for (weight, norm) in self.up.iter().rev() {
            h = strided(&h, weight, true)?;
            norm.initialize_with_notice(&h, "a layer of the decoder")?;
            h = norm.activated(&h, LEAKY)?;
        }
        Ok(())
    }

    /// Returns the first (smallest) feature map of D.
    fn first(&self, code: &Tensor) -> Result<Tensor> {
        let (batch, _) = code.dims2()?;
        let (weight, bias) = &self.decode;
        let code = code.reshape((batch, self.config.code, 1, 1))?;
        conv_transpose2d(&code, weight, bias, ConvConfig::default())
    }

    /// Returns the weight of D's last layer, where the gradients of the losses are compared.
    pub fn last_layer(&self) -> Tensor {
        self.image.clone()
    }
}

shows_outline!(IinVae);

/// The settings of the convolutions that halve or double an image.
const STRIDED: ConvConfig = ConvConfig {
    stride: 2,
    padding: (1, 1),
    activation: Activation::None,
};

/// Applies a 4×4 convolution that halves the image, or the transposed one that doubles it,
/// without bias.
fn strided(x: &Tensor, weight: &Tensor, doubles: bool) -> Result<Tensor> {
    let config = STRIDED;
    let outputs = weight.dims()[if doubles { 1 } else { 0 }];
    let none = Tensor::zeros(outputs, x.dtype(), x.device())?;
    if doubles {
        conv_transpose2d(x, weight, &none, config)
    } else {
        conv2d(x, weight, &none, config)
    }
}

impl Autoencoder for IinVae {
    fn code(&self) -> usize {
        self.config.code
    }

    fn placement(&self) -> Option<Placement> {
        Some(Placement::of(&self.image))
    }

    fn encode(&self, x: &Tensor) -> Result<Posterior> {
        let size = self.config.size;
        if x.dims().get(1..) != Some(&[3, size, size][..]) {
            return Err(Error::shape(format!(
                "expected images of shape (batch, 3, {size}, {size}), found {:?}",
                x.dims()
            )));
        }
        let mut h = Placement::of(&self.image).take(x)?;
        for (weight, norm) in &self.down {
            h = norm.activated(&strided(&h, weight, false)?, LEAKY)?;
        }
        let (weight, bias) = &self.encode;
        let both = conv2d(&h, weight, bias, ConvConfig::default())?.flatten_from(1)?;
        let halves = both.chunk(2, D::Minus1)?;
        Posterior::new(&halves[0], &halves[1])
    }

    fn decode(&self, code: &Tensor) -> Result<Tensor> {
        if code.dims().get(1..) != Some(&[self.config.code][..]) {
            return Err(Error::shape(format!(
                "expected codes of shape (batch, {}), found {:?}",
                self.config.code,
                code.dims()
            )));
        }
        let mut h = self.first(&Placement::of(&self.image).take(code)?)?;
        for (weight, norm) in self.up.iter().rev() {
            h = norm.activated(&strided(&h, weight, true)?, LEAKY)?;
        }
        Ok(strided(&h, &self.image, true)?.tanh()?)
    }
}
