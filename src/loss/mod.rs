//! Losses: the objectives of the flows, the autoencoders and the adversarial training.
//!
//! After a change that alters values, raise the revision of `loss` in `src/revisions.json`: stored
//! networks are then trained again (see [`revision`](crate::revision)).

mod discriminator;
mod flow;
mod lpips;
mod perceptual;
mod vae;

pub use discriminator::{PatchDiscriminator, adversarial_weight};
pub use flow::{Nll, PairNll, nll, nll_parts, pair_nll};
pub use lpips::Lpips;
pub use perceptual::{FeatureDistance, PerceptualDistance, PerceptualVaeLoss, perceptual_vae_loss};
pub(crate) use vae::normal_nll;
pub use vae::{VaeLoss, vae_loss};
