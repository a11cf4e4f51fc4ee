//! What is measured.

mod image;

pub use image::{agreement, psnr};
mod colour;

pub use colour::measure_colours;
mod estimate;

pub use estimate::{Estimate, bootstrap_mean};
