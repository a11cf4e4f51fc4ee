//! What is measured.

mod colour;
mod estimate;
mod image;
mod similarity;

pub use colour::measure_colours;
pub use estimate::{Estimate, bootstrap_mean};
pub use image::{agreement, psnr};
pub use similarity::cka;
