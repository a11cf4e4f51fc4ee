//! What is measured.

mod colour;
mod estimate;
mod image;

pub use colour::measure_colours;
pub use estimate::{Estimate, bootstrap_mean};
pub use image::{agreement, psnr};
