//! Revisions of the code that decides what a training produces. Trained networks are reused only if
//! these are the same; see [`Store::slot`](crate::train::Store::slot).
//!
//! `revisions.json` has a number for each part of the code, and a hash of the part's code without
//! comments and tests. A part is a folder; `train` is `src/train` and `src/recipes`. A test compares the hash with the sources. After a change that can alter
//! results, the number is raised; after any other change, only the hash is renewed.

use serde::Deserialize;
use std::collections::BTreeMap;

const TABLE: &str = include_str!("revisions.json");

#[derive(Deserialize)]
struct Part {
    revision: u32,
}

/// Returns the revision of each part: `autoencoder 1, backbone 1, …`.
///
/// ```
/// assert!(invariances::revision::code().contains("flow 1"));
/// ```
pub fn code() -> String {
    let parts: BTreeMap<String, Part> = serde_json::from_str(TABLE).unwrap_or_default();
    let each = parts
        .iter()
        .map(|(name, p)| format!("{name} {}", p.revision));
    each.collect::<Vec<_>>().join(", ")
}
