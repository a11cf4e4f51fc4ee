//! Ask a vision network what it has learned, and what it has learned to ignore.
//!
//! The method is that of Rombach, Esser, Ommer, "Making Sense of CNNs: Interpreting Deep
//! Representations & Their Invariances with INNs" (ECCV 2020, [arXiv 2008.01777](https://arxiv.org/abs/2008.01777)).
//! A network `f = Ψ∘Φ` is split at a layer, `z = Φ(x)`. An autoencoder gives a complete code
//! `z̄ = E(x)`, `x̄ = D(z̄)`. A conditional invertible network turns the code into
//! `v = t(z̄ | z)`: what `z̄` holds beyond `z`, the *invariances*. Drawing `v ~ N(0, 1)` and decoding
//! `D(t⁻¹(v | z))` shows every image that the layer cannot tell from `x`.
//!
//! The modules depend on each other in one direction only:
//! `ops` ← `flow` ← `backbone`, `autoencoder`, `loss` ← `data`, `hub`, `train`, `metric`, `interpret` ← `figure` ← `notebook`.
//!
//! Notebooks use candle, plotters, polars and hf-hub through the re-exports below and never by a
//! dependency of their own: a second copy of candle would have its own tensor ids, and gradients would be lost.

pub mod autoencoder;
pub mod backbone;
pub mod flow;
pub mod hub;
pub mod interpret;
pub mod loss;
pub mod metric;
pub mod notebook;
pub mod prelude;
pub mod train;

pub use invariances_core::{Error, Result, files};
pub use invariances_data as data;
pub use invariances_figure as figure;
pub use invariances_ops as ops;

pub use candle_core;
pub use candle_nn;
pub use candle_transformers;
pub use hf_hub;
pub use plotters;
pub use polars;

/// The crate's version, kept with everything that is trained or drawn.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
