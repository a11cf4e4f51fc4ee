use crate::backbone::{Backbone, Mode, Network, patch_layers};
use crate::ops::Scope;
use crate::{Error, Result};
use candle_core::{D, Tensor};

/// The patch discriminator (arXiv 1611.07004): logits (batch, 1, h', w') that say of each patch of an image how real it looks. Four 4×4
/// convolutions with batch norm and LeakyReLU(0.2) between, under the names of the authors' network (`main.0.weight` …).
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
    /// For images of three channels and at least 32 pixels: 64 channels at first, three halvings.
    ///
    /// # Errors
    /// [`Error::Invalid`] where parameters exist with other shapes.
    pub fn new(at: &Scope) -> Result<Self> {
        Ok(Self {
            network: patch_layers(at)?,
        })
    }

    /// The same network, the same parameters, in training or evaluation mode (the default).
    pub fn with_mode(&self, mode: Mode) -> Self {
        Self {
            network: self.network.with_mode(mode),
        }
    }

    /// How real each patch looks: (batch, 1, h', w').
    ///
    /// # Errors
    /// [`Error::Invalid`] where the images are too small.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        self.network.forward(images)
    }

    /// What the discriminator minimises: ½(mean softplus(−D(x)) + mean softplus(D(x̂))), a scalar. No gradient goes to the images.
    ///
    /// # Errors
    /// As [`PatchDiscriminator::logits`].
    pub fn loss(&self, images: &Tensor, decoded: &Tensor) -> Result<Tensor> {
        let real = softplus(&self.logits(&images.detach())?.neg()?)?.mean_all()?;
        let fake = softplus(&self.logits(&decoded.detach())?)?.mean_all()?;
        Ok(((real + fake)? * 0.5)?)
    }

    /// The generator's term, −mean D(x̂), a scalar with a gradient for the images.
    ///
    /// # Errors
    /// As [`PatchDiscriminator::logits`].
    pub fn generator_loss(&self, decoded: &Tensor) -> Result<Tensor> {
        Ok(self.logits(decoded)?.mean_all()?.neg()?)
    }
}

/// log(1 + exp(x)), for large x too.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let tail = ((x.abs()?.neg()?.exp()? + 1.0)?).log()?;
    Ok((x.relu()? + tail)?)
}

/// The weight of the generator's term: ‖∇ of the reconstruction's loss‖ / (‖∇ of the generator's‖ + 1e-4), both at the decoder's last
/// layer, at least 0 and at most 10⁴ (the authors' VAE loss; arXiv 2012.09841, equation 7). A number, through which no gradient goes.
///
/// # Errors
/// [`Error::Invalid`] where one of the losses does not depend on the layer.
pub fn adversarial_weight(
    reconstruction: &Tensor,
    generator: &Tensor,
    last_layer: &Tensor,
) -> Result<f64> {
    let norm = |loss: &Tensor, what: &str| -> Result<f64> {
        let gradients = crate::ops::backward(loss)?;
        let gradient = gradients.get(last_layer).ok_or_else(|| {
            Error::invalid(format!(
                "the {what} loss does not depend on the layer at which gradients are compared"
            ))
        })?;
        let gradient = gradient.detach().flatten_all()?;
        let square = gradient.sqr()?.sum(D::Minus1)?;
        Ok(square
            .to_dtype(candle_core::DType::F64)?
            .to_scalar::<f64>()?
            .sqrt())
    };
    let (r, g) = (
        norm(reconstruction, "reconstruction's")?,
        norm(generator, "generator's")?,
    );
    Ok((r / (g + 1e-4)).clamp(0.0, 1e4))
}
