//! The two ways back from z to an image that the paper compares with: one image for each z, by regression or by descent.

mod descent;
mod regression;

pub use descent::{Descent, Inverted};
pub use regression::{Inverter, Regression};
