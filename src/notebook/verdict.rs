//! [`Verdict`], whether a claim holds, and the rule by which it is decided.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The level of significance of every verdict.
const LEVEL: f64 = 0.05;

/// Whether a claim holds.
///
/// A claim with an expectation is a test of the difference between its value and what is expected:
/// a threshold, or another measured value. H0 is that the difference is 0, the test is two-sided,
/// and the level is 5 %. A value without an expectation is only reported, and never holds.
///
/// ```
/// use invariances::notebook::Verdict;
/// assert_eq!(Verdict::decide(Some(0.01), true), Verdict::Holds);
/// assert_eq!(Verdict::decide(Some(0.01), false), Verdict::Fails);
/// assert_eq!(Verdict::decide(Some(0.20), true), Verdict::Undecided);
/// assert_eq!(Verdict::decide(None, true), Verdict::Undecided);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The difference is significant and as expected.
    Holds,
    /// The difference is significant, and not as expected.
    Fails,
    /// The difference is not significant, or there is no interval to decide it.
    Undecided,
    /// There is no expectation: the value is only reported.
    Reported,
    /// Measured at smoke scale, where hardly anything is trained: the value only shows that the
    /// code runs.
    Smoke,
}

impl Verdict {
    /// Decides a claim from the two-sided p-value of its difference, and whether the difference is
    /// on the expected side.
    ///
    /// A p-value of at most 5 % decides. `None` (no interval, or a value that is NaN or infinite)
    /// decides nothing.
    pub fn decide(p: Option<f64>, as_expected: bool) -> Self {
        match p {
            Some(p) if p <= LEVEL && as_expected => Self::Holds,
            Some(p) if p <= LEVEL => Self::Fails,
            _ => Self::Undecided,
        }
    }

    /// The sign in a table: ✓, ✗, ? or –. At smoke scale it says that the value is not meaningful.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Holds => "✓",
            Self::Fails => "✗",
            Self::Undecided => "?",
            Self::Reported => "–",
            Self::Smoke => "smoke: not meaningful",
        }
    }

    /// The verdict as a word: `holds`, `fails`, `undecided`, `reported` or `smoke`, as in
    /// `claims/<notebook>.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Fails => "fails",
            Self::Undecided => "undecided",
            Self::Reported => "reported",
            Self::Smoke => "smoke",
        }
    }
}

/// The side of an expectation on which a value must be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The difference must be positive: at least a threshold, or above another value.
    Above,
    /// The difference must be negative: at most a threshold, or below another value.
    Below,
    /// The value must be between the first and the second number.
    Between(f64, f64),
}

impl Direction {
    /// Whether a value, or its difference from what is expected, is on the expected side; NaN
    /// never is.
    pub fn is_met(self, value: f64, difference: f64) -> bool {
        match self {
            Self::Above => difference >= 0.0,
            Self::Below => difference <= 0.0,
            Self::Between(low, high) => value >= low && value <= high,
        }
    }

    /// The end of a range that is nearest to a value. Inside the range its p-value is the larger
    /// one of the two ends, outside it is the end that is violated. `None` if it is no range.
    pub(super) fn nearest(self, value: f64) -> Option<f64> {
        match self {
            Self::Between(low, high) if (value - low).abs() <= (value - high).abs() => Some(low),
            Self::Between(_, high) => Some(high),
            Self::Above | Self::Below => None,
        }
    }
}

/// How many claims hold, fail and are undecided. Values that are only reported do not count.
///
/// ```
/// use invariances::notebook::{Counts, Verdict};
/// let counts: Counts = [Verdict::Holds, Verdict::Reported, Verdict::Fails].into_iter().collect();
/// assert_eq!(counts.to_string(), "1 hold, 1 fail, 0 undecided");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The number of claims that hold.
    pub hold: usize,
    /// The number of claims that fail.
    pub fail: usize,
    /// The number of claims that are undecided.
    pub undecided: usize,
    /// The number of values measured at smoke scale, which are none of these.
    pub smoke: usize,
}

impl FromIterator<Verdict> for Counts {
    fn from_iter<I: IntoIterator<Item = Verdict>>(verdicts: I) -> Self {
        let mut counts = Self::default();
        for verdict in verdicts {
            match verdict {
                Verdict::Holds => counts.hold += 1,
                Verdict::Fails => counts.fail += 1,
                Verdict::Undecided => counts.undecided += 1,
                Verdict::Smoke => counts.smoke += 1,
                Verdict::Reported => {}
            }
        }
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            hold,
            fail,
            undecided,
            smoke,
        } = self;
        write!(f, "{hold} hold, {fail} fail, {undecided} undecided")?;
        match smoke {
            0 => Ok(()),
            n => write!(f, ", {n} not meaningful (smoke)"),
        }
    }
}

/// Returns an expectation with its history: `≥ 0.4 since 2026-11; before: ≥ 0.5`. A history that
/// repeats the expectation is shown alone, another one in brackets after it.
///
/// ```
/// use invariances::notebook::with_history;
/// let history = Some("≥ 0.4 since 2026-11; before: ≥ 0.5");
/// assert_eq!(with_history("≥ 0.4", history), "≥ 0.4 since 2026-11; before: ≥ 0.5");
/// assert_eq!(with_history("≥ 0.4", Some("new")), "≥ 0.4 (new)");
/// assert_eq!(with_history("≥ 0.4", None), "≥ 0.4");
/// ```
pub fn with_history(expected: &str, history: Option<&str>) -> String {
    match history {
        None | Some("") => expected.into(),
        Some(history) => match history.strip_prefix(expected) {
            Some(rest) if rest.starts_with([' ', ',', ';', ':']) => history.into(),
            _ => format!("{expected} ({history})"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_stored_as_their_words() -> Result<(), serde_json::Error> {
        let all = [
            (Verdict::Holds, "✓"),
            (Verdict::Fails, "✗"),
            (Verdict::Undecided, "?"),
            (Verdict::Reported, "–"),
            (Verdict::Smoke, "smoke: not meaningful"),
        ];
        for (verdict, mark) in all {
            let text = serde_json::to_string(&verdict)?;
            assert_eq!(text, format!("\"{}\"", verdict.word()));
            assert_eq!(serde_json::from_str::<Verdict>(&text)?, verdict);
            assert_eq!(verdict.mark(), mark);
        }
        for (direction, text) in [
            (Direction::Above, "\"above\""),
            (Direction::Between(0.5, 2.0), "{\"between\":[0.5,2.0]}"),
        ] {
            assert_eq!(serde_json::to_string(&direction)?, text);
            assert_eq!(serde_json::from_str::<Direction>(text)?, direction);
        }
        Ok(())
    }

    #[test]
    fn a_range_is_compared_at_its_nearest_end() {
        let range = Direction::Between(0.0, 1.0);
        for (value, end, inside) in [
            (0.2, 0.0, true),
            (0.9, 1.0, true),
            (-3.0, 0.0, false),
            (1.1, 1.0, false),
        ] {
            assert_eq!(range.nearest(value), Some(end));
            assert_eq!(range.is_met(value, value - end), inside);
        }
        assert!(!range.is_met(f64::NAN, f64::NAN));
        assert_eq!(Direction::Above.nearest(0.2), None);
        assert!(Direction::Above.is_met(0.0, 0.1) && !Direction::Above.is_met(0.0, -0.1));
        assert!(Direction::Below.is_met(0.0, -0.1) && !Direction::Below.is_met(0.0, 0.1));
    }
}
