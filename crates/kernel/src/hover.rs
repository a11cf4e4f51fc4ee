//! What rust-analyzer says about a name, made short enough for a tooltip.

/// Returns a text and a page as far as the first paragraph of the documentation: where it is from, its
/// signature, and what it does. Examples and further sections are left out.
pub fn short(text: &str, page: &str) -> (String, String) {
    // rust-analyzer separates the signature from the documentation by a rule in the page, and the
    // paragraphs of the documentation are `<p>`.
    let Some(rule) = page.rfind("<hr />") else {
        return (text.trim().to_owned(), page.trim().to_owned());
    };
    let documentation = &page[rule..];
    let Some(end) = documentation.find("</p>") else {
        return (text.trim().to_owned(), page.trim().to_owned());
    };
    let first = &documentation[..end];
    let page = page[..rule + end + "</p>".len()].to_owned();
    // The paragraph in the text begins with the same words.
    let words: String = plain(first)
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ");
    let mut lines = Vec::new();
    let mut reached = false;
    for line in text.trim().lines() {
        if reached && line.trim().is_empty() {
            break;
        }
        reached |= !words.is_empty() && line.trim_start().starts_with(&words);
        lines.push(line);
    }
    (lines.join("\n"), page)
}

/// Returns the text of a piece of a page.
fn plain(page: &str) -> String {
    let mut text = String::new();
    let mut tag = false;
    for c in page.chars() {
        match c {
            '<' => tag = true,
            '>' => tag = false,
            c if !tag => text.push(c),
            _ => {}
        }
    }
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn the_first_paragraph_ends_it() {
        let text = "vec::Vec\n\nfn push(&mut self, v: T)\n\n\nAppends <an> element.\nTo the back.\n\nPanics\n\nNever.";
        let page = "<pre><code>fn push</code></pre>\n<hr />\n<p><code>T</code></p>\n<hr />\n<p>Appends &lt;an&gt;\nelement. To the back.</p>\n<h1>Panics</h1><p>Never.</p>";
        let (text, page) = short(text, page);
        assert_eq!(
            text,
            "vec::Vec\n\nfn push(&mut self, v: T)\n\n\nAppends <an> element.\nTo the back."
        );
        assert!(page.ends_with("To the back.</p>"));
    }

    #[test]
    fn what_has_no_documentation_stays() {
        let (text, page) = short(" x: u8 \n", "<pre>x: u8</pre>\n");
        assert_eq!((&*text, &*page), ("x: u8", "<pre>x: u8</pre>"));
    }
}
