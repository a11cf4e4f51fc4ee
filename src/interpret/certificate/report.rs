//! A certificate as a table, a figure and a line of text.

use super::{Certificate, LEVEL, Tests};
use crate::Result;
use crate::figure::{Bars, Chart, Figure, Panel, Table};
use crate::metric::Estimate;
use std::fmt;

impl Certificate {
    /// The table: a row for t and for each control, a column for each test with its p-value. Values
    /// below 0.05 after Holm's correction within a row are marked with ✗.
    pub fn table(&self) -> Table {
        let mut table = Table::new([
            "flow",
            "classifier picks v (exact: 0.5)",
            "50 % and 90 % regions contain",
            "HSIC, normalized (without dependence)",
            "largest deviation of a coordinate",
            "mean of v²",
            "passes",
        ]);
        for (name, tests) in self.rows() {
            let corrected = tests.corrected();
            let mark = |i: usize| match corrected.get(i) {
                Some((_, p)) if *p <= LEVEL => " ✗",
                _ => "",
            };
            let dependence = tests.dependence();
            let worst = tests.coordinates().iter().map(|u| u.statistic);
            table = table.row([
                name,
                format!(
                    "{}, p {}{}",
                    tests.accuracy(),
                    p(tests.accuracy_p()),
                    mark(0)
                ),
                format!(
                    "{:.2} and {:.2}, p {}{}",
                    tests.coverage(0.5),
                    tests.coverage(0.9),
                    p(tests.coverage_test().p),
                    mark(1)
                ),
                format!(
                    "{:.3} ({:.3}), p {}{}",
                    dependence.normalized,
                    dependence.null.0,
                    p(dependence.p),
                    mark(2)
                ),
                format!(
                    "{:.3}, p {}{}",
                    worst.fold(0.0, f64::max),
                    p(tests.coordinates_p()),
                    mark(3)
                ),
                format!("{:.3}", tests.mean_square()),
                if tests.passes() { "yes" } else { "no" }.to_string(),
            ]);
        }
        let trip = self.round_trip();
        table.caption(&format!(
            "{} held-out images: the classifier was trained on half of them, and the tests are on the \
             other half ({}, HSIC on at most 1000 images). ✗: p at most 0.05 \
             after Holm's correction within the row. Round trips of \
             t, largest error in standard deviations: codes {:.1e}, samples {:.1e}{}.{}",
            self.images(),
            match self.regions_of_v {
                true => format!(
                    "coverage of t in regions of small |v|, that of small networks in regions of \
                     highest density on at most {} images",
                    self.config.ranked
                ),
                false => format!("coverage on at most {} images", self.config.ranked),
            },
            trip.codes,
            trip.samples,
            if trip.is_exact() {
                ""
            } else {
                " (too large: more than 0.01)"
            },
            self.locally_rejected()
                .map_or(String::new(), |share| format!(
                    " The local test rejects t for {:.0} % of the images (for an exact t 5 % on \
                     average).",
                    100.0 * share
                )),
        ))
    }

    /// The table of several t: a row for each, without its controls.
    pub fn compare(all: &[Self]) -> Table {
        let mut table = Table::new([
            "flow",
            "classifier picks v (exact: 0.5)",
            "90 % regions contain",
            "HSIC, normalized (without dependence)",
            "mean of v²",
            "round trip",
            "rejected by",
            "controls rejected",
        ]);
        for certificate in all {
            let (tests, trip) = (certificate.tests(), certificate.round_trip());
            let dependence = tests.dependence();
            let controls = certificate.controls();
            let rejected = controls.iter().filter(|(_, t)| !t.passes()).count();
            table = table.row([
                certificate.name(),
                tests.accuracy().to_string(),
                format!("{:.2}", tests.coverage(0.9)),
                format!("{:.3} ({:.3})", dependence.normalized, dependence.null.0),
                format!("{:.3}", tests.mean_square()),
                format!("{:.0e}", trip.codes.max(trip.samples)),
                match certificate.rejected_by() {
                    none if none.is_empty() => "no test".to_string(),
                    some => some.join(", "),
                },
                format!("{rejected} of {}", controls.len()),
            ]);
        }
        let mut images: Vec<String> = all.iter().map(|c| c.images().to_string()).collect();
        images.dedup();
        table.caption(&format!(
            "{} held-out images each: the classifier was trained on half of them, and the tests are \
             on the other half. Rejected: p at most 0.05 after Holm's correction within the row.{}",
            images.join(", "),
            match all.iter().any(|c| c.regions_of_v) {
                true => {
                    " The regions are those of small |v| (they do not test the density), of \
                     highest density for other flows than flow matching."
                }
                false => "",
            }
        ))
    }

    /// The names of the tests that reject t, with "round trip" if that is not exact.
    pub fn rejected_by(&self) -> Vec<&'static str> {
        let corrected = self.tests.corrected();
        let rejected = corrected.iter().filter(|(_, p)| *p <= LEVEL);
        let trip = (!self.round_trip().is_exact()).then_some("round trip");
        rejected.map(|(name, _)| *name).chain(trip).collect()
    }

    fn name(&self) -> String {
        match self.layer.is_empty() {
            true => "t".to_string(),
            false => format!("t at {}", self.layer),
        }
    }

    /// The figure: the classifier's success for t and the controls; and how many codes lie in
    /// regions of highest density, against the probability of the region. Where t's density is
    /// slow, its regions are those of small |v|; those of small control networks stay regions of
    /// highest density.
    ///
    /// # Errors
    /// As [`Bars::figure`] and [`Chart::figure`].
    pub fn figure(&self) -> Result<Figure> {
        let rows = self.rows();
        let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
        let picked: Vec<Estimate> = rows.iter().map(|(_, t)| t.accuracy().estimate()).collect();
        let left = Bars::new("A classifier picks v out of (v, noise)", names)
            .series("", &picked)
            .reference(0.5, "v is exact")
            .y_range(0.0, 1.0)
            .y_label("share of pairs")
            .size(460, 300)
            .figure()?;
        let levels: Vec<f64> = (1..20).map(|k| f64::from(k) / 20.0).collect();
        let regions = match self.regions_of_v {
            true => "Codes in regions of small |v|",
            false => "Codes in regions of highest density",
        };
        let mut right = Chart::new(regions)
            .x_label("probability of the region under t")
            .y_label("share of codes in it")
            .x_range(0.0, 1.0)
            .y_range(0.0, 1.0)
            .size(380, 300)
            .line("exact", &[0.0, 1.0], &[0.0, 1.0]);
        for (name, tests) in &rows {
            let covered: Vec<f64> = levels.iter().map(|level| tests.coverage(*level)).collect();
            right = right.line(name, &levels, &covered);
        }
        Panel::row([&left, &right.figure()?]).figure()
    }

    fn rows(&self) -> Vec<(String, &Tests)> {
        let controls = self
            .controls
            .iter()
            .map(|(name, tests)| (name.clone(), tests));
        std::iter::once((self.name(), &self.tests))
            .chain(controls)
            .collect()
    }
}

/// A p-value in two digits.
fn p(value: f64) -> String {
    match value {
        p if p.is_nan() => "–".into(),
        p if p < 0.001 => "< 0.001".into(),
        p => format!("{p:.3}"),
    }
}

/// One line of text, such as "t at pool, 4000 held-out images: …".
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tests, trip) = (&self.tests, self.round_trip());
        let rejected = self.rejected_by();
        let accuracy = tests.accuracy().estimate();
        write!(
            f,
            "{}, {} held-out images: {}. A classifier picks v out of noise in {:.1} % \
             [{:.1}, {:.1}] of pairs (exact: 50 %); 90 % regions contain {:.0} % of codes; round \
             trip {:.0e}.",
            self.name(),
            self.images(),
            match rejected.is_empty() {
                true => "no test rejects it".to_string(),
                false => format!("rejected by {}", rejected.join(", ")),
            },
            100.0 * accuracy.mean,
            100.0 * accuracy.low,
            100.0 * accuracy.high,
            100.0 * tests.coverage(0.9),
            trip.codes.max(trip.samples),
        )?;
        let missed: Vec<&str> = self
            .controls
            .iter()
            .filter(|(_, tests)| tests.passes())
            .map(|(name, _)| name.as_str())
            .collect();
        match missed.is_empty() {
            true => Ok(()),
            false => write!(
                f,
                " Controls that were not rejected: {}.",
                missed.join(", ")
            ),
        }
    }
}
