//! [`Cell`], what is read from the manifest that evcxr writes for a cell.

use super::Result;
use super::answers::read;
use std::collections::BTreeMap;
use std::path::Path;

/// The parts of a cell's manifest, written by evcxr, that are needed here.
pub(super) struct Cell {
    pub(super) name: String,
    pub(super) optimisation: String,
    /// Crates and their specifications, as in `[dependencies]`, in alphabetical order.
    pub(super) dependencies: BTreeMap<String, toml::Value>,
}

impl Cell {
    pub(super) fn read(manifest: &Path) -> Result<Self> {
        let mut table = read(manifest)?
            .parse::<toml::Table>()
            .map_err(|e| format!("{}: {e}", manifest.display()))?;
        let name = table
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(toml::Value::as_str)
            .unwrap_or("ctx")
            .to_owned();
        let level = table
            .get("profile")
            .and_then(toml::Value::as_table)
            .into_iter()
            .flat_map(|profiles| profiles.values())
            .find_map(|profile| profile.get("opt-level"));
        let optimisation = match level {
            None => "2".into(),
            Some(toml::Value::String(level)) => level.clone(),
            Some(level) => level.to_string(),
        };
        let dependencies = match table.remove("dependencies") {
            Some(toml::Value::Table(crates)) => crates.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        Ok(Cell {
            name,
            optimisation,
            dependencies,
        })
    }
}
