//! [`Progress`], the progress of a long loop as lines of text.

use invariances_core::say;
use std::time::{Duration, Instant};

/// Prints the progress of a long loop as lines of text: few lines, the first one soon, and at
/// least one every ten seconds.
///
/// A notebook shows plain lines as they are printed, but a display only at the end of a cell. It
/// cannot replace a printed line.
///
/// ```
/// use invariances::notebook::Progress;
/// let mut progress = Progress::new("images", 1000);
/// for i in 0..1000 {
///     progress.at(i + 1, "");
/// }
/// progress.done();
/// ```
#[derive(Clone, Debug)]
pub struct Progress {
    what: String,
    total: usize,
    started: Instant,
    /// The time of the next line.
    next: Duration,
    at: usize,
}

impl Progress {
    /// Starts counting up to `total`. `what` is the plural name of what is counted.
    pub fn new(what: &str, total: usize) -> Self {
        Self {
            what: what.into(),
            total,
            started: Instant::now(),
            next: Duration::from_secs(1),
            at: 0,
        }
    }

    /// Sets the count, and prints a line if one is due. `about` is added to the line (`""` for
    /// nothing).
    pub fn at(&mut self, count: usize, about: &str) {
        self.at = count;
        let elapsed = self.started.elapsed();
        if elapsed >= self.next {
            say(&self.line(elapsed, about));
            // Lines are due after 1, 2, 5, 10, 20, 30 … seconds.
            self.next = match elapsed.as_secs() {
                0..2 => Duration::from_secs(2),
                2..5 => Duration::from_secs(5),
                s => Duration::from_secs((s / 10 + 1) * 10),
            };
        }
    }

    /// Prints the duration, if it was at least one second.
    pub fn done(&self) {
        let elapsed = self.started.elapsed();
        if elapsed >= Duration::from_secs(1) {
            say(&format!(
                "{} {} in {}",
                self.at,
                self.what,
                seconds(elapsed)
            ));
        }
    }

    fn line(&self, elapsed: Duration, about: &str) -> String {
        let about = if about.is_empty() {
            String::new()
        } else {
            format!(", {about}")
        };
        if self.at == 0 || self.total == 0 {
            return format!("{} {}, {}{about}", self.at, self.what, seconds(elapsed));
        }
        let remaining = elapsed.mul_f64(self.total.saturating_sub(self.at) as f64 / self.at as f64);
        format!(
            "{}/{} {} ({} %), {}, about {} left{about}",
            self.at,
            self.total,
            self.what,
            100 * self.at / self.total,
            seconds(elapsed),
            seconds(remaining)
        )
    }
}

fn seconds(d: Duration) -> String {
    match d.as_secs() {
        s if s >= 3600 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s if s >= 60 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}
