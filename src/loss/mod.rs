//! What is minimised.

mod flow;
mod vae;

pub use flow::{Nll, nll};
pub use vae::{VaeLoss, vae_loss};
