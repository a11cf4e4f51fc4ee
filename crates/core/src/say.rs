//! Lines of text for whoever watches.

use std::io::Write;

/// Prints a line at once. A pipe that was closed must not end what the line is about.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
