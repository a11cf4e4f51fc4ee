//! Progress of a training run, and the number formats that it uses.

use crate::figure::ProgressBar;
use invariances_core::{duration, say};
use std::time::{Duration, Instant};

/// Shows the progress of a training: a bar that moves in place, where the kernel can do that,
/// otherwise a line soon after the start and then every ten seconds.
pub(super) struct Progress {
    quiet: bool,
    steps: u64,
    first: u64,
    start: Instant,
    bar: ProgressBar,
}

impl Progress {
    /// Starts the clock of a run in which `done` steps were already taken.
    pub fn new(steps: u64, done: u64, quiet: bool) -> Self {
        Self {
            quiet,
            steps,
            first: done,
            start: Instant::now(),
            bar: ProgressBar::new(Duration::from_secs(2), next_line),
        }
    }

    /// Whether the progress should be shown after this step.
    pub fn is_due(&self, step: u64) -> bool {
        !self.quiet && step < self.steps && self.bar.is_due(self.start.elapsed())
    }

    /// Shows the progress after a step.
    pub fn line(&mut self, step: u64, values: &[(String, f64)]) {
        let elapsed = self.start.elapsed();
        let per_step = elapsed.as_secs_f64() / (step - self.first).max(1) as f64;
        let remaining = per_step * (self.steps - step) as f64;
        let values: Vec<_> = values
            .iter()
            .map(|(n, v)| format!("{n} {}", number(*v)))
            .collect();
        let line = format!(
            "step {step}/{} · {} · {:.0} ms/step · {} left",
            self.steps,
            values.join(" · "),
            1e3 * per_step,
            span(remaining)
        );
        let fraction = step as f64 / self.steps as f64;
        self.bar.update(elapsed, Some(fraction), &line);
    }

    /// Prints a line immediately, unless the trainer is quiet.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Replaces the bar by the summary of the training, or prints it, unless the trainer is quiet.
    pub fn finish(&self, summary: &str) {
        if !self.quiet {
            self.bar.finish(summary);
        }
    }
}

/// Lines are due after 2, 5 and then every 10 seconds.
fn next_line(elapsed: Duration) -> Duration {
    match elapsed.as_secs() {
        0..4 => Duration::from_secs(5),
        _ => elapsed + Duration::from_secs(10),
    }
}

/// Formats a number with at most three decimals; very small and very large numbers in scientific
/// notation with two.
pub(super) fn number(v: f64) -> String {
    if v != 0.0 && v.is_finite() && !(1e-3..1e5).contains(&v.abs()) {
        return format!("{v:.2e}");
    }
    let magnitude = v.abs().log10().floor().clamp(0.0, 3.0) as usize;
    format!("{v:.*}", 3 - magnitude)
}

/// Formats a time in seconds as [`duration`] does.
pub(super) fn span(seconds: f64) -> String {
    duration(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}
