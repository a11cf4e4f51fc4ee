//! What is minimised.

mod vae;

pub use vae::{VaeLoss, vae_loss};
