//! Printed progress of a download.

use super::Hub;
use invariances_core::duration as span;
use std::time::{Duration, Instant};

/// Formats a number of bytes for printing.
pub(super) fn amount(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e3 => format!("{bytes} bytes"),
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

/// Prints progress: a line at the beginning, then after 2, 5, 10, 20, 30 … seconds, and at the end.
pub(super) struct Progress {
    what: String,
    begun: Option<(Instant, u64)>,
    next: Duration,
    last: u64,
}

impl Progress {
    pub(super) fn new(what: &str) -> Self {
        Self {
            what: what.into(),
            begun: None,
            next: Duration::from_secs(2),
            last: 0,
        }
    }

    pub(super) fn begin(&mut self, hub: &Hub, at: u64, size: Option<u64>) {
        let size = size.map_or("of unknown size".into(), amount);
        let what = &self.what;
        hub.say(match at {
            0 => format!("{what}: downloading, {size}"),
            _ => format!("{what}: resumed after {}, {size}", amount(at)),
        });
        self.begun.get_or_insert((Instant::now(), at));
        self.last = at;
    }

    pub(super) fn at(&mut self, hub: &Hub, at: u64, size: Option<u64>) {
        self.last = at;
        let Some((started, first)) = self.begun else {
            return;
        };
        let elapsed = started.elapsed();
        if elapsed < self.next {
            return;
        }
        self.next = match elapsed.as_secs() {
            0..5 => Duration::from_secs(5),
            s => Duration::from_secs((s / 10 + 1) * 10),
        };
        let rate = at.saturating_sub(first) as f64 / elapsed.as_secs_f64();
        let of = match size {
            Some(size) if size > 0 && rate > 0.0 => format!(
                " of {} ({} %), about {} remaining",
                amount(size),
                u128::from(at) * 100 / u128::from(size),
                span(Duration::from_secs_f64(
                    (size.saturating_sub(at) as f64 / rate).min(1e6)
                ))
            ),
            _ => String::new(),
        };
        hub.say(format!(
            "{}: {}{of}, {}/s",
            self.what,
            amount(at),
            amount(rate as u64)
        ));
    }

    /// Prints that the file is complete, if the download took at least 2 seconds.
    pub(super) fn done(&self, hub: &Hub) {
        if let Some((started, _)) = self.begun
            && started.elapsed() >= Duration::from_secs(2)
        {
            hub.say(format!(
                "{}: {} in {}",
                self.what,
                amount(self.last),
                span(started.elapsed())
            ));
        }
    }
}
