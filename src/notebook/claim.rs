//! Claims of a notebook: a statement, the measured value, and what was expected of it.
//!
//! A cell states a claim with [`Lab::claim`] and an expectation such as [`ClaimBuilder::at_least`].
//! [`Expected::holds`] compares the value with it. [`ClaimBuilder::state`] saves the result in
//! `claims/<notebook>.json`, from which `src/bin/invariances/gallery.rs` makes the page of a run. A
//! claim that does not hold is shown as such; it does not stop the notebook, and `invariances run`
//! does not fail. [`Study`](super::Study) has the same claims measured over several seeds.

use super::lab::check_name;
use super::{Lab, Scale};
use crate::figure::{Display, Table, escape};
use crate::metric::Estimate;
use crate::{Error, Result};
use invariances_core::files::write_atomic;
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;

/// The value that was expected before measuring.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// At least this value.
    AtLeast(f64),
    /// At most this value.
    AtMost(f64),
    /// Between the first and the second value, both included.
    Between(f64, f64),
    /// More than another measured value, given by its name and value.
    Above(String, f64),
    /// Less than another measured value, given by its name and value.
    Below(String, f64),
    /// No expectation: the value is reported. It holds if it is finite.
    Reported,
}

impl Expected {
    /// Whether a value is as expected; NaN never is.
    pub fn holds(&self, value: f64) -> bool {
        match self {
            Self::AtLeast(min) => value >= *min,
            Self::AtMost(max) => value <= *max,
            Self::Between(low, high) => value >= *low && value <= *high,
            Self::Above(_, other) => value > *other,
            Self::Below(_, other) => value < *other,
            Self::Reported => value.is_finite(),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(v) => write!(f, "≥ {}", short(*v)),
            Self::AtMost(v) => write!(f, "≤ {}", short(*v)),
            Self::Between(a, b) => write!(f, "{} to {}", short(*a), short(*b)),
            Self::Above(name, v) => write!(f, "> {name} ({})", short(*v)),
            Self::Below(name, v) => write!(f, "< {name} ({})", short(*v)),
            Self::Reported => write!(f, "reported"),
        }
    }
}

/// A statement of a notebook, with the measured value that supports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The name of the notebook.
    pub notebook: String,
    /// The name of the claim.
    pub name: String,
    /// The sentence that is shown to the reader.
    pub statement: String,
    /// The name of the figure that shows it, as given to [`Lab::figure`].
    pub figure: Option<String>,
    /// The measured value.
    pub value: f64,
    /// The unit of the value; empty for a share.
    pub unit: String,
    /// The uncertainty interval of the value.
    pub interval: Option<(f64, f64)>,
    /// The expected value.
    pub expected: Expected,
    /// The scale at which it was measured.
    pub scale: Scale,
    /// The seed with which it was measured.
    pub seed: u64,
    /// The crate's version.
    pub version: String,
}

impl Claim {
    /// Whether the value is as expected.
    pub fn holds(&self) -> bool {
        self.expected.holds(self.value)
    }

    /// The JSON object that is stored in `claims/<notebook>.json`.
    fn json(&self) -> Value {
        // JSON has no NaN and no infinity. They become null, and `expected` states the value
        // found.
        let number = |v: f64| if v.is_finite() { json!(v) } else { Value::Null };
        let mut expected = self.expected.to_string();
        if !self.value.is_finite() {
            expected.push_str(&format!("; the value is not a number ({})", self.value));
        }
        json!({
            "notebook": self.notebook,
            "name": self.name,
            "statement": self.statement,
            "figure": self.figure.as_ref().map(|f| format!("{}-{f}", self.notebook)),
            "value": number(self.value),
            "unit": self.unit,
            "low": self.interval.map_or(Value::Null, |i| number(i.0)),
            "high": self.interval.map_or(Value::Null, |i| number(i.1)),
            "expected": expected,
            "holds": self.holds(),
            "scale": self.scale.name(),
            "seed": self.seed,
            "version": self.version,
        })
    }

    /// Shows the claim in a notebook. The kernel calls it if the value is a cell's last
    /// expression.
    pub fn evcxr_display(&self) {
        Claims::new([self]).evcxr_display();
    }

    fn measured(&self) -> String {
        let unit = if self.unit.is_empty() {
            String::new()
        } else {
            format!(" {}", self.unit)
        };
        match self.interval {
            Some((low, high)) => format!(
                "{} [{}, {}]{unit}",
                short(self.value),
                short(low),
                short(high)
            ),
            None => format!("{}{unit}", short(self.value)),
        }
    }

    /// The mark after the comparison. At smoke scale hardly anything is trained, so a value only
    /// shows that the code runs.
    fn verdict(&self) -> &'static str {
        match (self.scale, self.holds()) {
            (Scale::Smoke, _) => "smoke: not meaningful",
            (_, true) => "✓",
            (_, false) => "✗",
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (measured, verdict) = (self.measured(), self.verdict());
        write!(
            f,
            "{verdict} {}: {measured}, expected {}",
            self.statement, self.expected
        )
    }
}

/// Claims of one cell, shown as one table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims(Vec<Claim>);

impl Claims {
    /// Creates a table of these claims, in this order.
    pub fn new<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> Self {
        Self(claims.into_iter().cloned().collect())
    }

    /// Whether all of them hold.
    pub fn hold(&self) -> bool {
        self.0.iter().all(Claim::holds)
    }

    /// A list of all claims.
    pub fn list(&self) -> Vec<Claim> {
        self.0.clone()
    }

    /// The table as HTML.
    pub fn html(&self) -> String {
        let left = " style=\"text-align:left\"";
        let mut html = format!(
            "<table><thead><tr><th{left}>claim</th><th{left}>measured</th><th{left}>expected</th><th></th></tr></thead><tbody>"
        );
        for claim in &self.0 {
            let colour = match (claim.scale, claim.holds()) {
                (Scale::Smoke, _) => "#59606a",
                (_, true) => "#00794f",
                (_, false) => "#b34700",
            };
            html.push_str(&format!(
                "<tr><td{left}>{}</td><td{left}><b>{}</b></td><td{left}>{}</td>\
                 <td style=\"text-align:left;color:{colour}\"><b>{}</b></td></tr>",
                escape(&claim.statement),
                escape(&claim.measured()),
                escape(&claim.expected.to_string()),
                claim.verdict()
            ));
        }
        html.push_str("</tbody></table>");
        html
    }

    /// The claims as a notebook shows them: as HTML, Markdown and plain text. An export to LaTeX
    /// uses the Markdown, whose columns have the width of the page.
    pub fn display(&self) -> Display {
        let mut table = Table::new(["claim", "measured", "expected", "holds"]);
        for claim in &self.0 {
            table = table.row([
                claim.statement.clone(),
                claim.measured(),
                claim.expected.to_string(),
                claim.verdict().to_string(),
            ]);
        }
        Display::new(self)
            .html(self.html())
            .markdown(table.markdown())
    }

    /// Shows the claims in a notebook. The kernel calls it if the value is a cell's last
    /// expression.
    pub fn evcxr_display(&self) {
        self.display().show();
    }
}

impl fmt::Display for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|claim| writeln!(f, "{claim}"))
    }
}

/// A claim under construction; [`ClaimBuilder::state`] saves it.
#[derive(Clone, Debug)]
pub struct ClaimBuilder {
    claim: Claim,
    file: PathBuf,
}

impl ClaimBuilder {
    pub(super) fn new(lab: &Lab, name: &str, value: Estimate) -> Self {
        let interval = (value.n > 1).then_some((value.low, value.high));
        Self {
            claim: Claim {
                notebook: lab.notebook().into(),
                name: name.into(),
                statement: name.replace(['-', '_'], " "),
                figure: None,
                value: value.mean,
                unit: String::new(),
                interval,
                expected: Expected::Reported,
                scale: lab.scale(),
                seed: lab.seed(),
                version: crate::VERSION.into(),
            },
            file: lab
                .out()
                .join("claims")
                .join(format!("{}.json", lab.notebook())),
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

    /// Sets the uncertainty interval, for a value that is not an [`Estimate`].
    pub fn interval(mut self, low: f64, high: f64) -> Self {
        self.claim.interval = Some((low, high));
        self
    }

    /// Sets the expectation.
    pub fn expect(mut self, expected: Expected) -> Self {
        self.claim.expected = expected;
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

    /// Expects a value in this range, both ends included.
    pub fn between(self, low: f64, high: f64) -> Self {
        self.expect(Expected::Between(low, high))
    }

    /// Expects more than another measured value.
    pub fn above(self, name: &str, value: impl Into<Estimate>) -> Self {
        self.expect(Expected::Above(name.into(), value.into().mean))
    }

    /// Expects less than another measured value.
    pub fn below(self, name: &str, value: impl Into<Estimate>) -> Self {
        self.expect(Expected::Below(name.into(), value.into().mean))
    }

    /// Saves the claim in `claims/<notebook>.json` in the output folder, and returns it, so that
    /// it is shown if it is a cell's last expression. An existing claim with the same name is
    /// replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name with characters other than letters, digits, `_` and `-`;
    /// [`Error::Content`] if the file exists and does not contain claims; [`Error::Io`] if it
    /// cannot be read or written.
    pub fn state(&self) -> Result<Claim> {
        check_name("a claim", &self.claim.name)?;
        if let Some(figure) = &self.claim.figure {
            check_name("a claim's figure", figure)?;
        }
        // Without this lock, one of two claims that are saved at the same time could be lost.
        static WRITING: Mutex<()> = Mutex::new(());
        let _writing = WRITING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut claims = self.read()?;
        let entry = self.claim.json();
        match claims.iter_mut().find(|c| c["name"] == entry["name"]) {
            Some(old) => *old = entry,
            None => claims.push(entry),
        }
        let mut text = format!("{:#}", Value::Array(claims));
        text.push('\n');
        write_atomic(&self.file, text.as_bytes())?;
        Ok(self.claim.clone())
    }

    fn read(&self) -> Result<Vec<Value>> {
        let text = match std::fs::read(&self.file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&self.file, e)),
        };
        let claims: Vec<Value> = serde_json::from_slice(&text).map_err(|e| {
            Error::content(
                &self.file,
                format!("expected a list of claims ({e}): move or delete this file"),
            )
        })?;
        match claims.iter().find(|c| !c["name"].is_string()) {
            Some(_) => Err(Error::content(
                &self.file,
                "expected a name in every claim: move or delete this file",
            )),
            None => Ok(claims),
        }
    }
}

/// Formats a value briefly: three decimals below 10, one decimal below 1000, none above. Values
/// outside of 10⁻³ to 10⁶ are in scientific notation.
fn short(v: f64) -> String {
    let text = match v.abs() {
        a if !a.is_finite() => return v.to_string(),
        0.0 => "0".into(),
        a if !(1e-3..1e6).contains(&a) => format!("{v:.2e}"),
        a if a < 10.0 => trimmed(format!("{v:.3}")),
        a if a < 1000.0 => trimmed(format!("{v:.1}")),
        _ => format!("{v:.0}"),
    };
    text.replacen('-', "−", usize::from(text.starts_with('-')))
}

fn trimmed(text: String) -> String {
    text.trim_end_matches('0').trim_end_matches('.').into()
}
