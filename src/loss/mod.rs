//! What is minimised.

mod flow;
mod vae;

pub use flow::{Nll, PairNll, nll, nll_parts, pair_nll};
pub use vae::{VaeLoss, vae_loss};
