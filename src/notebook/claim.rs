//! Claims of a notebook: a statement, the measured value, what was expected of it, and the verdict.
//!
//! A cell states a claim with [`Lab::claim`](super::Lab::claim) and an expectation such as
//! [`ClaimBuilder::at_least`](super::ClaimBuilder::at_least). The difference between the value and
//! what is expected ([`Measured::minus`](super::Measured::minus)) decides it by
//! [`Verdict::decide`]. [`ClaimBuilder::state`](super::ClaimBuilder::state) saves the result in
//! `claims/<notebook>.json`. There the notebook's last cell, [`Lab::study`](super::Lab::study),
//! corrects the verdicts of all claims together by Holm's method, and
//! `src/bin/invariances/gallery.rs` makes the page of a run from the file. A claim that fails is
//! shown as such; it does not stop the notebook, and `invariances run` does not fail.
//! [`Study`](super::Study) has the same claims measured over several seeds.

use super::format::with_interval;
use super::{Compared, Counts, Difference, Expected, Scale, Verdict, with_history};
use crate::figure::{Display, Table, escape};
use serde_json::{Value, json};
use std::fmt;

/// The header of the tables of claims. A cell knows its own claims only, so its verdicts are those
/// of each claim alone.
const HEADER: [&str; 5] = [
    "claim",
    "measured",
    "expected",
    "difference",
    "verdict, alone",
];

/// A statement of a notebook, with the measured value that supports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The name of the notebook.
    pub notebook: String,
    /// The name of the claim.
    pub name: String,
    /// The sentence that is shown to the reader.
    pub statement: String,
    /// The name of the figure that shows it, as given to [`Lab::figure`](super::Lab::figure).
    pub figure: Option<String>,
    /// The measured value.
    pub value: f64,
    /// The unit of the value; empty for a share.
    pub unit: String,
    /// The uncertainty interval of the value.
    pub interval: Option<(f64, f64)>,
    /// The expected value.
    pub expected: Expected,
    /// Since when this is expected, and what was expected before; `None` if it never changed.
    pub history: Option<String>,
    /// The other measured value of [`Expected::Above`] and [`Expected::Below`].
    pub other: Option<Compared>,
    /// The value minus the other one, the threshold, or the nearest end of a range; `None` without
    /// an expectation.
    pub difference: Option<Difference>,
    /// The two-sided p-value of H0: the difference is 0. `None` without an interval or an
    /// expectation.
    pub p: Option<f64>,
    /// The verdict on this claim alone, at a level of 5 %.
    pub verdict: Verdict,
    /// The scale at which it was measured.
    pub scale: Scale,
    /// The seed with which it was measured.
    pub seed: u64,
    /// The seed of the network under study.
    pub network_seed: u64,
    /// The crate's version.
    pub version: String,
}

impl Claim {
    /// Whether the claim holds, taken alone: the difference is significant at 5 % and as expected.
    /// It is false for a value that is undecided, only reported, or measured at smoke scale.
    pub fn holds(&self) -> bool {
        self.verdict == Verdict::Holds
    }

    /// The JSON object that is stored in `claims/<notebook>.json`.
    pub(super) fn json(&self) -> Value {
        // JSON has no NaN and no infinity. They become null, and `expected` states the value
        // found.
        let number = |v: f64| if v.is_finite() { json!(v) } else { Value::Null };
        let low = |ends: Option<(f64, f64)>| ends.map_or(Value::Null, |e| number(e.0));
        let high = |ends: Option<(f64, f64)>| ends.map_or(Value::Null, |e| number(e.1));
        let mut expected = self.expectation();
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
            "low": low(self.interval),
            "high": high(self.interval),
            "expected": expected,
            "history": self.history,
            "direction": self.expected.direction(),
            "other": self.other.as_ref().map(|other| json!({
                "name": other.name,
                "value": number(other.value),
                "low": low(other.interval),
                "high": high(other.interval),
            })),
            "difference": self.difference.map(|difference| json!({
                "value": number(difference.value),
                "low": low(difference.interval),
                "high": high(difference.interval),
            })),
            "p": self.p.map_or(Value::Null, number),
            "p_holm": Value::Null,
            "verdict": self.verdict,
            "holds": self.holds(),
            "scale": self.scale.name(),
            "seed": self.seed,
            "network_seed": self.network_seed,
            "version": self.version,
        })
    }

    /// Shows the claim in a notebook. The kernel calls it if the value is a cell's last
    /// expression.
    pub fn evcxr_display(&self) {
        Claims::new([self]).evcxr_display();
    }

    fn measured(&self) -> String {
        let value = with_interval(self.value, self.interval);
        match self.unit.is_empty() {
            true => value,
            false => format!("{value} {}", self.unit),
        }
    }

    /// What is expected, with the other value and its interval.
    fn expectation(&self) -> String {
        match &self.other {
            Some(other) => self
                .expected
                .text(&with_interval(other.value, other.interval)),
            None => self.expected.to_string(),
        }
    }

    fn expectation_and_history(&self) -> String {
        with_history(&self.expectation(), self.history.as_deref())
    }

    fn difference_text(&self) -> String {
        self.difference
            .map_or("–".into(), |d| with_interval(d.value, d.interval))
    }

    /// The mark of the verdict, and why there is none if there is no p-value.
    fn verdict_text(&self) -> String {
        match (self.verdict, self.p) {
            (Verdict::Undecided, None) if !self.value.is_finite() => "? no number".into(),
            (Verdict::Undecided, None) => "? no interval".into(),
            (verdict, _) => verdict.mark().into(),
        }
    }

    fn row(&self) -> [String; 5] {
        [
            self.statement.clone(),
            self.measured(),
            self.expectation_and_history(),
            self.difference_text(),
            self.verdict_text(),
        ]
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, measured) = (self.verdict.mark(), self.measured());
        write!(f, "{mark} {}: {measured}, ", self.statement)?;
        if self.expected == Expected::Reported {
            return write!(f, "reported");
        }
        write!(f, "expected {}", self.expectation_and_history())?;
        match &self.other {
            Some(_) => write!(f, ", difference {}", self.difference_text()),
            None => Ok(()),
        }
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

    /// Whether at least one of them holds and none fails, each taken alone. Claims that are
    /// undecided, only reported, or measured at smoke scale do not count; [`Claims::counts`] has
    /// their number.
    pub fn hold(&self) -> bool {
        let counts = self.counts();
        counts.hold > 0 && counts.fail == 0
    }

    /// The number of claims that hold, fail and are undecided, each taken alone.
    pub fn counts(&self) -> Counts {
        self.0.iter().map(|claim| claim.verdict).collect()
    }

    /// A list of all claims.
    pub fn list(&self) -> Vec<Claim> {
        self.0.clone()
    }

    /// The table as HTML.
    pub fn html(&self) -> String {
        let left = " style=\"text-align:left\"";
        let header: String = HEADER
            .iter()
            .map(|title| format!("<th{left}>{title}</th>"))
            .collect();
        let mut html = format!("<table><thead><tr>{header}</tr></thead><tbody>");
        for claim in &self.0 {
            let colour = match claim.verdict {
                Verdict::Holds => "#00794f",
                Verdict::Fails => "#b34700",
                Verdict::Undecided => "#7a5c00",
                Verdict::Reported | Verdict::Smoke => "#59606a",
            };
            let [statement, measured, expected, difference, verdict] =
                claim.row().map(|cell| escape(&cell));
            html.push_str(&format!(
                "<tr><td{left}>{statement}</td><td{left}><b>{measured}</b></td>\
                 <td{left}>{expected}</td><td{left}>{difference}</td>\
                 <td style=\"text-align:left;color:{colour}\"><b>{verdict}</b></td></tr>",
            ));
        }
        html.push_str("</tbody></table>");
        html
    }

    /// The claims as a notebook shows them: as HTML, Markdown and plain text. An export to LaTeX
    /// uses the Markdown, whose columns have the width of the page.
    pub fn display(&self) -> Display {
        let mut table = Table::new(HEADER);
        for claim in &self.0 {
            table = table.row(claim.row());
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
