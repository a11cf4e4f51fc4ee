//! What a notebook shows and knows.
//!
//! [`Lab`] holds a notebook's settings and keeps its figures and [`Claim`]s; [`Scale`] decides sizes,
//! steps and sources; [`Progress`] is the text that a long cell prints.

mod claim;
mod images;
mod lab;
mod progress;
mod scale;
mod study;
mod subject;

pub use claim::{Claim, ClaimBuilder, Claims, Expected};
pub use lab::Lab;
pub use progress::Progress;
pub use scale::Scale;
pub use study::{Repeated, Study};
pub use subject::{Sources, Subject};
