//! [`Expected`], what was expected of a claim's value before it was measured.

use super::Direction;
use super::format::short;
use std::fmt;

/// The value that was expected before measuring. [`Verdict`](super::Verdict) says how it is
/// compared with the measured one.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// At least this value.
    AtLeast(f64),
    /// At most this value.
    AtMost(f64),
    /// Between the first and the second value.
    Between(f64, f64),
    /// More than another measured value, given by its name and value.
    Above(String, f64),
    /// Less than another measured value, given by its name and value.
    Below(String, f64),
    /// No expectation: the value is only reported.
    Reported,
}

impl Expected {
    /// The side on which the value must be, or `None` without an expectation.
    pub fn direction(&self) -> Option<Direction> {
        match self {
            Self::AtLeast(_) | Self::Above(..) => Some(Direction::Above),
            Self::AtMost(_) | Self::Below(..) => Some(Direction::Below),
            Self::Between(low, high) => Some(Direction::Between(*low, *high)),
            Self::Reported => None,
        }
    }

    /// The number with which a value is compared: the threshold, the other value, or the nearest
    /// end of a range.
    pub fn bound(&self, value: f64) -> Option<f64> {
        match self {
            Self::AtLeast(bound) | Self::AtMost(bound) => Some(*bound),
            Self::Above(_, bound) | Self::Below(_, bound) => Some(*bound),
            Self::Between(low, high) => Direction::Between(*low, *high).nearest(value),
            Self::Reported => None,
        }
    }

    /// The name of the other measured value.
    pub(super) fn other(&self) -> Option<&str> {
        match self {
            Self::Above(name, _) | Self::Below(name, _) => Some(name),
            _ => None,
        }
    }

    /// Formats the expectation. `other` is the other value with its interval.
    pub(super) fn text(&self, other: &str) -> String {
        match self {
            Self::AtLeast(v) => format!("≥ {}", short(*v)),
            Self::AtMost(v) => format!("≤ {}", short(*v)),
            Self::Between(a, b) => format!("{} to {}", short(*a), short(*b)),
            Self::Above(name, _) => format!("> {name} {other}"),
            Self::Below(name, _) => format!("< {name} {other}"),
            Self::Reported => "reported".into(),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = match self {
            Self::Above(_, value) | Self::Below(_, value) => short(*value),
            _ => String::new(),
        };
        f.write_str(&self.text(&other))
    }
}
