//! [`ProgressBar`]: a bar that moves in place in a notebook, and lines of text elsewhere.

use super::display::{DISPLAY, Protocol, UPDATE, unique_id};
use super::{Display, escape};
use invariances_core::say;
use std::time::Duration;

/// The bar appears after this time, so that short loops show nothing.
const FIRST: Duration = Duration::from_secs(1);
/// Shortest time between two updates of the bar.
const BETWEEN: Duration = Duration::from_millis(250);
/// Number of characters of the bar in plain text.
const WIDTH: usize = 20;

/// The progress of a long loop.
///
/// In a notebook of the kernel "Rust (invariances)" it is a bar that appears after one second,
/// moves at most four times a second, and is replaced by the last line at the end. Elsewhere it
/// consists of lines of text, at times that the caller chooses.
///
/// ```
/// use invariances_figure::ProgressBar;
/// use std::time::{Duration, Instant};
/// let start = Instant::now();
/// let mut bar = ProgressBar::new(Duration::from_secs(2), |elapsed| elapsed + Duration::from_secs(10));
/// for i in 1..=100 {
///     if bar.is_due(start.elapsed()) {
///         bar.update(start.elapsed(), Some(f64::from(i) / 100.0), &format!("{i}/100 images"));
///     }
/// }
/// bar.finish("100 images");
/// ```
#[derive(Clone, Debug)]
pub struct ProgressBar {
    protocol: Protocol,
    /// The elapsed time from which the next update or line is due.
    next: Duration,
    next_line: fn(Duration) -> Duration,
    /// The identifier of the display, once the bar is shown.
    id: Option<String>,
}

impl ProgressBar {
    /// Creates the progress of a loop that begins now. Where the bar cannot move in place, a line
    /// is due after `first_line`, and after a line at some elapsed time, the next one is due at the
    /// elapsed time that `next_line` returns for it.
    pub fn new(first_line: Duration, next_line: fn(Duration) -> Duration) -> Self {
        Self::with_protocol(Protocol::current(), first_line, next_line)
    }

    fn with_protocol(
        protocol: Protocol,
        first_line: Duration,
        next_line: fn(Duration) -> Duration,
    ) -> Self {
        Self {
            protocol,
            next: match protocol {
                Protocol::Message => FIRST,
                Protocol::Blocks => first_line,
            },
            next_line,
            id: None,
        }
    }

    /// Whether an update is due. `elapsed` is the time since the loop began.
    pub fn is_due(&self, elapsed: Duration) -> bool {
        elapsed >= self.next
    }

    /// Whether a bar is shown. It is not if lines are printed instead.
    pub fn is_shown(&self) -> bool {
        self.id.is_some()
    }

    /// Moves the bar, or prints the line. `fraction` is the completed part of the loop, from 0 to
    /// 1; `None` if it is not known.
    pub fn update(&mut self, elapsed: Duration, fraction: Option<f64>, line: &str) {
        say(&self.moved(elapsed, fraction, line));
    }

    /// Replaces the bar by the last line of the loop. If no bar is shown, prints the line.
    pub fn finish(&self, line: &str) {
        say(&self.finished(line));
    }

    fn moved(&mut self, elapsed: Duration, fraction: Option<f64>, line: &str) -> String {
        if self.protocol == Protocol::Blocks {
            self.next = (self.next_line)(elapsed);
            return line.to_string();
        }
        self.next = elapsed + BETWEEN;
        let kind = match self.id {
            Some(_) => UPDATE,
            None => DISPLAY,
        };
        // The command `invariances run` recognises progress by this prefix.
        let id = self.id.get_or_insert_with(|| unique_id("progress"));
        bar(fraction, line).written(self.protocol, kind, Some(id.as_str()))
    }

    fn finished(&self, line: &str) -> String {
        match &self.id {
            // Only text: a stored notebook contains the same line as one that printed it.
            Some(id) => Display::new(line).written(self.protocol, UPDATE, Some(id)),
            None => line.to_string(),
        }
    }
}

/// A thin bar with a line of text.
fn bar(fraction: Option<f64>, line: &str) -> Display {
    let fraction = fraction.map(|f| f.clamp(0.0, 1.0));
    let (text, value) = match fraction {
        Some(fraction) => {
            let full = (fraction * WIDTH as f64) as usize;
            let text = format!("{}{} ", "━".repeat(full), "─".repeat(WIDTH - full));
            (text, format!(" value=\"{fraction:.3}\""))
        }
        // Without a value, a browser shows that something runs.
        None => (String::new(), String::new()),
    };
    Display::new(format!("{text}{line}")).html(format!(
        "<progress{value} max=\"1\" style=\"width:240px;height:8px;margin-right:8px\"></progress>{}",
        escape(line)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// What is written when an update is tried every millisecond for ten seconds, with the
    /// elapsed milliseconds.
    fn ten_seconds(protocol: Protocol) -> (ProgressBar, Vec<(u64, String)>) {
        let seconds = Duration::from_secs;
        let lines = |elapsed: Duration| elapsed + Duration::from_secs(3);
        let mut progress = ProgressBar::with_protocol(protocol, seconds(2), lines);
        let mut written = Vec::new();
        for millisecond in 0..=10_000 {
            let elapsed = Duration::from_millis(millisecond);
            if progress.is_due(elapsed) {
                let fraction = elapsed.as_secs_f64() / 10.0;
                let line = format!("at {millisecond} < 10000");
                written.push((millisecond, progress.moved(elapsed, Some(fraction), &line)));
            }
        }
        (progress, written)
    }

    fn message(written: &str) -> Value {
        let line = written.lines().nth(1).unwrap();
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn a_bar_moves_in_place_four_times_a_second() {
        let (progress, written) = ten_seconds(Protocol::Message);
        let times: Vec<u64> = written.iter().map(|(time, _)| *time).collect();
        let expected: Vec<u64> = (4..=40).map(|quarter| 250 * quarter).collect();
        assert_eq!(times, expected);
        let messages: Vec<Value> = written.iter().map(|(_, text)| message(text)).collect();
        assert_eq!(messages[0]["msg_type"], "display_data");
        let id = &messages[0]["content"]["transient"]["display_id"];
        for message in &messages[1..] {
            assert_eq!(message["msg_type"], "update_display_data");
            assert_eq!(&message["content"]["transient"]["display_id"], id);
        }
        let data = &messages[16]["content"]["data"];
        assert_eq!(data["text/plain"], "━━━━━━━━━━────────── at 5000 < 10000");
        let html = data["text/html"].as_str().unwrap();
        assert!(
            html.starts_with("<progress value=\"0.500\" max=\"1\""),
            "{html}"
        );
        assert!(html.ends_with(">at 5000 &lt; 10000"), "{html}");
        // The last state is the line alone.
        let last = message(&progress.finished("done in 10 s"));
        assert_eq!(last["msg_type"], "update_display_data");
        assert_eq!(&last["content"]["transient"]["display_id"], id);
        assert_eq!(
            last["content"]["data"],
            serde_json::json!({"text/plain": "done in 10 s"})
        );
    }

    #[test]
    fn other_kernels_and_terminals_get_lines() {
        let (progress, written) = ten_seconds(Protocol::Blocks);
        let expected = [2000u64, 5000, 8000].map(|time| (time, format!("at {time} < 10000")));
        assert_eq!(written, expected);
        assert!(!progress.is_shown());
        assert_eq!(progress.finished("done"), "done");
    }

    #[test]
    fn a_short_loop_shows_only_its_last_line() {
        let lines = |elapsed: Duration| elapsed;
        let progress = ProgressBar::with_protocol(Protocol::Message, FIRST, lines);
        assert!(!progress.is_due(Duration::from_millis(999)));
        assert_eq!(progress.finished("done"), "done");
    }

    #[test]
    fn a_bar_without_a_length_has_no_value() {
        let display = bar(None, "7 images");
        assert_eq!(display.form("text/plain"), Some("7 images"));
        let html = display.form("text/html").unwrap();
        assert!(html.starts_with("<progress max=\"1\""), "{html}");
        let full = bar(Some(7.0), "x");
        assert_eq!(full.form("text/plain"), Some("━━━━━━━━━━━━━━━━━━━━ x"));
    }
}
