//! [`ClaimBuilder`], which measures a claim against its expectation and saves it.

use super::lab::check_name;
use super::{Claim, Compared, Difference, Expected, Lab, Measured, Scale, Verdict, stored};
use crate::Result;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A claim under construction; [`ClaimBuilder::state`] saves it.
#[derive(Clone, Debug)]
pub struct ClaimBuilder {
    claim: Claim,
    measured: Measured,
    /// The other measured value of [`Expected::Above`] and [`Expected::Below`].
    other: Option<Measured>,
    file: PathBuf,
    /// Names of the lab's claims.
    stated: Arc<Mutex<BTreeSet<String>>>,
}

impl ClaimBuilder {
    pub(super) fn new(lab: &Lab, name: &str, value: impl Into<Measured>) -> Self {
        let measured = value.into();
        Self {
            claim: Claim {
                notebook: lab.notebook().into(),
                name: name.into(),
                statement: name.replace(['-', '_'], " "),
                figure: None,
                value: measured.value(),
                unit: String::new(),
                interval: measured.interval(),
                expected: Expected::Reported,
                history: None,
                other: None,
                difference: None,
                p: None,
                verdict: Verdict::Reported,
                scale: lab.scale(),
                seed: lab.seed(),
                network_seed: lab.network_seed(),
                version: crate::VERSION.into(),
            },
            measured,
            other: None,
            file: stored::path(lab, "json"),
            stated: lab.stated.clone(),
        }
    }

    /// Sets the sentence that is shown to the reader. The default is the name in words.
    pub fn statement(mut self, statement: &str) -> Self {
        self.claim.statement = statement.into();
        self
    }

    /// Sets the figure that shows the claim, by the name given to [`Lab::figure`].
    pub fn figure(mut self, name: &str) -> Self {
        self.claim.figure = Some(name.into());
        self
    }

    /// Sets the unit of the value; leave it out for a share.
    pub fn unit(mut self, unit: &str) -> Self {
        self.claim.unit = unit.into();
        self
    }

    /// Sets the 95 % interval of a value that has none, and with it its standard deviation.
    pub fn interval(mut self, low: f64, high: f64) -> Self {
        self.measured = self.measured.with_interval(low, high);
        self
    }

    /// Sets the expectation.
    pub fn expect(mut self, expected: Expected) -> Self {
        self.claim.expected = expected;
        self.other = None;
        self
    }

    /// Expects at least this value.
    pub fn at_least(self, value: f64) -> Self {
        self.expect(Expected::AtLeast(value))
    }

    /// Expects at most this value.
    pub fn at_most(self, value: f64) -> Self {
        self.expect(Expected::AtMost(value))
    }

    /// Expects a value in this range.
    pub fn between(self, low: f64, high: f64) -> Self {
        self.expect(Expected::Between(low, high))
    }

    /// Expects more than another measured value. The interval of the difference decides: it is
    /// paired if both are [`Resampled`](crate::metric::Resampled) over the same images
    /// ([`Measured::minus`]).
    pub fn above(self, name: &str, value: impl Into<Measured>) -> Self {
        self.compare(name, value.into(), Expected::Above)
    }

    /// Expects less than another measured value, as [`ClaimBuilder::above`] expects more.
    pub fn below(self, name: &str, value: impl Into<Measured>) -> Self {
        self.compare(name, value.into(), Expected::Below)
    }

    /// Sets since when this is expected, and what was expected before, for example
    /// `≥ 0.4 since 2026-11; before: ≥ 0.5`. It is shown with the expectation.
    pub fn history(mut self, history: &str) -> Self {
        self.claim.history = Some(history.into());
        self
    }

    fn compare(self, name: &str, other: Measured, side: fn(String, f64) -> Expected) -> Self {
        let mut builder = self.expect(side(name.into(), other.value()));
        builder.other = Some(other);
        builder
    }

    /// The claim with its difference and verdict.
    fn decided(&self) -> Claim {
        let mut claim = self.claim.clone();
        claim.value = self.measured.value();
        claim.interval = self.measured.interval();
        let direction = claim.expected.direction();
        let bound = claim.expected.bound(claim.value);
        if let Some((direction, bound)) = direction.zip(bound) {
            let other = self.other.clone().unwrap_or_else(|| bound.into());
            let difference = self.measured.minus(&other);
            claim.other = claim.expected.other().map(|name| Compared {
                name: name.into(),
                value: other.value(),
                interval: other.interval(),
            });
            claim.difference = Some(Difference {
                value: difference.value(),
                interval: difference.interval(),
            });
            claim.p = difference.p_value(0.0);
            let as_expected = direction.is_met(claim.value, difference.value());
            claim.verdict = Verdict::decide(claim.p, as_expected);
        }
        if claim.scale == Scale::Smoke {
            claim.verdict = Verdict::Smoke;
        }
        claim
    }

    /// Decides the claim, saves it in `claims/<notebook>.json` in the output folder, and returns
    /// it, so that it is shown if it is a cell's last expression. An existing claim with the same
    /// name is replaced.
    ///
    /// ```
    /// use invariances::notebook::{Lab, Scale, Verdict};
    /// # let folder = std::env::temp_dir().join("invariances-doc-claim");
    /// let lab = Lab::open("example")?.with_scale(Scale::Quick);
    /// # let lab = lab.with_out(&folder);
    /// let claim = lab.claim("kept", 0.93).interval(0.91, 0.95).at_least(0.9).state()?;
    /// assert_eq!(claim.verdict, Verdict::Holds);
    /// # std::fs::remove_dir_all(folder).ok();
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a name with characters other than letters,
    /// digits, `_` and `-`; [`Error::Content`](crate::Error::Content) if the file exists and does
    /// not contain claims; [`Error::Io`](crate::Error::Io) if it cannot be read or written.
    pub fn state(&self) -> Result<Claim> {
        check_name("a claim", &self.claim.name)?;
        if let Some(figure) = &self.claim.figure {
            check_name("a claim's figure", figure)?;
        }
        let claim = self.decided();
        let entry = claim.json();
        stored::change(&self.file, |claims| {
            match claims.iter_mut().find(|c| c["name"] == entry["name"]) {
                Some(old) => *old = entry,
                None => claims.push(entry),
            }
        })?;
        let mut stated = self.stated.lock().unwrap_or_else(|p| p.into_inner());
        stated.insert(claim.name.clone());
        Ok(claim)
    }
}
