//! What is measured.

mod colour;

pub use colour::measure_colours;
