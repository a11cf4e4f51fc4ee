//! What is minimised.

mod flow;
mod vae;

pub use flow::{Nll, nll, nll_parts};
pub use vae::{VaeLoss, vae_loss};
