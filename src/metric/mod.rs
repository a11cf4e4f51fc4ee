//! What is measured.

mod image;

pub use image::{agreement, psnr};
