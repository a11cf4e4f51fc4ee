//! The parts that every crate of `invariances` shares: the [`Error`] type, atomic file writes,
//! and the display of names in messages.

#![forbid(unsafe_code)]

mod error;
pub mod files;
pub mod names;
mod say;

pub use error::{Error, Result};
pub use say::say;
