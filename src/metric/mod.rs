//! What is measured.

mod colour;
mod estimate;
mod frechet;
mod image;
mod judge;
mod similarity;
mod ssim;

pub use colour::measure_colours;
pub use estimate::{Estimate, bootstrap_mean};
pub use frechet::frechet_distance;
pub use image::{agreement, fine_structure, psnr};
pub use judge::Judge;
pub use similarity::cka;
pub use ssim::ssim;
