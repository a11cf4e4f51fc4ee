//! The paper's questions as functions: what a layer leaves free, and whether v is what it must be.

mod codes;
mod probe;

pub use codes::Codes;
pub use probe::{Probe, chance};
