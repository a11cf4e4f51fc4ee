use invariances_core::say;
use std::time::{Duration, Instant};

/// Progress of a long loop, as lines of text: few, soon at first, at least one every ten seconds.
///
/// A notebook shows plain lines as they come and a display only at a cell's end; it cannot take a line back.
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
    /// When the next line is due.
    next: Duration,
    at: usize,
}

impl Progress {
    /// Begins to count `total` of something.
    pub fn new(what: &str, total: usize) -> Self {
        Self {
            what: what.into(),
            total,
            started: Instant::now(),
            next: Duration::from_secs(1),
            at: 0,
        }
    }

    /// Says how far it is, where a line is due, with something to say about it (`""` for nothing).
    pub fn at(&mut self, count: usize, about: &str) {
        self.at = count;
        let gone = self.started.elapsed();
        if gone >= self.next {
            say(&self.line(gone, about));
            // 1, 2, 5, 10, 20, 30 … seconds.
            self.next = match gone.as_secs() {
                0..2 => Duration::from_secs(2),
                2..5 => Duration::from_secs(5),
                s => Duration::from_secs((s / 10 + 1) * 10),
            };
        }
    }

    /// Says how long it took, where that was long enough to have been said before.
    pub fn done(&self) {
        let gone = self.started.elapsed();
        if gone >= Duration::from_secs(1) {
            say(&format!("{} {} in {}", self.at, self.what, seconds(gone)));
        }
    }

    fn line(&self, gone: Duration, about: &str) -> String {
        let about = if about.is_empty() {
            String::new()
        } else {
            format!(", {about}")
        };
        if self.at == 0 || self.total == 0 {
            return format!("{} {}, {}{about}", self.at, self.what, seconds(gone));
        }
        let left = gone.mul_f64(self.total.saturating_sub(self.at) as f64 / self.at as f64);
        format!(
            "{}/{} {} ({} %), {}, about {} left{about}",
            self.at,
            self.total,
            self.what,
            100 * self.at / self.total,
            seconds(gone),
            seconds(left)
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
