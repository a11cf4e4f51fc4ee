//! Prints lines of text to standard output and standard error.

use std::io::Write;

/// Prints a line to standard output and flushes it.
///
/// Write errors are ignored: a closed pipe must not stop the work that the line reports.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints a line to standard error.
///
/// Write errors are ignored, as in [`say`]; `eprintln!` panics instead.
pub fn warn(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
