//! What the notebook kernel reads from a cell's output.

use crate::Result;
use invariances_core::say;

/// Shows HTML as a cell's display, or why there is none. A cell has one display of a kind: what shows
/// several things puts them into one.
pub fn show(html: Result<String>) {
    match html {
        // The kernel reads lines; one write keeps other threads' lines out of the block.
        Ok(html) => say(&format!(
            "EVCXR_BEGIN_CONTENT text/html\n{html}\nEVCXR_END_CONTENT"
        )),
        Err(error) => say(&error.to_string()),
    }
}
