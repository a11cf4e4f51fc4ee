//! Shows what a vision network has learned, and what it has learned to ignore.
//!
//! The method is that of Rombach, Esser, Ommer, "Making Sense of CNNs: Interpreting Deep
//! Representations & Their Invariances with INNs" (ECCV 2020,
//! [arXiv 2008.01777](https://arxiv.org/abs/2008.01777)).
//! A network `f = Ψ∘Φ` is split at a layer, and `z = Φ(x)` is the representation there. An
//! autoencoder with encoder E and decoder D gives a complete code `z̄ = E(x)` and the
//! reconstruction `x̄ = D(z̄)`. A conditional invertible network t computes `v = t(z̄ | z)`: what
//! `z̄` contains beyond `z`, the *invariances*. Drawing `v ~ N(0, 1)` and decoding
//! `D(t⁻¹(v | z))` generates images that the layer cannot distinguish from `x`.
//!
//! Modules depend on each other in one direction only: each one uses modules to its left, and the
//! crates `ops`, `data` and `figure`, which are below all of them.
//! [`flow`] ← [`backbone`] ← [`hub`] ← [`autoencoder`] ← [`loss`] ← [`metric`] ← [`train`] ←
//! [`recipes`] ← [`interpret`] ← [`notebook`].
//!
//! Notebooks must use candle, plotters, polars and hf-hub through the re-exports below, not
//! through dependencies of their own. A second copy of candle would have its own tensor ids, and
//! gradients would be lost.

#![forbid(unsafe_code)]

pub mod autoencoder;
pub mod backbone;
pub mod flow;
pub mod hub;
pub mod interpret;
pub mod loss;
pub mod metric;
pub mod notebook;
mod outline;
pub mod prelude;
pub mod recipes;
pub mod revision;
pub mod train;

pub use invariances_core::{Error, Result, files};
pub use invariances_data as data;
pub use invariances_figure as figure;
pub use invariances_ops as ops;
pub use outline::Outline;

pub use candle_core;
pub use candle_nn;
pub use candle_transformers;
pub use hf_hub;
pub use plotters;
pub use polars;

/// The crate's version. It is stored with every trained network and every figure.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
