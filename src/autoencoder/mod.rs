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

use crate::ops::Scope;
use crate::{Error, Result};
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

    /// The code of each image, the mode of its posterior, (batch, code); without a graph.
    fn codes_of(&self, x: &Tensor) -> Result<Tensor> {
        in_parts("E", x, |x| Ok(self.encode(x)?.mode().detach()))
    }

    /// D(z̄) as pictures, to be looked at or judged: clamped to [−1, 1], without a graph.
    fn images_of(&self, code: &Tensor) -> Result<Tensor> {
        in_parts("D", code, |code| {
            Ok(self.decode(code)?.detach().clamp(-1f32, 1f32)?)
        })
    }

    /// D of the posterior's mode, without a graph: what E and D keep of the images.
    fn reconstruct(&self, x: &Tensor) -> Result<Tensor> {
        self.images_of(&self.codes_of(x)?)
    }
}

/// As many rows at a time as fit the caches, joined again.
fn in_parts(who: &str, all: &Tensor, part: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
    const TOGETHER: usize = 128;
    let count = all.dims().first().copied().unwrap_or(0);
    if count == 0 {
        return Err(Error::invalid(format!(
            "{who} needs at least one row, found 0"
        )));
    }
    let all = all.detach();
    let mut made = Vec::new();
    for start in (0..count).step_by(TOGETHER) {
        made.push(part(&all.narrow(0, start, TOGETHER.min(count - start))?)?);
    }
    Ok(Tensor::cat(&made, 0)?)
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
    /// [`Error::Invalid`] where parameters of these names exist there with other shapes.
    fn copy_below(&self, scope: &Scope) -> Result<Arc<dyn Decoder>>;

    /// D but its last layer.
    ///
    /// # Errors
    /// [`Error::Invalid`] for codes of another length.
    fn before_last(&self, code: &Tensor) -> Result<Tensor>;

    /// D's last layer, from what is before it to images (batch, 3, h, w), not clamped.
    ///
    /// # Errors
    /// [`Error::Tensor`] for another shape.
    fn last_layer(&self, hidden: &Tensor) -> Result<Tensor>;

    /// The weight of D's last layer.
    fn last_weight(&self) -> Tensor;
}
