//! Formats durations for messages.

use std::time::Duration;

/// Formats a duration for reading: `40 ms`, `2.4 s`, `12 s`, `3 min 7 s`, `1 h 30 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 1.0 => format!("{} ms", time.as_millis()),
        s if s < 9.95 => format!("{} s", (s * 10.0).round() / 10.0),
        _ if whole < 60 => format!("{whole} s"),
        _ if whole < 3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;
    use std::time::Duration;

    #[test]
    fn durations_have_the_units_of_their_size() {
        for (milliseconds, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (2_000, "2 s"),
            (2_449, "2.4 s"),
            (9_960, "10 s"),
            (59_600, "1 min 0 s"),
            (187_000, "3 min 7 s"),
            (3_599_600, "1 h 0 min"),
            (5_400_000, "1 h 30 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), expected);
        }
        assert!(duration(Duration::MAX).ends_with(" min"));
    }
}
