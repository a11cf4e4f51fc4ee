//! A value with its interval, as charts and tables show it.

use std::fmt;

/// A mean and the 95 % interval in which it would lie for other images of the same kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    /// How many values it rests on.
    pub n: usize,
}

impl Estimate {
    /// A number without an interval.
    pub fn exact(value: f64) -> Self {
        Self {
            mean: value,
            low: value,
            high: value,
            n: 1,
        }
    }
}

impl From<f64> for Estimate {
    fn from(value: f64) -> Self {
        Self::exact(value)
    }
}

impl From<f32> for Estimate {
    fn from(value: f32) -> Self {
        Self::exact(value.into())
    }
}

impl From<&Estimate> for Estimate {
    fn from(estimate: &Estimate) -> Self {
        *estimate
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.n < 2 {
            return write!(f, "{:.3}", self.mean);
        }
        write!(f, "{:.3} [{:.3}, {:.3}]", self.mean, self.low, self.high)
    }
}
