//! [`Display`]: what a cell of a notebook shows, in several forms, and how it reaches the kernel.
//!
//! A cell's process writes its displays to standard output, between its text. The kernel "Rust
//! (invariances)" sets `CARGO_KERNEL=1` and reads each display as one Jupyter message:
//!
//! ```text
//! EVCXR_BEGIN_CONTENT application/vnd.cargo-kernel+json
//! {"msg_type":"display_data","content":{"data":{…},"metadata":{…},"transient":{…}}}
//! EVCXR_END_CONTENT
//! ```
//!
//! evcxr's own kernel ("Rust") reads one such block per form, with the form's MIME type and text.

use crate::Result;
use base64::Engine as _;
use invariances_core::{say, warn};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const PLAIN: &str = "text/plain";
const HTML: &str = "text/html";
const PNG: &str = "image/png";

/// One display of a notebook: the same content in several forms (a MIME bundle). The program that
/// shows the notebook chooses one of them; exports to LaTeX, PDF or Markdown may choose others.
///
/// The form `text/plain` always exists. A form that cannot be made is left out, and
/// [`Display::show`] prints the reason to standard error.
///
/// ```
/// use invariances_figure::Display;
/// let display = Display::new("loss 0.25").html("loss <b>0.25</b>");
/// assert_eq!(display.form("text/plain"), Some("loss 0.25"));
/// assert_eq!(display.form("text/html"), Some("loss <b>0.25</b>"));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Display {
    /// The text of each form by its MIME type; binary content is in base64.
    data: BTreeMap<String, String>,
    /// How a form is shown, by its MIME type.
    metadata: BTreeMap<String, BTreeMap<String, Value>>,
    /// For each form that could not be made, its MIME type and the reason.
    left_out: Vec<(String, String)>,
}

impl Display {
    /// Creates a display with the form `text/plain`. White space at the end of `text` is removed.
    pub fn new(text: impl ToString) -> Self {
        let text = text.to_string().trim_end().to_string();
        Self {
            data: [(PLAIN.to_string(), text)].into(),
            metadata: BTreeMap::new(),
            left_out: Vec::new(),
        }
    }

    /// Adds the form `text/html`.
    pub fn html(self, html: impl Into<String>) -> Self {
        self.with(HTML, Ok(html.into()))
    }

    /// Adds the form `text/markdown`.
    pub fn markdown(self, markdown: impl Into<String>) -> Self {
        self.with("text/markdown", Ok(markdown.into()))
    }

    /// Adds the form `text/latex`.
    pub fn latex(self, latex: impl Into<String>) -> Self {
        self.with("text/latex", Ok(latex.into()))
    }

    /// Adds the form `image/png` from the bytes of a PNG file.
    ///
    /// The image is shown `width` CSS pixels wide, but not wider than the cell. `alt` describes it
    /// for readers who cannot see it. The classic template of nbconvert uses `alt`; JupyterLab 4.6
    /// does not.
    pub fn png(self, png: Result<Vec<u8>>, width: u32, alt: &str) -> Self {
        self.image(PNG, png, width, alt)
    }

    /// Adds a form such as `image/jpeg` from the bytes of a file, as [`Display::png`] does.
    pub fn image(mut self, mime: &str, file: Result<Vec<u8>>, width: u32, alt: &str) -> Self {
        let encode = |bytes: Vec<u8>| base64::engine::general_purpose::STANDARD.encode(bytes);
        let about = [
            ("alt".to_string(), json!(alt)),
            ("width".to_string(), json!(width)),
        ];
        if file.is_ok() {
            self.metadata.insert(mime.into(), about.into());
        }
        self.with(mime, file.map(encode))
    }

    /// Adds a form with any MIME type. `form` is its text; binary content must be in base64. An
    /// error leaves the form out.
    pub fn with(mut self, mime: &str, form: Result<String>) -> Self {
        match form {
            Ok(text) => {
                self.data.insert(mime.into(), text);
            }
            Err(error) => self.left_out.push((mime.into(), error.to_string())),
        }
        self
    }

    /// Returns the text of a form; binary content is in base64.
    pub fn form(&self, mime: &str) -> Option<&str> {
        self.data.get(mime).map(String::as_str)
    }

    /// Returns why forms were left out: one sentence per reason.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = Vec::new();
        for (i, (mime, reason)) in self.left_out.iter().enumerate() {
            if self.left_out[..i].iter().all(|(_, other)| other != reason) {
                problems.push(format!("This output has no {mime}: {reason}"));
            }
        }
        problems
    }

    /// Shows the display in the cell that is running, after the text printed before.
    pub fn show(&self) {
        self.send(DISPLAY, None);
    }

    /// Shows the display under an identifier, so that it can be replaced in place.
    ///
    /// ```
    /// use invariances_figure::Display;
    /// let handle = Display::new("0 of 2").show_as("counter");
    /// handle.update(&Display::new("1 of 2"));
    /// ```
    pub fn show_as(&self, id: &str) -> DisplayHandle {
        self.send(DISPLAY, Some(id));
        DisplayHandle { id: id.into() }
    }

    fn send(&self, kind: &str, id: Option<&str>) {
        // A single write keeps lines of other threads out of the block.
        say(&self.written(Protocol::current(), kind, id));
        for problem in self.problems() {
            warn(&problem);
        }
    }

    /// Returns the text that shows the display, without the final line feed.
    pub(crate) fn written(&self, protocol: Protocol, kind: &str, id: Option<&str>) -> String {
        match protocol {
            Protocol::Message => {
                let transient: BTreeMap<&str, &str> =
                    id.map(|id| ("display_id", id)).into_iter().collect();
                block(
                    "application/vnd.cargo-kernel+json",
                    &format!(
                        "{{\"msg_type\":\"{kind}\",\"content\":{{\"data\":{},\"metadata\":{},\"transient\":{}}}}}",
                        json!(self.data),
                        json!(self.metadata),
                        json!(transient)
                    ),
                )
            }
            Protocol::Blocks => {
                let blocks: Vec<String> = self.data.iter().map(|(m, t)| block(m, t)).collect();
                blocks.join("\n")
            }
        }
    }
}

/// The types of the Jupyter messages that show a display and replace one.
pub(crate) const DISPLAY: &str = "display_data";
pub(crate) const UPDATE: &str = "update_display_data";

fn block(mime: &str, text: &str) -> String {
    format!("EVCXR_BEGIN_CONTENT {mime}\n{text}\nEVCXR_END_CONTENT")
}

/// A display that can be replaced in place; returned by [`Display::show_as`].
#[derive(Clone, Debug, PartialEq)]
pub struct DisplayHandle {
    id: String,
}

impl DisplayHandle {
    /// Returns the identifier of the display.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Replaces the display, also if it is in the output of an earlier cell.
    ///
    /// evcxr's own kernel cannot replace a display. There the new display becomes the one of the
    /// cell that is running.
    pub fn update(&self, display: &Display) {
        display.send(UPDATE, Some(&self.id));
    }
}

/// What the kernel reads from standard output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Protocol {
    /// Jupyter messages, which can replace an earlier display.
    Message,
    /// One block per form.
    Blocks,
}

impl Protocol {
    /// The protocol of the kernel that runs this process.
    pub fn current() -> Self {
        match std::env::var_os("CARGO_KERNEL").is_some_and(|value| value == "1") {
            true => Self::Message,
            false => Self::Blocks,
        }
    }
}

/// Returns an identifier for a display that no display of this process or an earlier one has.
pub(crate) fn unique_id(what: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |time| time.as_micros());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{now}-{count}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn sample() -> Display {
        Display::new("a \"b\"\nc\n").html("<b>ä</b>\n")
    }

    #[test]
    fn a_display_is_one_message_on_one_line() {
        assert_eq!(
            sample().written(Protocol::Message, DISPLAY, None),
            "EVCXR_BEGIN_CONTENT application/vnd.cargo-kernel+json\n\
             {\"msg_type\":\"display_data\",\"content\":{\"data\":{\"text/html\":\"<b>ä</b>\\n\",\
             \"text/plain\":\"a \\\"b\\\"\\nc\"},\"metadata\":{},\"transient\":{}}}\n\
             EVCXR_END_CONTENT"
        );
        let image = Display::new("i").png(Ok(vec![1, 2, 3, 4]), 30, "an \"i\"");
        assert_eq!(
            image.written(Protocol::Message, UPDATE, Some("x")),
            "EVCXR_BEGIN_CONTENT application/vnd.cargo-kernel+json\n\
             {\"msg_type\":\"update_display_data\",\"content\":{\"data\":{\"image/png\":\"AQIDBA==\",\
             \"text/plain\":\"i\"},\"metadata\":{\"image/png\":{\"alt\":\"an \\\"i\\\"\",\"width\":30}},\
             \"transient\":{\"display_id\":\"x\"}}}\n\
             EVCXR_END_CONTENT"
        );
    }

    #[test]
    fn other_kernels_get_one_block_per_form() {
        assert_eq!(
            sample().written(Protocol::Blocks, DISPLAY, Some("x")),
            "EVCXR_BEGIN_CONTENT text/html\n<b>ä</b>\n\nEVCXR_END_CONTENT\n\
             EVCXR_BEGIN_CONTENT text/plain\na \"b\"\nc\nEVCXR_END_CONTENT"
        );
    }

    #[test]
    fn a_form_that_cannot_be_made_is_left_out_with_its_reason() {
        let failed = || Error::invalid("expected a figure");
        let display = Display::new("t")
            .with(HTML, Err(failed()))
            .png(Err(failed()), 3, "")
            .with("text/latex", Err(Error::invalid("expected a table")));
        assert_eq!(
            display.written(Protocol::Blocks, DISPLAY, None),
            "EVCXR_BEGIN_CONTENT text/plain\nt\nEVCXR_END_CONTENT"
        );
        assert!(display.metadata.is_empty());
        assert_eq!(
            display.problems(),
            [
                "This output has no text/html: expected a figure",
                "This output has no text/latex: expected a table"
            ]
        );
    }

    #[test]
    fn identifiers_differ() {
        let (a, b) = (unique_id("progress"), unique_id("progress"));
        assert!(a.starts_with("progress-") && a != b, "{a} {b}");
    }
}
