//! The two other methods from z back to an image that the paper compares with. Each gives one
//! image per z: by regression or by gradient descent.

mod descent;
mod regression;

pub use descent::{Descent, Inverted};
pub use regression::{Inverter, Regression};
