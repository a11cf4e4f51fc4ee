//! Images with known factors, and images from files.
//!
//! Every data set here is seeded and addressed by index: sample `i` of a split depends on the settings, the
//! seed, the split and `i` alone, not on the batch that it is asked in nor on the number of threads.

mod batch;
mod digits;
mod glyphs;
mod plane;
mod strokes;
mod table;

pub use batch::{Batch, Factor, Factors, Split};
pub use digits::Digits;
pub use plane::Plane;
pub use table::{ImageColumns, ImageTable};
