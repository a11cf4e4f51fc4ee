use invariances_core::say;
use std::time::{Duration, Instant};

/// Lines of text while a training runs: soon after the start, then every ten seconds. A notebook shows
/// lines as they come; it has no line to overwrite.
pub(super) struct Progress {
    quiet: bool,
    steps: u64,
    first: u64,
    start: Instant,
    next: Duration,
}

impl Progress {
    /// `done` steps were taken before.
    pub fn new(steps: u64, done: u64, quiet: bool) -> Self {
        Self {
            quiet,
            steps,
            first: done,
            start: Instant::now(),
            next: Duration::from_secs(2),
        }
    }

    /// Whether a line is due after this step.
    pub fn is_due(&self, step: u64) -> bool {
        !self.quiet && step < self.steps && self.start.elapsed() >= self.next
    }

    /// Prints the line of a step.
    pub fn line(&mut self, step: u64, values: &[(String, f64)]) {
        let elapsed = self.start.elapsed();
        self.next = match elapsed.as_secs() {
            0..4 => Duration::from_secs(5),
            _ => elapsed + Duration::from_secs(10),
        };
        let per_step = elapsed.as_secs_f64() / (step - self.first).max(1) as f64;
        let left = per_step * (self.steps - step) as f64;
        let values: Vec<_> = values
            .iter()
            .map(|(n, v)| format!("{n} {}", number(*v)))
            .collect();
        self.say(&format!(
            "step {step}/{} · {} · {:.0} ms/step · {} left",
            self.steps,
            values.join(" · "),
            1e3 * per_step,
            span(left)
        ));
    }

    /// Prints any line, at once.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }
}

/// Four significant digits.
pub(super) fn number(v: f64) -> String {
    if v != 0.0 && v.is_finite() && !(1e-3..1e5).contains(&v.abs()) {
        return format!("{v:.2e}");
    }
    let whole = v.abs().log10().floor().clamp(0.0, 3.0) as usize;
    format!("{v:.*}", 3 - whole)
}

/// Seconds in words.
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
