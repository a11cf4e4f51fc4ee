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
use candle_core::Tensor;

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
        let code = self.encode(&x.detach())?.mode().detach();
        Ok(self.decode(&code)?.detach().clamp(-1f32, 1f32)?)
    }
}
