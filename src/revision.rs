//! Revisions of the code that decides what a training produces and what a study measures. Trained
//! networks are reused only if the revisions of the code that trains are the same; see
//! [`Store::slot`](crate::train::Store::slot). A study is current only if all revisions are the
//! same; see [`Study`](crate::notebook::Study).
//!
//! `revisions.json` has a number for each part of the code, and a hash of the part's code without
//! comments and tests. A part is a folder; `train` is `src/train` and `src/recipes`. The part
//! `dependencies` has the versions of other crates that decide numbers. A test compares the hashes
//! with the sources, and the versions with `Cargo.lock`. After a change that can alter results, the
//! number is raised; after any other change, only the hash or the version is renewed.
//!
//! So a changed loss trains stored networks again if the revision of `loss` is raised, which the
//! failing test asks for. Two things are not trained again: the shipped weights, which are found by
//! their configuration alone ([`pretrained`](crate::train::pretrained), `invariances retrain` trains
//! them), and networks whose loss is written in a notebook cell. Put what decides such a loss into
//! the configuration of its [`Store::slot`](crate::train::Store::slot).

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = include_str!("revisions.json");

/// The part for other crates. Networks were stored before this part existed. They have its first
/// revision, so the first revision is not stated: their keys stay valid.
const DEPENDENCIES: &str = "dependencies";

#[derive(Deserialize)]
struct Part {
    revision: u32,
    /// Whether trained weights depend on this part. If not, only what is measured does.
    #[serde(default = "always")]
    trains: bool,
    /// The versions of other crates, by name.
    #[serde(default)]
    versions: BTreeMap<String, String>,
}

fn always() -> bool {
    true
}

/// Returns the revision of each part on which trained weights depend: `autoencoder 1,
/// backbone 1, …`. The revision of the dependencies is stated if it is larger than 1.
///
/// ```
/// assert!(invariances::revision::code().contains("flow 1"));
/// ```
pub fn code() -> String {
    code_of(TABLE)
}

/// Returns the revision of each part, as [`code`] does, including the parts on which only
/// measured values depend: `autoencoder 1, …, metric 1, …`.
///
/// ```
/// assert!(invariances::revision::all().contains("metric"));
/// ```
pub fn all() -> String {
    all_of(TABLE)
}

/// Returns the versions of the crates that decide numbers, by name.
///
/// ```
/// assert!(invariances::revision::dependencies().contains_key("candle-core"));
/// ```
pub fn dependencies() -> BTreeMap<String, String> {
    let dependencies = parts(TABLE).remove(DEPENDENCIES);
    dependencies.map(|p| p.versions).unwrap_or_default()
}

/// Lists the parts whose revisions differ between two texts of [`code`] or two texts of [`all`],
/// for example `flow 1 → 2`. A part that is missing in a text has its first revision, 1. So an
/// empty text has the first revision of every part.
///
/// ```
/// use invariances::revision::changes;
/// assert_eq!(changes("flow 1, ops 3", "flow 2, ops 3, train 1"), ["flow 1 → 2"]);
/// ```
pub fn changes(before: &str, now: &str) -> Vec<String> {
    let (before, now) = (stated(before), stated(now));
    let names: BTreeSet<&str> = before.keys().chain(now.keys()).copied().collect();
    let mut changes = Vec::new();
    for name in names {
        let old = before.get(name).copied().unwrap_or(1);
        let new = now.get(name).copied().unwrap_or(1);
        if old != new {
            changes.push(format!("{name} {old} → {new}"));
        }
    }
    changes
}

/// Same as [`code`], for the table in `table`.
pub(crate) fn code_of(table: &str) -> String {
    text(table, false)
}

/// Same as [`all`], for the table in `table`.
pub(crate) fn all_of(table: &str) -> String {
    text(table, true)
}

fn parts(table: &str) -> BTreeMap<String, Part> {
    serde_json::from_str(table).unwrap_or_default()
}

fn text(table: &str, with_measuring: bool) -> String {
    let mut each = Vec::new();
    for (name, part) in parts(table) {
        let is_stated = name != DEPENDENCIES || part.revision > 1;
        if is_stated && (part.trains || with_measuring) {
            each.push(format!("{name} {}", part.revision));
        }
    }
    each.join(", ")
}

fn stated(text: &str) -> BTreeMap<&str, u32> {
    let each = text.split(", ").filter_map(|part| {
        let (name, revision) = part.rsplit_once(' ')?;
        Some((name, revision.parse().ok()?))
    });
    each.collect()
}

/// Returns the table with the revision of one part raised.
#[cfg(test)]
pub(crate) fn raised(part: &str) -> String {
    let mut table: serde_json::Value = serde_json::from_str(TABLE).unwrap_or_default();
    let revision = table[part]["revision"].as_u64().unwrap_or_default();
    table[part]["revision"] = (revision + 1).into();
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A raised revision of any part is stated and listed as a change. The parts that only
    /// measure are not part of the key of trained networks.
    #[test]
    fn raised_revisions_are_listed() {
        assert_eq!(changes(&code(), &code()), Vec::<String>::new());
        assert_eq!(changes("", "flow 1, ops 1"), Vec::<String>::new());
        for part in parts(TABLE).keys() {
            let table = raised(part);
            let found = changes(&all(), &all_of(&table));
            assert!(
                found.len() == 1 && found[0].starts_with(&format!("{part} ")),
                "{found:?}"
            );
            let trains = !["metric", "subject"].contains(&part.as_str());
            assert_eq!(code() != code_of(&table), trains, "{part}");
        }
    }

    /// The keys of networks that were stored before the part `dependencies` existed stay valid.
    #[test]
    fn the_first_revision_of_the_dependencies_is_not_stated() {
        let first = "{\"dependencies\": {\"revision\": 1}, \"flow\": {\"revision\": 4}}";
        assert_eq!(code_of(first), "flow 4");
        let second = first.replace("revision\": 1", "revision\": 2");
        assert_eq!(code_of(&second), "dependencies 2, flow 4");
        assert_eq!(changes("flow 4", &code_of(&second)), ["dependencies 1 → 2"]);
    }
}
