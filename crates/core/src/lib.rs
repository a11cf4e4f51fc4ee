//! The parts that every crate of `invariances` shares: the [`Error`] type, atomic file writes,
//! and the display of names and durations in messages.

#![forbid(unsafe_code)]

mod duration;
mod error;
pub mod files;
pub mod names;
mod say;

pub use duration::duration;
pub use error::{Error, Result};
pub use say::{say, warn};
