//! [`Progress`], the progress of a long loop.

use crate::figure::ProgressBar;
use std::time::{Duration, Instant};

/// Shows the progress of a long loop. A loop that takes less than one second shows nothing.
///
/// In a notebook of the kernel "Rust (invariances)" it is a bar that moves in place. Elsewhere
/// (another kernel, a terminal) it consists of lines of text: few lines, the first one soon, and
/// at least one every ten seconds.
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
    bar: ProgressBar,
    at: usize,
}

impl Progress {
    /// Starts counting up to `total`. `what` is the plural name of what is counted.
    pub fn new(what: &str, total: usize) -> Self {
        Self {
            what: what.into(),
            total,
            started: Instant::now(),
            bar: ProgressBar::new(Duration::from_secs(1), next_line),
            at: 0,
        }
    }

    /// Sets the count, and moves the bar or prints a line if that is due. `about` is added to the
    /// line (`""` for nothing).
    pub fn at(&mut self, count: usize, about: &str) {
        // A bar whose loop has ended shows that, also if `done` is not called.
        let is_last = self.bar.is_shown() && self.at < self.total && count >= self.total;
        self.at = count;
        let elapsed = self.started.elapsed();
        if is_last || self.bar.is_due(elapsed) {
            let line = self.line(elapsed, about);
            let fraction = (self.total > 0).then(|| count as f64 / self.total as f64);
            self.bar.update(elapsed, fraction, &line);
        }
    }

    /// Replaces the bar by the count and the duration, or prints them, if the loop took at least
    /// one second.
    pub fn done(&self) {
        let elapsed = self.started.elapsed();
        if elapsed >= Duration::from_secs(1) {
            let duration = seconds(elapsed);
            self.bar
                .finish(&format!("{} {} in {duration}", self.at, self.what));
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
        let left = self.total.saturating_sub(self.at) as f64 / self.at as f64;
        let remaining = Duration::try_from_secs_f64(elapsed.as_secs_f64() * left);
        format!(
            "{}/{} {} ({} %), {}, about {} left{about}",
            self.at,
            self.total,
            self.what,
            100 * self.at as u128 / self.total as u128,
            seconds(elapsed),
            seconds(remaining.unwrap_or(Duration::MAX))
        )
    }
}

/// Lines are due after 1, 2, 5, 10, 20, 30 … seconds.
fn next_line(elapsed: Duration) -> Duration {
    match elapsed.as_secs() {
        0..2 => Duration::from_secs(2),
        2..5 => Duration::from_secs(5),
        s => Duration::from_secs((s / 10 + 1) * 10),
    }
}

fn seconds(d: Duration) -> String {
    match d.as_secs() {
        s if s >= 3600 => format!("{} h {} min", s / 3600, s / 60 % 60),
        s if s >= 60 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}
