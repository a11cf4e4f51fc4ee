//! Metrics: image quality, colours, agreement of predictions, similarity of representations,
//! disentanglement, interpolation paths, and confidence intervals.

mod answers;
mod colour;
mod disentanglement;
mod estimate;
mod frechet;
mod image;
mod independent;
mod similarity;
mod ssim;
mod way;

pub use answers::{same_answers, taken_over};
pub use colour::measure_colours;
pub use disentanglement::{Dci, Mig, dci, mig};
pub use estimate::{Estimate, bootstrap_mean};
pub use frechet::frechet_distance;
pub use image::{agreement, fine_structure, psnr};
pub use independent::IndependentClassifier;
pub use similarity::{cka, cosines};
pub use ssim::ssim;
pub use way::{frame_step, unevenness};
