//! The file `claims/<notebook>.json` of a notebook's claims, and Holm's correction over them.

use super::{Direction, Lab, Verdict};
use crate::metric::holm;
use crate::{Error, Result};
use invariances_core::files::write_atomic;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Without this lock, one of two claims that are saved at the same time could be lost.
static WRITING: Mutex<()> = Mutex::new(());

/// The path of a notebook's claims, or of another file next to them.
pub(super) fn path(lab: &Lab, extension: &str) -> PathBuf {
    let folder = lab.out().join("claims");
    folder.join(format!("{}.{extension}", lab.notebook()))
}

/// Changes the claims of a file and returns them. A file that stays the same is not written.
///
/// # Errors
/// [`Error::Content`] if the file does not contain claims; [`Error::Io`] if it cannot be read or
/// written.
pub(super) fn change(file: &Path, change: impl FnOnce(&mut Vec<Value>)) -> Result<Vec<Value>> {
    let _writing = WRITING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = read(file)?;
    let mut claims = before.clone();
    change(&mut claims);
    if claims != before {
        let mut text = format!("{:#}", json!(claims));
        text.push('\n');
        write_atomic(file, text.as_bytes())?;
    }
    Ok(claims)
}

fn read(file: &Path) -> Result<Vec<Value>> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(file, e)),
    };
    let claims: Vec<Value> = serde_json::from_slice(&text).map_err(|e| {
        Error::content(
            file,
            format!("expected a list of claims ({e}): move or delete this file"),
        )
    })?;
    match claims.iter().find(|c| !c["name"].is_string()) {
        Some(_) => Err(Error::content(
            file,
            "expected a name in every claim: move or delete this file",
        )),
        None => Ok(claims),
    }
}

/// The stored verdict of a claim. Claims of earlier versions have none.
pub(super) fn verdict(claim: &Value) -> Option<Verdict> {
    serde_json::from_value(claim["verdict"].clone()).ok()
}

/// The stored direction of a claim, if it has an expectation.
pub(super) fn direction(claim: &Value) -> Option<Direction> {
    serde_json::from_value(claim["direction"].clone()).ok()
}

/// Corrects the verdicts in a notebook's file of claims by Holm's method, as its last cell does
/// ([`Lab::study`]). A file that does not exist is not made.
///
/// # Errors
/// [`Error::Content`] if the file does not contain claims; [`Error::Io`] if it cannot be read or
/// written.
pub fn correct_claims(file: &Path) -> Result<()> {
    change(file, |claims| correct(claims)).map(|_| ())
}

/// Corrects the p-values of a notebook's claims by Holm's method, and decides the claims again by
/// the corrected ones. Claims without a p-value stay as they are.
pub(super) fn correct(claims: &mut [Value]) {
    let p_values: Vec<f64> = claims
        .iter()
        .map(|claim| match direction(claim) {
            Some(_) => claim["p"].as_f64().unwrap_or(f64::NAN),
            None => f64::NAN,
        })
        .collect();
    for (claim, p) in claims.iter_mut().zip(holm(&p_values)) {
        let numbers = (
            direction(claim),
            claim["value"].as_f64(),
            claim["difference"]["value"].as_f64(),
        );
        let (Some(direction), Some(value), Some(difference)) = numbers else {
            continue;
        };
        let Some(object) = claim.as_object_mut().filter(|_| p.is_finite()) else {
            continue;
        };
        let verdict = match object.get("verdict") == Some(&json!(Verdict::Smoke)) {
            true => Verdict::Smoke,
            false => Verdict::decide(Some(p), direction.is_met(value, difference)),
        };
        object.insert("p_holm".into(), json!(p));
        object.insert("verdict".into(), json!(verdict));
        object.insert("holds".into(), json!(verdict == Verdict::Holds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, p: f64, difference: f64) -> Value {
        json!({
            "name": name, "value": 0.5, "direction": "above", "difference": {"value": difference},
            "p": p, "p_holm": null, "holds": p <= 0.05,
            "verdict": Verdict::decide(Some(p), difference > 0.0),
        })
    }

    /// Of p-values 0.01, 0.02 and 0.04, Holm's are 0.03, 0.04 and 0.04; of 0.01, 0.03 and 0.04
    /// they are 0.03, 0.06 and 0.06.
    #[test]
    fn borderline_claims_are_undecided_among_others() {
        let reported = json!({"name": "r", "value": 0.5, "verdict": "reported", "holds": false});
        let older = json!({"name": "o", "value": 0.5, "expected": "≥ 0.4", "holds": true});
        let smoke = json!({
            "name": "s", "value": 0.5, "direction": "above", "difference": {"value": 0.1},
            "p": 0.9, "verdict": "smoke", "holds": false,
        });
        let mut claims = [
            claim("a", 0.01, 0.1),
            reported.clone(),
            claim("b", 0.03, 0.1),
            older.clone(),
            claim("c", 0.04, -0.1),
        ];
        correct(&mut claims);
        let first = claims.clone();
        let found = |i: usize| (verdict(&claims[i]), claims[i]["holds"].as_bool());
        assert_eq!(found(0), (Some(Verdict::Holds), Some(true)));
        assert_eq!(found(2), (Some(Verdict::Undecided), Some(false)));
        assert_eq!(found(4), (Some(Verdict::Undecided), Some(false)));
        assert_eq!((&claims[1], &claims[3]), (&reported, &older));
        let p_holm = claims[2]["p_holm"].as_f64().unwrap_or_default();
        assert!((p_holm - 0.06).abs() < 1e-12, "{p_holm}");
        // The p-values of each claim alone stay, so a second correction changes nothing.
        assert_eq!(claims[2]["p"], 0.03);
        correct(&mut claims);
        assert_eq!(claims, first);

        let mut decided = [claim("a", 0.01, 0.1), claim("c", 0.02, -0.1), smoke];
        correct(&mut decided);
        let all: Vec<_> = decided.iter().filter_map(verdict).collect();
        assert_eq!(all, [Verdict::Holds, Verdict::Fails, Verdict::Smoke]);
    }
}
