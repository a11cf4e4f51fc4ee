//! Metrics: image quality, colours, agreement of predictions, similarity and independence of
//! representations, disentanglement, and interpolation paths. Statistics: bootstrap replicates with
//! confidence intervals ([`Resampled`]), tests of independence ([`hsic`]) and uniformity
//! ([`uniform`], [`uniform_ranks`]), and p-values adjusted for several tests ([`holm`]).

mod answers;
mod colour;
mod disentanglement;
mod estimate;
mod frechet;
mod holm;
mod image;
mod independence;
mod independent;
mod resampled;
mod similarity;
mod ssim;
mod uniformity;
mod way;

pub use answers::{same_answers, taken_over};
pub use colour::measure_colours;
pub use disentanglement::{Dci, Mig, dci, mig};
pub use estimate::{Estimate, bootstrap_mean};
pub(crate) use frechet::FrechetReference;
pub use frechet::frechet_distance;
pub use holm::holm;
pub use image::{agreement, fine_structure, psnr};
pub use independence::{Hsic, hsic};
pub use independent::IndependentClassifier;
pub use resampled::Resampled;
pub use similarity::{cka, cosines};
pub use ssim::ssim;
use uniformity::student_quantile;
pub use uniformity::{Uniformity, normal_cdf, student_p, uniform, uniform_ranks};
pub use way::{frame_step, unevenness};
