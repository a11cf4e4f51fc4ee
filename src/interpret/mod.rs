//! The paper's questions as functions: what a layer leaves free, and whether v is what it must be.

mod codes;
mod features;
mod free;
mod probe;

pub use codes::Codes;
pub use features::Features;
pub use free::{Samples, free_share};
pub use probe::{Probe, chance, unread_share};
