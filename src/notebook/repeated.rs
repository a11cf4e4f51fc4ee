//! [`Repeated`], the values of one claim over the entries of a study, and their statistics.

use super::{Difference, Direction};
use crate::metric::student_p;
use serde::{Deserialize, Serialize};

/// The smallest number of seeds for which there is a verdict.
const LEAST: usize = 3;

/// A claim's values over the entries of a [`Study`](super::Study).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Repeated {
    /// The claim's name.
    pub name: String,
    /// Its statement.
    pub statement: String,
    /// The expectation.
    pub expected: String,
    /// The side on which the value must be; `None` without an expectation, and in a study of an
    /// earlier version.
    #[serde(default)]
    pub direction: Option<Direction>,
    /// The value for each entry; `None` if it was not finite or not stated.
    pub values: Vec<Option<f64>>,
    /// Whether the claim held within the run of each entry.
    pub holds: Vec<bool>,
    /// For each entry, the value minus what is expected of it: the other value, the threshold, or
    /// the nearest end of a range. Empty in a study of an earlier version.
    #[serde(default)]
    pub differences: Vec<Option<f64>>,
    /// For each entry, the other measured value. Empty in a study of an earlier version.
    #[serde(default)]
    pub others: Vec<Option<f64>>,
}

/// A claim's statistics over several seeds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverSeeds {
    /// The number of seeds with a value.
    pub n: usize,
    /// The mean of the values.
    pub mean: f64,
    /// The standard deviation of the values (with n − 1; 0 for one seed).
    pub deviation: f64,
    /// The mean difference with its 95 % interval of Student's t distribution; `None` with fewer
    /// than three differences.
    pub difference: Option<Difference>,
    /// The two-sided p-value of H0: the mean difference is 0, by Student's t test.
    pub p: Option<f64>,
    /// Whether the mean is on the expected side.
    pub as_expected: bool,
}

impl Repeated {
    /// The mean and the standard deviation (with n − 1) over the entries that have a value, or
    /// `None` if no entry has one.
    pub fn mean_and_deviation(&self) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.values.iter().flatten().copied().collect();
        moments(&values)
    }

    /// Computes the statistics over some entries, given by their indices, or returns `None` if
    /// none of them has a value.
    ///
    /// ```
    /// use invariances::notebook::{Direction, Repeated};
    /// let claim = Repeated {
    ///     direction: Some(Direction::Above),
    ///     values: vec![Some(0.7), Some(0.8), Some(0.9)],
    ///     differences: vec![Some(0.1), Some(0.2), Some(0.3)],
    ///     ..Repeated::default()
    /// };
    /// let over = claim.over(&[0, 1, 2]).unwrap();
    /// assert!((over.mean - 0.8).abs() < 1e-12 && over.as_expected);
    /// assert!(claim.over(&[0, 1]).unwrap().p.is_none(), "two seeds are too few");
    /// ```
    pub fn over(&self, entries: &[usize]) -> Option<OverSeeds> {
        let pick = |from: &[Option<f64>]| -> Vec<f64> {
            let found = entries.iter().filter_map(|i| from.get(*i).copied());
            found.flatten().collect()
        };
        let values = pick(&self.values);
        let (mean, deviation) = moments(&values)?;
        let differences = match self.direction {
            None => Vec::new(),
            // The ends nearest to the seeds' own values could be different ends.
            Some(direction) => match direction.nearest(mean) {
                Some(end) => values.iter().map(|v| v - end).collect(),
                None => pick(&self.differences),
            },
        };
        let test = student(&differences);
        let as_expected = self.direction.zip(test);
        Some(OverSeeds {
            n: values.len(),
            mean,
            deviation,
            difference: test.map(|(difference, _)| difference),
            p: test.map(|(_, p)| p),
            as_expected: as_expected.is_some_and(|(d, (by, _))| d.is_met(mean, by.value)),
        })
    }

    /// Gives every list the same number of entries.
    pub(super) fn resize(&mut self, n: usize) {
        self.values.resize(n, None);
        self.holds.resize(n, false);
        self.differences.resize(n, None);
        self.others.resize(n, None);
    }
}

/// The mean and the standard deviation (with n − 1), or `None` without values.
fn moments(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    Some((mean, (square / (n - 1.0).max(1.0)).sqrt()))
}

/// The mean of differences with its 95 % interval, and the two-sided p-value of H0: it is 0.
fn student(differences: &[f64]) -> Option<(Difference, f64)> {
    if differences.len() < LEAST {
        return None;
    }
    let (mean, deviation) = moments(differences)?;
    let n = differences.len() as f64;
    let error = deviation / n.sqrt();
    let p = match (error == 0.0, mean == 0.0) {
        (true, true) => 1.0,
        (true, false) => 0.0,
        _ => student_p(mean / error, n - 1.0),
    };
    let half = half_width(n - 1.0) * error;
    let difference = Difference {
        value: mean,
        interval: Some((mean - half, mean + half)),
    };
    p.is_finite().then_some((difference, p))
}

/// The t for which the two-sided p-value is 5 %, by bisection: 4.303 for 2 degrees of freedom.
fn half_width(degrees: f64) -> f64 {
    let (mut low, mut high) = (0.0, 100.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        match student_p(middle, degrees) > 0.05 {
            true => low = middle,
            false => high = middle,
        }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(direction: Direction, pairs: &[(f64, f64)]) -> Repeated {
        Repeated {
            direction: Some(direction),
            values: pairs.iter().map(|(v, _)| Some(*v)).collect(),
            differences: pairs.iter().map(|(_, d)| Some(*d)).collect(),
            ..Repeated::default()
        }
    }

    /// Differences 1, 2, 3: mean 2, standard error 1/√3, t = 2√3. With two degrees of freedom p is
    /// 1 − t/√(t² + 2) = 1 − √(6/7), and t of 5 % is √(2 · 0.95² / (1 − 0.95²)) = 4.3027.
    #[test]
    fn three_seeds_have_a_t_interval_in_closed_form() {
        let found = claim(Direction::Above, &[(7.0, 1.0), (9.0, 2.0), (8.0, 3.0)]);
        let over = found.over(&[0, 1, 2]).unwrap();
        assert_eq!((over.n, over.mean, over.deviation), (3, 8.0, 1.0));
        let p = 1.0 - (6.0f64 / 7.0).sqrt();
        assert!((over.p.unwrap() - p).abs() < 1e-6, "{:?}", over.p);
        let t = (2.0 * 0.9025f64 / 0.0975).sqrt();
        assert!((t - 4.3027).abs() < 1e-4);
        let difference = over.difference.unwrap();
        let (low, high) = difference.interval.unwrap();
        assert!((difference.value - 2.0).abs() < 1e-12 && over.as_expected);
        assert!((low - (2.0 - t / 3f64.sqrt())).abs() < 1e-5, "{low}");
        assert!((high - (2.0 + t / 3f64.sqrt())).abs() < 1e-5, "{high}");
        let below = Repeated {
            direction: Some(Direction::Below),
            ..found.clone()
        };
        assert!(!below.over(&[0, 1, 2]).unwrap().as_expected);
        // Two seeds decide nothing; entries that there are not are left out.
        let two = found.over(&[1, 2, 7]).unwrap();
        assert_eq!((two.n, two.mean, two.p), (2, 8.5, None));
        assert_eq!(two.difference, None);
        assert_eq!(found.over(&[7]), None);
    }

    /// Each seed's own nearest end would be −0.1 and 0.1, and their mean difference nothing.
    #[test]
    fn a_range_is_compared_by_the_mean_over_the_seeds() {
        let range = Direction::Between(-0.1, 0.1);
        let pairs = [(-0.05, 0.05), (0.05, -0.05), (0.045, -0.055)];
        let over = claim(range, &pairs).over(&[0, 1, 2]).unwrap();
        assert!(over.as_expected);
        let difference = over.difference.unwrap();
        assert!((difference.value + 0.085).abs() < 1e-12, "{difference:?}");
        let outside = claim(range, &[(0.2, 0.1), (0.21, 0.11), (0.19, 0.09)]);
        let over = outside.over(&[0, 1, 2]).unwrap();
        assert!(!over.as_expected && over.p.is_some_and(|p| p < 0.01));
    }

    #[test]
    fn equal_differences_decide() {
        let same = [(0.5, 0.25); 3];
        let over = claim(Direction::Above, &same).over(&[0, 1, 2]).unwrap();
        assert_eq!(over.p, Some(0.0));
        let none = [(0.5, 0.0); 3];
        let over = claim(Direction::Above, &none).over(&[0, 1, 2]).unwrap();
        assert_eq!(over.p, Some(1.0));
    }
}
