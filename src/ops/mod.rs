//! What candle lacks or does slowly: operations with gradients, a seeded generator, parameters by name.

pub mod files;
mod params;
mod rng;

pub use params::{Init, Params, Scope};
pub use rng::Rng;
