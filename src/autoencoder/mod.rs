//! E and D: a complete code of an image, z̄ = E(x), and its decoding, x̄ = D(z̄).

mod authors;
mod bigae;
mod biggan;
mod conv;
mod posterior;
mod vector;

pub use authors::{IinVae, IinVaeConfig};
pub use bigae::{BigAe, BigAeConfig, BigGan};
pub use conv::{ConvVae, ConvVaeConfig};
pub use posterior::{Posterior, normal_like};
pub use vector::{VectorVae, VectorVaeConfig};

use crate::Result;
use crate::ops::Scope;
use candle_core::Tensor;
use std::fmt::Debug;
use std::sync::Arc;

/// E and D, whatever they are made of. Images are (batch, 3, h, w) in [−1, 1], codes (batch, code).
pub trait Autoencoder {
    /// The length of a code.
    fn code(&self) -> usize;

    /// E(x): the distribution of codes of each image.
    fn encode(&self, x: &Tensor) -> Result<Posterior>;

    /// D(z̄): images. Not clamped, so that a loss has a gradient everywhere.
    fn decode(&self, code: &Tensor) -> Result<Tensor>;

    /// D of the posterior's mode, without a graph: what E and D keep of the images.
    fn reconstruct(&self, x: &Tensor) -> Result<Tensor> {
        const TOGETHER: usize = 128;
        let count = x.dims().first().copied().unwrap_or(0);
        let mut made = Vec::new();
        for start in (0..count).step_by(TOGETHER) {
            let x = x.narrow(0, start, TOGETHER.min(count - start))?;
            let code = self.encode(&x.detach())?.mode().detach();
            made.push(self.decode(&code)?.detach().clamp(-1f32, 1f32)?);
        }
        if made.is_empty() {
            return Err(crate::Error::invalid(
                "E and D need at least one image, found 0",
            ));
        }
        Ok(Tensor::cat(&made, 0)?)
    }
}

impl<A: Autoencoder + ?Sized> Autoencoder for Arc<A> {
    fn code(&self) -> usize {
        (**self).code()
    }

    fn encode(&self, x: &Tensor) -> Result<Posterior> {
        (**self).encode(x)
    }

    fn decode(&self, code: &Tensor) -> Result<Tensor> {
        (**self).decode(code)
    }
}

/// E and D of which a copy can be trained on, against an adversary too: its weight is measured at D's last layer, which therefore stands apart
/// ([`adversarial_weight`](crate::loss::adversarial_weight)).
///
/// `Arc<dyn Decoder>` is any of them, where which one it is is decided as a notebook runs.
///
/// ```
/// use invariances::autoencoder::{Autoencoder, ConvVae, ConvVaeConfig, Decoder};
/// use invariances::{candle_core::{DType, Device, Tensor}, ops::Params};
/// let vae = ConvVae::new(&ConvVaeConfig::default(), &Params::new(0).root())?;
/// let own = Params::new(1);
/// let copy = vae.copy_below(&own.root())?;
/// let code = Tensor::ones((1, 48), DType::F32, &Device::Cpu)?;
/// let in_two = copy.last_layer(&copy.before_last(&code)?)?;
/// assert_eq!(in_two.flatten_all()?.to_vec1::<f32>()?, vae.decode(&code)?.flatten_all()?.to_vec1::<f32>()?);
/// # Ok::<(), invariances::Error>(())
/// ```
pub trait Decoder: Autoencoder + Debug + Send + Sync {
    /// A second one, of the same weights, that shares nothing with this one: below `scope`, D's parameters below `decoder` there.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where parameters of these names exist there with other shapes.
    fn copy_below(&self, scope: &Scope) -> Result<Arc<dyn Decoder>>;

    /// D but its last layer.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for codes of another length.
    fn before_last(&self, code: &Tensor) -> Result<Tensor>;

    /// D's last layer, from what is before it to images (batch, 3, h, w), not clamped.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) for another shape.
    fn last_layer(&self, hidden: &Tensor) -> Result<Tensor>;

    /// The weight of D's last layer.
    fn last_weight(&self) -> Tensor;
}
