//! Prints HTML in the form that the notebook kernel reads from a cell's output.

use crate::Result;
use invariances_core::say;

/// Shows HTML as a cell's display, or prints the error. A cell has one display of each kind: to
/// show several things, join them into one HTML text.
pub fn show(html: Result<String>) {
    match html {
        // The kernel reads lines. A single write keeps lines of other threads out of the block.
        Ok(html) => say(&format!(
            "EVCXR_BEGIN_CONTENT text/html\n{html}\nEVCXR_END_CONTENT"
        )),
        Err(error) => say(&error.to_string()),
    }
}
