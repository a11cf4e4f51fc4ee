//! [`Measured`], the value of a claim, and differences of two values.

use crate::metric::{Estimate, Resampled, normal_cdf};

/// Half the width of a 95 % interval of a normal distribution, in standard deviations.
const HALF_WIDTH: f64 = 1.96;

/// What a claim is made of: a value, and how far it is known.
///
/// A number, an [`Estimate`] and a [`Resampled`] become one by `into()`. A number has no interval.
/// The standard deviation of an estimate is the width of its interval divided by 3.92, as for a
/// normal distribution. A [`Resampled`] has its bootstrap replicates.
///
/// ```
/// use invariances::metric::Estimate;
/// use invariances::notebook::Measured;
/// let value = Measured::from(Estimate { mean: 0.5, low: 0.402, high: 0.598, n: 100 });
/// let p = value.p_value(0.402).unwrap_or(1.0);
/// assert!((p - 0.05).abs() < 1e-3, "{p}");
/// assert_eq!(Measured::from(0.5).p_value(0.4), None);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    value: f64,
    interval: Option<(f64, f64)>,
    deviation: Option<f64>,
    /// Only one that has replicates.
    resampled: Option<Resampled>,
}

/// Another measured value with which a claim's value is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Its name in the sentence, for example `D&B`.
    pub name: String,
    /// The value.
    pub value: f64,
    /// Its 95 % interval.
    pub interval: Option<(f64, f64)>,
}

/// A difference with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// The value minus what it is compared with.
    pub value: f64,
    /// The 95 % interval of the difference.
    pub interval: Option<(f64, f64)>,
}

impl Measured {
    /// The value.
    pub fn value(&self) -> f64 {
        self.value
    }

    /// The 95 % interval, if there is one.
    pub fn interval(&self) -> Option<(f64, f64)> {
        self.interval
    }

    /// The standard deviation of the value, if it is known.
    pub fn deviation(&self) -> Option<f64> {
        self.deviation
    }

    /// Returns the value with another 95 % interval, which decides its standard deviation.
    pub fn with_interval(self, low: f64, high: f64) -> Self {
        Self {
            value: self.value,
            interval: Some((low, high)),
            deviation: deviation(low, high),
            resampled: None,
        }
    }

    /// Computes the difference of two values.
    ///
    /// If both have replicates, the difference has the replicates' differences
    /// ([`Resampled::minus`]): it is paired if both have the same number of images and the same
    /// seed. Otherwise the two count as independent, and the deviation is √(a² + b²).
    ///
    /// ```
    /// use invariances::metric::Resampled;
    /// use invariances::notebook::Measured;
    /// let ours: Vec<f64> = (0..50).map(f64::from).collect();
    /// let theirs: Vec<f64> = ours.iter().map(|v| v - 1.0 - 0.1 * (v % 3.0)).collect();
    /// let of = |values: &[f64]| Measured::from(Resampled::mean(values, 0));
    /// let difference = of(&ours).minus(&of(&theirs));
    /// let (low, high) = difference.interval().unwrap_or_default();
    /// assert!(low > 1.05 && high < 1.15, "every image differs by 1 to 1.2");
    /// ```
    pub fn minus(&self, other: &Self) -> Self {
        let resampled = match (&self.resampled, &other.resampled) {
            (Some(a), Some(b)) => Some(a.minus(b)),
            (Some(a), None) if other.deviation.is_none() => {
                Some(a.minus(&Resampled::exact(other.value)))
            }
            (None, Some(b)) if self.deviation.is_none() => {
                Some(Resampled::exact(self.value).minus(b))
            }
            _ => None,
        };
        if let Some(difference) = resampled {
            // The interval of a difference is the one that decides.
            let interval = difference.interval();
            return Self {
                interval,
                ..difference.into()
            };
        }
        let value = self.value - other.value;
        let deviation = match (self.deviation, other.deviation) {
            (Some(a), Some(b)) => Some(a.hypot(b)),
            (a, b) => a.or(b),
        };
        let interval = match (self.interval, other.interval) {
            (Some((low, high)), None) => Some((low - other.value, high - other.value)),
            (None, Some((low, high))) => Some((self.value - high, self.value - low)),
            (Some(_), Some(_)) => {
                deviation.map(|d| (value - HALF_WIDTH * d, value + HALF_WIDTH * d))
            }
            (None, None) => None,
        };
        Self {
            value,
            interval,
            deviation,
            resampled: None,
        }
    }

    /// Computes the two-sided p-value of H0: the value is `at`. The distribution is normal, with
    /// the standard deviation of the value; if that is 0, p is 0 or 1. Returns `None` if there is
    /// no standard deviation, or if a number is not finite.
    pub fn p_value(&self, at: f64) -> Option<f64> {
        if let Some(resampled) = &self.resampled {
            return resampled.p_value(at).filter(|p| p.is_finite());
        }
        let difference = self.value - at;
        let deviation = self.deviation?;
        if !difference.is_finite() {
            return None;
        }
        Some(match (deviation == 0.0, difference == 0.0) {
            (true, true) => 1.0,
            (true, false) => 0.0,
            _ => (2.0 * normal_cdf(-(difference / deviation).abs())).min(1.0),
        })
    }
}

/// The standard deviation of a normal distribution with this 95 % interval, or `None` if an end is
/// not finite.
fn deviation(low: f64, high: f64) -> Option<f64> {
    let deviation = (high - low).abs() / (2.0 * HALF_WIDTH);
    deviation.is_finite().then_some(deviation)
}

impl From<f64> for Measured {
    fn from(value: f64) -> Self {
        Self {
            value,
            interval: None,
            deviation: None,
            resampled: None,
        }
    }
}

impl From<f32> for Measured {
    fn from(value: f32) -> Self {
        Self::from(f64::from(value))
    }
}

impl From<&Estimate> for Measured {
    fn from(estimate: &Estimate) -> Self {
        let exact = Self::from(estimate.mean);
        match estimate.n > 1 {
            // Without a finite interval the value decides nothing.
            true => exact.with_interval(estimate.low, estimate.high),
            false => exact,
        }
    }
}

impl From<Estimate> for Measured {
    fn from(estimate: Estimate) -> Self {
        Self::from(&estimate)
    }
}

impl From<&Resampled> for Measured {
    fn from(resampled: &Resampled) -> Self {
        Self::from(resampled.clone())
    }
}

impl From<Resampled> for Measured {
    fn from(resampled: Resampled) -> Self {
        if resampled.replicates().is_empty() {
            return Self::from(resampled.value());
        }
        let Estimate { low, high, .. } = resampled.estimate();
        Self {
            value: resampled.value(),
            interval: Some((low, high)),
            deviation: resampled.deviation().filter(|d| d.is_finite()),
            resampled: Some(resampled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean: f64, deviation: f64) -> Estimate {
        Estimate {
            mean,
            low: mean - HALF_WIDTH * deviation,
            high: mean + HALF_WIDTH * deviation,
            n: 100,
        }
    }

    /// Two estimates count as independent: 3² + 4² = 5².
    #[test]
    fn deviations_of_independent_values_add_in_squares() {
        let (a, b) = (estimate(10.0, 3.0), estimate(0.2, 4.0));
        let difference = Measured::from(a).minus(&Measured::from(b));
        assert!((difference.value() - 9.8).abs() < 1e-12);
        assert!((difference.deviation().unwrap_or_default() - 5.0).abs() < 1e-12);
        // 9.8 is 1.96 deviations: just the level of 5 %.
        let p = difference.p_value(0.0).unwrap_or_default();
        assert!((p - 0.05).abs() < 1e-4, "{p}");
        let (low, high) = difference.interval().unwrap_or_default();
        assert!(low.abs() < 1e-9 && (high - 19.6).abs() < 1e-9);
    }

    /// An exact number only shifts the interval; two of them have none.
    #[test]
    fn numbers_have_no_interval() {
        let value = Measured::from(estimate(0.5, 0.1));
        let shifted = value.minus(&Measured::from(0.3));
        assert_eq!(shifted.deviation(), value.deviation());
        let (low, high) = shifted.interval().unwrap_or_default();
        assert!((low - 0.004).abs() < 1e-12 && (high - 0.396).abs() < 1e-12);
        let mirrored = Measured::from(0.3).minus(&value);
        let (low, high) = mirrored.interval().unwrap_or_default();
        assert!((low + 0.396).abs() < 1e-12 && (high + 0.004).abs() < 1e-12);
        let exact = Measured::from(0.5f32).minus(&Measured::from(0.25));
        assert_eq!((exact.value(), exact.interval()), (0.25, None));
        assert_eq!(exact.p_value(0.0), None);
        // An interval of width 0, as of a hundred equal values, decides.
        let certain = Measured::from(1.0).with_interval(1.0, 1.0);
        assert_eq!(certain.p_value(0.9), Some(0.0));
        assert_eq!(certain.p_value(1.0), Some(1.0));
        let open = Measured::from(1.0).with_interval(0.0, f64::INFINITY);
        assert_eq!(open.p_value(0.5), None);
        assert_eq!(Measured::from(estimate(f64::NAN, 0.1)).p_value(0.0), None);
    }

    #[test]
    fn replicates_of_the_same_images_are_paired() {
        let ours: Vec<f64> = (0..60).map(|i| f64::from(i % 10)).collect();
        let theirs: Vec<f64> = (0..60)
            .map(|i| f64::from(i % 10) - 0.3 - 0.02 * f64::from(i % 3))
            .collect();
        let a = Measured::from(Resampled::mean(&ours, 0));
        let paired = a.minus(&Measured::from(Resampled::mean(&theirs, 0)));
        assert!((paired.value() - 0.32).abs() < 1e-9);
        let p = paired.p_value(0.0);
        assert!(p.is_some_and(|p| p < 1e-3), "{p:?}");
        // Another seed draws other images: the two are independent.
        let apart = a.minus(&Measured::from(Resampled::mean(&theirs, 1)));
        let p = apart.p_value(0.0);
        assert!(p.is_some_and(|p| p > 0.2), "{p:?}");
        // A constant keeps the replicates.
        let shifted = a.minus(&Measured::from(4.5));
        let p = shifted.p_value(0.0);
        assert!(p.is_some_and(|p| p > 0.9), "{p:?}");
    }
}
