//! Splits what a cell writes to standard output into text and frames.
//!
//! A frame is
//!
//! ```text
//! EVCXR_BEGIN_CONTENT type
//! content
//! EVCXR_END_CONTENT
//! ```
//!
//! and may begin in any column. The content of a frame of type [`MESSAGE`] is a message of Jupyter
//! as JSON, `{"msg_type": …, "content": {…}}`. Any other type is a MIME type, and the content is one
//! form of a display: consecutive frames of different types are forms of one display, as for evcxr.

use serde_json::{Map, Value, json};

/// The type of a frame with a whole message.
pub const MESSAGE: &str = "application/vnd.cargo-kernel+json";
const BEGIN: &[u8] = b"EVCXR_BEGIN_CONTENT ";
const END: &[u8] = b"EVCXR_END_CONTENT\n";
/// Bytes of a frame at most.
const LARGEST: usize = 256 << 20;

/// A part of the output.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    /// The data of a display, by MIME type.
    Display(Map<String, Value>),
    /// A message of Jupyter: its type and its content.
    Message(String, Value),
}

/// The state of the split: what was read and is not yet complete.
#[derive(Default)]
pub struct Splitter {
    bytes: Vec<u8>,
    /// How far `bytes` was searched for the end of a frame.
    searched: usize,
    /// The forms of a display to which the next frame may belong.
    display: Map<String, Value>,
    /// A whole display that may be the result of the cell.
    message: Option<Part>,
}

impl Splitter {
    /// Adds bytes, and returns the parts that are complete. A display is complete when something
    /// else follows it, or after [`Splitter::flush`].
    pub fn add(&mut self, bytes: &[u8]) -> Vec<Part> {
        self.bytes.extend_from_slice(bytes);
        let mut parts = Vec::new();
        loop {
            let Some(begin) = find(&self.bytes, BEGIN) else {
                let kept = self.bytes.len() - unfinished(&self.bytes, BEGIN);
                self.text(kept, &mut parts, false);
                return parts;
            };
            if begin > 0 {
                self.text(begin, &mut parts, true);
                continue;
            }
            // The end is searched in the rest of the last search and what came since.
            let from = self.searched.max(BEGIN.len()).saturating_sub(END.len());
            let end = match find(&self.bytes[from..], END) {
                Some(end) => from + end,
                None if self.bytes.len() > LARGEST => {
                    self.give_up(&mut parts);
                    return parts;
                }
                None => {
                    self.searched = self.bytes.len();
                    return parts;
                }
            };
            self.searched = 0;
            let frame: Vec<u8> = self.bytes.drain(..end + END.len()).collect();
            let inner = String::from_utf8_lossy(&frame[BEGIN.len()..end]).into_owned();
            let (kind, content) = inner.split_once('\n').unwrap_or((&inner, ""));
            self.frame(
                kind.trim(),
                content.strip_suffix('\n').unwrap_or(content),
                &mut parts,
            );
        }
    }

    fn frame(&mut self, kind: &str, content: &str, parts: &mut Vec<Part>) {
        if kind == MESSAGE {
            let mut message: Value = serde_json::from_str(content)
                .ok()
                .filter(Value::is_object)
                .unwrap_or_else(|| json!({}));
            let name = message["msg_type"].as_str().unwrap_or_default().to_owned();
            let content = message["content"].take();
            self.displayed(parts);
            // Nothing but these may come from a cell.
            if matches!(
                &*name,
                "display_data"
                    | "update_display_data"
                    | "execute_result"
                    | "clear_output"
                    | "error"
            ) && content.is_object()
            {
                let part = Part::Message(name, content);
                match &part {
                    Part::Message(name, content)
                        if name == "display_data"
                            && content["transient"]["display_id"].is_null() =>
                    {
                        self.message = Some(part);
                    }
                    _ => parts.push(part),
                }
            } else {
                let text = "A frame of the cell holds no message of Jupyter that it may send.\n";
                parts.push(Part::Text(text.into()));
            }
            return;
        }
        if self.display.contains_key(kind) || self.message.is_some() {
            self.displayed(parts);
        }
        let value = match kind.contains("json") {
            true => serde_json::from_str(content).unwrap_or_else(|_| json!(content)),
            false => json!(content),
        };
        self.display.insert(kind.to_owned(), value);
    }

    /// Treats a frame without an end as text, of which a part is shown.
    fn give_up(&mut self, parts: &mut Vec<Part>) {
        const SHOWN: usize = 1000;
        self.searched = 0;
        if self.bytes.len() > SHOWN {
            self.bytes.truncate(SHOWN);
            self.bytes
                .extend_from_slice("…\n(a display was not finished)\n".as_bytes());
        }
        let length = self.bytes.len();
        self.text(length, parts, true);
    }

    fn displayed(&mut self, parts: &mut Vec<Part>) {
        parts.extend(self.message.take());
        if !self.display.is_empty() {
            parts.push(Part::Display(std::mem::take(&mut self.display)));
        }
    }

    /// Takes text from the front, as far as its last character is complete or nothing can follow.
    fn text(&mut self, length: usize, parts: &mut Vec<Part>, all: bool) {
        let length = match all {
            true => length,
            false => length - unfinished_character(&self.bytes[..length]),
        };
        if length > 0 {
            self.displayed(parts);
            let text: Vec<u8> = self.bytes.drain(..length).collect();
            parts.push(Part::Text(String::from_utf8_lossy(&text).into_owned()));
        }
    }

    /// Whether something waits: a display for further forms or for the end of the cell, or text that
    /// may be the beginning of a frame.
    pub fn waits(&self) -> bool {
        let text = !self.bytes.is_empty() && !self.bytes.starts_with(BEGIN);
        text || !self.display.is_empty() || self.message.is_some()
    }

    /// Returns the display that waits for further forms or for the end of the cell.
    pub fn take_display(&mut self) -> Option<Part> {
        let mut parts = Vec::new();
        self.displayed(&mut parts);
        parts.pop()
    }

    /// Returns everything that is left, when a cell has ended or text was long not completed. A
    /// frame stays unless `ended`.
    pub fn flush(&mut self, ended: bool) -> Vec<Part> {
        let mut parts = Vec::new();
        if ended && self.bytes.starts_with(BEGIN) {
            self.give_up(&mut parts);
        } else if !self.bytes.starts_with(BEGIN) {
            let length = self.bytes.len();
            self.text(length, &mut parts, ended);
        }
        self.displayed(&mut parts);
        parts
    }
}

fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    // Words begin with a letter that is rare in such places; this is fast enough for megabytes.
    let first = word[0];
    let mut from = 0;
    while let Some(i) = bytes[from..].iter().position(|b| *b == first) {
        if bytes[from + i..].starts_with(word) {
            return Some(from + i);
        }
        from += i + 1;
    }
    None
}

/// The number of bytes at the end that may be the beginning of a word.
fn unfinished(bytes: &[u8], word: &[u8]) -> usize {
    (1..word.len())
        .rev()
        .find(|n| bytes.ends_with(&word[..*n]))
        .unwrap_or(0)
}

/// The number of bytes at the end that may be the beginning of a character in UTF-8.
pub fn unfinished_character(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(e) if e.error_len().is_none() => bytes.len() - e.valid_up_to(),
        Err(_) => {
            // An error before the end: only the last bytes matter.
            let tail = &bytes[bytes.len().saturating_sub(3)..];
            (1..=tail.len())
                .find(|n| {
                    let end = &tail[tail.len() - n..];
                    end[0] >= 0xc0
                        && std::str::from_utf8(end).is_err_and(|e| e.error_len().is_none())
                })
                .unwrap_or(0)
        }
        Ok(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{MESSAGE, Part, Splitter};
    use serde_json::json;

    fn frame(kind: &str, content: &str) -> String {
        format!("EVCXR_BEGIN_CONTENT {kind}\n{content}\nEVCXR_END_CONTENT\n")
    }

    fn text(t: &str) -> Part {
        Part::Text(t.into())
    }

    fn display(forms: serde_json::Value) -> Part {
        Part::Display(forms.as_object().unwrap().clone())
    }

    /// The parts with the texts joined, for output that arrives in pieces of a size.
    fn parts(output: &[u8], size: usize) -> Vec<Part> {
        let mut splitter = Splitter::default();
        let mut parts = Vec::new();
        let new = output
            .chunks(size)
            .flat_map(|chunk| splitter.add(chunk))
            .collect::<Vec<_>>();
        for part in new.into_iter().chain(splitter.flush(true)) {
            match (parts.last_mut(), &part) {
                (Some(Part::Text(before)), Part::Text(t)) => before.push_str(t),
                _ => parts.push(part),
            }
        }
        parts
    }

    #[test]
    fn text_and_frames_are_split_wherever_the_pieces_end() {
        let output = [
            "a".to_owned(),
            frame("text/html", "<b>\n</b>"),
            frame("text/plain", "z̄ 🐕"),
            frame("text/plain", "2"),
            "b\nEVCXR_BEGIN\n".to_owned(),
            frame(
                MESSAGE,
                r#"{"msg_type": "clear_output", "content": {"wait": true}}"#,
            ),
            frame("application/json", "[1]"),
            "🐕 ohne Ende".to_owned(),
        ]
        .concat();
        let expected = [
            text("a"),
            display(json!({ "text/html": "<b>\n</b>", "text/plain": "z̄ 🐕" })),
            display(json!({ "text/plain": "2" })),
            text("b\nEVCXR_BEGIN\n"),
            Part::Message("clear_output".into(), json!({ "wait": true })),
            display(json!({ "application/json": [1] })),
            text("🐕 ohne Ende"),
        ];
        for size in [1, 2, 3, 7, 64, 10_000] {
            assert_eq!(parts(output.as_bytes(), size), expected, "pieces of {size}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_nothing_waits_for_them() {
        for size in [1, 2, 3, 100] {
            let found = parts(b"a\xffb\xf0\x9f\x90\x95\xf0\x9f", size);
            assert_eq!(found, [text("a\u{fffd}b🐕\u{fffd}")], "pieces of {size}");
        }
        let mut splitter = Splitter::default();
        assert_eq!(splitter.add(b"\xff\xff.\xc3"), [text("\u{fffd}\u{fffd}.")]);
        assert_eq!(splitter.add(b"\xa4"), [text("ä")]);
    }

    #[test]
    fn what_is_not_complete_waits() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.add(b"ab EVCXR_BEGIN_CON"), [text("ab ")]);
        assert!(splitter.add(b"TENT text/plain\n4").is_empty());
        assert!(splitter.flush(false).is_empty());
        assert!(splitter.add(b"2\nEVCXR_END_CONTENT\n").is_empty());
        assert!(splitter.waits());
        assert_eq!(
            splitter.take_display(),
            Some(display(json!({ "text/plain": "42" })))
        );
        // A process that was killed within a frame.
        assert!(
            splitter
                .add(b"EVCXR_BEGIN_CONTENT text/plain\n4")
                .is_empty()
        );
        let left = splitter.flush(true);
        assert_eq!(left, [text("EVCXR_BEGIN_CONTENT text/plain\n4")]);
    }

    #[test]
    fn only_messages_of_a_cell_are_passed_on() {
        for content in [
            r#"{"msg_type": "status", "content": {"execution_state": "idle"}}"#,
            r#"{"msg_type": "error", "content": 3}"#,
            "[1]",
            "3",
            "not JSON",
        ] {
            let found = parts(frame(MESSAGE, content).as_bytes(), 100);
            assert!(matches!(&found[..], [Part::Text(t)] if t.contains("no message")));
        }
    }
}
