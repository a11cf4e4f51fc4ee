//! What every crate of `invariances` shares: the [`Error`], files that are written whole or not at
//! all, and how messages show names.

mod error;
pub mod files;
pub mod names;
mod say;

pub use error::{Error, Result};
pub use say::say;
