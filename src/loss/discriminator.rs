//! The patch discriminator, its losses, and the adaptive weight of the adversarial loss.

use crate::backbone::{Backbone, Mode, Network, patch_layers};
use crate::ops::widened as wide;
use crate::ops::{Scope, scalar};
use crate::{Error, Result};
use candle_core::{D, Tensor};

/// The patch discriminator (arXiv 1611.07004). Its logits (batch, 1, h', w') rate how real each
/// patch of an image looks. It has five 4×4 convolutions with LeakyReLU(0.2) between them and a
/// batch norm after the second, third and fourth. Parameters have the names of the authors'
/// network (`main.0.weight` …).
///
/// ```
/// use invariances::{candle_core::Device, loss::PatchDiscriminator, ops::{Params, Rng}};
/// let discriminator = PatchDiscriminator::new(&Params::new(0).root())?;
/// let x = Rng::new(0).normal((2, 3, 32, 32), &Device::Cpu)?;
/// assert_eq!(discriminator.logits(&x)?.dims(), [2, 1, 2, 2]);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PatchDiscriminator {
    network: Backbone,
}

impl PatchDiscriminator {
    /// Creates the network for RGB images of at least 32 pixels per side. It starts with 64
    /// channels and halves the image three times.
    ///
    /// # Errors
    /// [`Error::Shape`] if parameters of these names exist with other shapes.
    pub fn new(at: &Scope) -> Result<Self> {
        Ok(Self {
            network: patch_layers(at)?,
        })
    }

    /// Returns the same network with shared parameters, in training or evaluation mode (the
    /// default).
    pub fn with_mode(&self, mode: Mode) -> Self {
        Self {
            network: self.network.with_mode(mode),
        }
    }

    /// Returns the logits (batch, 1, h', w'), which rate how real each patch looks. Images are
    /// moved and converted to the device and the number type of the parameters.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images are too small.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        self.network.forward(images)
    }

    /// Computes the discriminator's loss, ½(mean softplus(−D(x)) + mean softplus(D(x̂))), a
    /// scalar. The images get no gradient.
    ///
    /// # Errors
    /// As [`PatchDiscriminator::logits`].
    pub fn loss(&self, images: &Tensor, decoded: &Tensor) -> Result<Tensor> {
        let logits = |x: &Tensor| wide(&self.logits(&x.detach())?);
        let real = softplus(&logits(images)?.neg()?)?.mean_all()?;
        let fake = softplus(&logits(decoded)?)?.mean_all()?;
        Ok(((real + fake)? * 0.5)?)
    }

    /// Computes the generator's loss, −mean D(x̂), a scalar with a gradient for the images.
    ///
    /// # Errors
    /// As [`PatchDiscriminator::logits`].
    pub fn generator_loss(&self, decoded: &Tensor) -> Result<Tensor> {
        Ok(wide(&self.logits(decoded)?)?.mean_all()?.neg()?)
    }
}

/// Computes log(1 + exp(x)) without overflow for large x.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let tail = ((x.abs()?.neg()?.exp()? + 1.0)?).log()?;
    Ok((x.relu()? + tail)?)
}

/// Computes the weight of the generator's loss: ‖∇ reconstruction loss‖ / (‖∇ generator loss‖ +
/// 1e-4), clamped to [0, 10⁴]. Both gradients are taken at the decoder's last layer (the authors'
/// VAE loss; arXiv 2012.09841, equation 7). The result is a number without a gradient.
///
/// # Errors
/// [`Error::Invalid`] if one of the losses does not depend on the layer.
pub fn adversarial_weight(
    reconstruction: &Tensor,
    generator: &Tensor,
    last_layer: &Tensor,
) -> Result<f64> {
    let norm = |loss: &Tensor, what: &str| -> Result<f64> {
        let gradients = crate::ops::backward(loss)?;
        let gradient = gradients.get(last_layer).ok_or_else(|| {
            Error::invalid(format!(
                "expected a {what} loss that depends on the decoder's last layer, found no \
                 gradient for this layer"
            ))
        })?;
        let gradient = wide(&gradient.detach().flatten_all()?)?;
        Ok(scalar(&gradient.sqr()?.sum(D::Minus1)?)?.sqrt())
    };
    let (r, g) = (
        norm(reconstruction, "reconstruction")?,
        norm(generator, "generator")?,
    );
    Ok((r / (g + 1e-4)).clamp(0.0, 1e4))
}
