//! A value with its interval, as charts and tables show it.

use std::fmt;

/// A mean and its 95 % interval, the range in which the mean is expected for other images of the
/// same kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Number of values from which the mean was computed.
    pub n: usize,
}

impl Estimate {
    /// Creates an estimate without an interval: `low` and `high` are the value, `n` is 1.
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
