//! What is measured.

mod estimate;

pub use estimate::{Estimate, bootstrap_mean};
