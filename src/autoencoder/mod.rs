//! Autoencoders: the encoder E computes a complete code of an image, z̄ = E(x), and the decoder D
//! its reconstruction, x̄ = D(z̄).

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

use crate::ops::{Placement, Scope};
use crate::{Error, Result};
use candle_core::Tensor;
use std::fmt::Debug;
use std::sync::Arc;

/// An encoder E and a decoder D of any architecture. Images are (batch, 3, h, w) in [−1, 1],
/// codes are (batch, code). Both may be on any device and have any floating-point type: an
/// implementation moves and converts them to those of its parameters, and its results stay there.
pub trait Autoencoder {
    /// Returns the length of a code.
    fn code(&self) -> usize;

    /// Returns the device and the number type of the parameters, or `None` if they are not known.
    fn placement(&self) -> Option<Placement> {
        None
    }

    /// Returns E(x), the distribution of codes of each image.
    fn encode(&self, x: &Tensor) -> Result<Posterior>;

    /// Decodes codes to images D(z̄). The images are not clamped, so that a loss has a gradient
    /// everywhere.
    fn decode(&self, code: &Tensor) -> Result<Tensor>;

    /// Returns the code of each image, (batch, code): the mode of its posterior, without a graph.
    fn codes_of(&self, x: &Tensor) -> Result<Tensor> {
        in_parts("the encoder", x, |x| Ok(self.encode(x)?.mode().detach()))
    }

    /// Decodes codes to images for display or evaluation: clamped to [−1, 1], without a graph.
    fn images_of(&self, code: &Tensor) -> Result<Tensor> {
        in_parts("the decoder", code, |code| {
            Ok(self.decode(code)?.detach().clamp(-1f32, 1f32)?)
        })
    }

    /// Returns the reconstructions of the images: D applied to the mode of the posterior, without
    /// a graph.
    fn reconstruct(&self, x: &Tensor) -> Result<Tensor> {
        self.images_of(&self.codes_of(x)?)
    }
}

/// Applies `part` to at most 128 rows at a time, which fit the caches, and concatenates the
/// results.
fn in_parts(
    network: &str,
    all: &Tensor,
    part: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    const BATCH: usize = 128;
    let count = all.dims().first().copied().unwrap_or(0);
    if count == 0 {
        return Err(Error::shape(format!(
            "expected a batch of at least one row for {network}, found 0"
        )));
    }
    let all = all.detach();
    let mut results = Vec::new();
    for start in (0..count).step_by(BATCH) {
        results.push(part(&all.narrow(0, start, BATCH.min(count - start))?)?);
    }
    Ok(Tensor::cat(&results, 0)?)
}

impl<A: Autoencoder + ?Sized> Autoencoder for Arc<A> {
    fn code(&self) -> usize {
        (**self).code()
    }

    fn placement(&self) -> Option<Placement> {
        (**self).placement()
    }

    fn encode(&self, x: &Tensor) -> Result<Posterior> {
        (**self).encode(x)
    }

    fn decode(&self, code: &Tensor) -> Result<Tensor> {
        (**self).decode(code)
    }
}

/// An autoencoder that can be copied and trained further, also with an adversarial loss.
///
/// The weight of the adversarial loss is measured at D's last layer, so that layer is evaluated
/// separately ([`adversarial_weight`](crate::loss::adversarial_weight)). `Arc<dyn Decoder>` holds
/// any implementation, for code that chooses one at run time.
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
    /// Returns a copy with the same weights below `scope`; D's parameters are below `decoder`
    /// there. The copy shares no parameters with the original.
    ///
    /// # Errors
    /// [`Error::Shape`] if parameters of these names exist there with other shapes.
    fn copy_below(&self, scope: &Scope) -> Result<Arc<dyn Decoder>>;

    /// Evaluates all layers of D but the last.
    ///
    /// # Errors
    /// [`Error::Shape`] for codes of another length.
    fn before_last(&self, code: &Tensor) -> Result<Tensor>;

    /// Evaluates D's last layer: maps the result of [`Decoder::before_last`] to images (batch, 3,
    /// h, w), not clamped.
    ///
    /// # Errors
    /// [`Error::Tensor`] for another shape.
    fn last_layer(&self, hidden: &Tensor) -> Result<Tensor>;

    /// Returns the weight of D's last layer.
    fn last_weight(&self) -> Tensor;
}
