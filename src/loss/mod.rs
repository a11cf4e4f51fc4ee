//! What is minimised.

mod discriminator;
mod flow;
mod lpips;
mod vae;

pub use discriminator::{PatchDiscriminator, adversarial_weight};
pub use flow::{Nll, PairNll, nll, nll_parts, pair_nll};
pub use lpips::Lpips;
pub use vae::{VaeLoss, vae_loss};
