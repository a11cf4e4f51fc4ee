//! [`Study`], a notebook's claims measured over several seeds. `comparison.rs` shows it next to the
//! results of a run.

use crate::{Error, Result, revision};
use invariances_core::files::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A notebook's claims, measured with several seeds by `invariances study`. It is a small table
/// in `data/studies/`, and [`Lab::study`](super::Lab::study) shows it next to the results
/// of the current run.
///
/// A study is current if the settings, the notebook's code cells, the revision of the code and the
/// configuration, which contains the network under study, are those of the current run. Otherwise
/// it is shown as out of date, with the reasons ([`Study::outdated`]).
///
/// ```
/// use invariances::notebook::Study;
/// # let folder = std::env::temp_dir().join("invariances-doc-study");
/// let study = Study { notebook: "07_training".into(), scale: "quick".into(), ..Default::default() };
/// study.keep(&folder)?;
/// assert_eq!(Study::all(&folder, "07_training")?, [study]);
/// # std::fs::remove_dir_all(folder).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// The notebook's name.
    pub notebook: String,
    /// The values set by `--set`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// The scale.
    pub scale: String,
    /// The hash of the configuration that the notebook gave to [`Lab::study`](super::Lab::study).
    pub configuration: String,
    /// The crate's version.
    pub version: String,
    /// A hash of everything that decides the values and is known before the notebook runs: its
    /// code cells, the revision of the code, the settings and the shipped weights. If it is
    /// unchanged, a seed need not be measured again. If only the shipped weights or the paths of
    /// the user's images differ, the configuration decides.
    #[serde(default)]
    pub key: String,
    /// The hash of the notebook's code cells ([`Study::cells_of`]). Empty if it is not known.
    #[serde(default)]
    pub cells: String,
    /// The revisions of the code that measured the seeds ([`revision::all`]). Empty means the first
    /// revision of every part.
    #[serde(default)]
    pub code: String,
    /// The seeds, in the order of the values.
    pub seeds: Vec<u64>,
    /// The device on which each seed was measured, as [`device_name`](crate::ops::device_name) gives it.
    /// Results of another device can differ in the last digits.
    #[serde(default)]
    pub devices: Vec<String>,
    /// The duration of each seed, in minutes.
    pub minutes: Vec<f64>,
    /// The measured claims.
    pub claims: Vec<Repeated>,
}

/// What decides the values of a [`Study`], other than scale, settings and seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conditions {
    /// The hash of the configuration that the notebook gave to [`Lab::study`](super::Lab::study).
    /// It contains the network under study. Empty if it is not known.
    pub configuration: String,
    /// The hash of the notebook's code cells ([`Study::cells_of`]). Empty if it is not known.
    pub cells: String,
    /// The revisions of the code ([`revision::all`]).
    pub code: String,
    /// The device of the networks, as [`device_name`](crate::ops::device_name) gives it.
    pub device: String,
}

/// The results of one seed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeedResult {
    /// The seed.
    pub seed: u64,
    /// The duration in minutes.
    pub minutes: f64,
    /// The conditions under which it was measured.
    pub conditions: Conditions,
    /// The claims as saved by the notebook (`claims/<notebook>.json`).
    pub claims: Vec<Value>,
}

/// A claim's values over the seeds of a [`Study`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Repeated {
    /// The claim's name.
    pub name: String,
    /// Its statement.
    pub statement: String,
    /// The expectation.
    pub expected: String,
    /// The value for each seed; `None` if it was not finite or not stated.
    pub values: Vec<Option<f64>>,
    /// Whether the value was as expected, for each seed.
    pub holds: Vec<bool>,
}

impl Study {
    /// Reads the studies of a notebook from a folder, one for each scale and choice of settings.
    /// Returns none if there is no file.
    ///
    /// # Errors
    /// [`Error::Content`] if the file does not contain studies.
    pub fn all(folder: &Path, notebook: &str) -> Result<Vec<Self>> {
        let path = file(folder, notebook)?;
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&path, e)),
        };
        serde_json::from_slice(&text).map_err(|e| {
            Error::content(
                &path,
                format!("expected a list of studies ({e}): move or delete this file"),
            )
        })
    }

    /// Writes the study to a folder, and replaces one with the same scale and settings.
    ///
    /// # Errors
    /// As [`Study::all`]; [`Error::Io`] if the file cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        let mut all = Self::all(folder, &self.notebook)?;
        let same = |s: &Self| s.scale == self.scale && s.settings == self.settings;
        match all.iter_mut().find(|s| same(s)) {
            Some(old) => *old = self.clone(),
            None => all.push(self.clone()),
        }
        let path = file(folder, &self.notebook)?;
        let mut text = serde_json::to_string_pretty(&all)
            .map_err(|e| Error::content(&path, format!("cannot be written: {e}")))?;
        text.push('\n');
        write_atomic(&path, text.as_bytes())
    }

    /// Returns a hash of a notebook's code cells. Empty lines, lines that are only a comment (`//`)
    /// and indentation do not count, so that explanations and layout can change.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Content`] if it is not a notebook.
    pub fn cells_of(notebook: &Path) -> Result<String> {
        let text = std::fs::read(notebook).map_err(|e| Error::io(notebook, e))?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|e| Error::content(notebook, format!("expected a notebook: {e}")))?;
        let cells = json["cells"]
            .as_array()
            .ok_or_else(|| Error::content(notebook, "expected a notebook with a list of cells"))?;
        let mut hash = blake3::Hasher::new();
        for cell in cells.iter().filter(|c| c["cell_type"] == "code") {
            let source: String = match &cell["source"] {
                Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
                other => other.as_str().unwrap_or_default().into(),
            };
            let lines = source.lines().map(str::trim);
            let lines = lines.filter(|l| !l.is_empty() && !l.starts_with("//"));
            let code = lines.collect::<Vec<_>>().join("\n");
            if !code.is_empty() {
                hash.update(&(code.len() as u64).to_le_bytes());
                hash.update(code.as_bytes());
            }
        }
        Ok(hash.finalize().to_hex()[..16].to_string())
    }

    /// Lists why this study is not one of the current conditions, or nothing if it is current.
    /// Fields that are not known on one side are not compared. The device is not a reason.
    ///
    /// ```
    /// use invariances::notebook::{Conditions, Study};
    /// let study = Study { cells: "a".into(), code: "flow 1".into(), ..Default::default() };
    /// let now = Conditions { cells: "a".into(), code: "flow 1".into(), ..Default::default() };
    /// assert!(study.outdated(&now).is_empty());
    /// let now = Conditions { code: "flow 2".into(), ..now };
    /// assert_eq!(study.outdated(&now), ["the code changed (flow 1 → 2)"]);
    /// ```
    pub fn outdated(&self, now: &Conditions) -> Vec<String> {
        let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        let mut reasons = Vec::new();
        if differ(&self.cells, &now.cells) {
            reasons.push("the notebook's code cells changed".to_string());
        }
        let changes = revision::changes(&self.code, &now.code);
        if !changes.is_empty() {
            reasons.push(format!("the code changed ({})", changes.join(", ")));
        }
        if differ(&self.configuration, &now.configuration) {
            reasons.push(format!(
                "the configuration or the network under study changed (this run has {})",
                now.configuration
            ));
        }
        reasons
    }

    /// Copies the results of one seed from another study of the same notebook. Does nothing if
    /// that study does not contain the seed.
    ///
    /// # Errors
    /// As [`Study::add`].
    pub fn take(&mut self, other: &Self, seed: u64) -> Result<()> {
        let Some(index) = other.seeds.iter().position(|s| *s == seed) else {
            return Ok(());
        };
        let claims = other.claims.iter().map(|c| {
            json!({
                "name": c.name, "statement": c.statement, "expected": c.expected,
                "value": c.values.get(index), "holds": c.holds.get(index),
            })
        });
        self.add(&SeedResult {
            seed,
            minutes: other.minutes.get(index).copied().unwrap_or_default(),
            conditions: Conditions {
                configuration: other.configuration.clone(),
                cells: other.cells.clone(),
                code: other.code.clone(),
                device: other.devices.get(index).cloned().unwrap_or_default(),
            },
            claims: claims.collect(),
        })
    }

    /// Adds the results of one seed. Earlier results of this seed are replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the seed was measured with another configuration, other code cells or
    /// another revision of the code than the existing seeds.
    pub fn add(&mut self, result: &SeedResult) -> Result<()> {
        let (seed, conditions) = (result.seed, &result.conditions);
        let is_first = self.seeds.is_empty();
        if is_first {
            self.configuration = conditions.configuration.clone();
        }
        if self.configuration != conditions.configuration {
            return Err(Error::invalid(format!(
                "seed {seed} of {} was measured with another configuration ({}) than the earlier seeds ({}): the configuration given to `lab.study` must not contain the seed",
                self.notebook, conditions.configuration, self.configuration
            )));
        }
        // The study's own cells and code are known before its first seed.
        if is_first && self.cells.is_empty() && self.code.is_empty() {
            self.cells = conditions.cells.clone();
            self.code = conditions.code.clone();
        }
        let reasons = self.outdated(conditions);
        if !reasons.is_empty() {
            return Err(Error::invalid(format!(
                "expected all seeds of {} to be measured under the same conditions, found seed {seed} under others: {}; measure the study again",
                self.notebook,
                reasons.join("; ")
            )));
        }
        let index = match self.seeds.iter().position(|s| *s == seed) {
            Some(index) => index,
            None => {
                self.seeds.push(seed);
                self.minutes.push(0.0);
                for claim in &mut self.claims {
                    claim.values.push(None);
                    claim.holds.push(false);
                }
                self.seeds.len() - 1
            }
        };
        self.minutes[index] = (result.minutes * 10.0).round() / 10.0;
        // A study of an earlier version does not name the devices.
        self.devices.resize(self.seeds.len(), String::new());
        self.devices[index] = conditions.device.clone();
        for claim in &result.claims {
            let text = |key: &str| claim[key].as_str().unwrap_or_default().to_string();
            let name = text("name");
            let known = self.claims.iter().position(|c| c.name == name);
            let known = known.unwrap_or_else(|| {
                self.claims.push(Repeated {
                    name,
                    values: vec![None; self.seeds.len()],
                    holds: vec![false; self.seeds.len()],
                    ..Repeated::default()
                });
                self.claims.len() - 1
            });
            let repeated = &mut self.claims[known];
            repeated.statement = text("statement");
            // In "> squared error (0.41)" the number belongs to one seed, so it is removed.
            let expected = text("expected");
            repeated.expected = expected.split(" (").next().unwrap_or_default().into();
            repeated.values[index] = claim["value"].as_f64();
            repeated.holds[index] = claim["holds"].as_bool().unwrap_or(false);
        }
        Ok(())
    }
}

impl Repeated {
    /// The mean and the standard deviation (with n − 1) over the seeds that have a value, or
    /// `None` if no seed has one.
    pub fn mean_and_deviation(&self) -> Option<(f64, f64)> {
        let values: Vec<f64> = self.values.iter().flatten().copied().collect();
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n;
        let square: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        Some((mean, (square / (n - 1.0).max(1.0)).sqrt()))
    }
}

fn file(folder: &Path, notebook: &str) -> Result<PathBuf> {
    super::lab::check_name("a notebook", notebook)?;
    Ok(folder.join(format!("{notebook}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, value: f64, holds: bool) -> Value {
        json!({"name": name, "statement": name, "expected": "> other (0.123)", "value": value, "holds": holds})
    }

    fn measured(seed: u64, minutes: f64, configuration: &str, claims: &[Value]) -> SeedResult {
        SeedResult {
            seed,
            minutes,
            conditions: Conditions {
                configuration: configuration.into(),
                device: "cpu".into(),
                ..Conditions::default()
            },
            claims: claims.to_vec(),
        }
    }

    /// Comments, layout, outputs and text cells are not part of the hash of the cells; code is.
    #[test]
    fn comments_and_layout_of_cells_do_not_count() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let path = folder.path().join("n.ipynb");
        let cells = |source: Value| -> Result<String> {
            let code = json!({"cell_type": "code", "source": source, "outputs": []});
            let text = json!({"cell_type": "markdown", "source": source});
            let notebook = json!({"cells": [text, code]}).to_string();
            std::fs::write(&path, notebook).map_err(|e| Error::io(&path, e))?;
            Study::cells_of(&path)
        };
        let first = cells(json!("let a = 1;\nf(a)"))?;
        let lines = json!(["// Why.\n", "let a = 1;  \n", "\n", "    f(a)"]);
        assert_eq!(cells(lines)?, first);
        assert_ne!(cells(json!("let a = 2;\nf(a)"))?, first);
        std::fs::write(&path, "{}").map_err(|e| Error::io(&path, e))?;
        assert!(Study::cells_of(&path).is_err());
        Ok(())
    }

    #[test]
    fn seeds_are_added_replaced_and_kept_apart_by_configuration() -> Result<()> {
        let mut study = Study {
            notebook: "n".into(),
            scale: "quick".into(),
            ..Study::default()
        };
        study.add(&measured(0, 1.0, "abc", &[claim("a", 1.0, true)]))?;
        let both = [claim("a", 3.0, false), claim("b", 5.0, true)];
        study.add(&measured(1, 2.0, "abc", &both))?;
        let other = study.add(&measured(2, 1.0, "xyz", &[]));
        let text = other.unwrap_err().to_string();
        assert!(text.contains("another configuration"), "{text}");
        study.add(&measured(0, 1.5, "abc", &[claim("a", 2.0, true)]))?;
        assert_eq!(study.seeds, [0, 1]);
        assert_eq!(study.minutes, [1.5, 2.0]);
        assert_eq!(study.devices, ["cpu", "cpu"]);
        assert_eq!(study.claims[0].values, [Some(2.0), Some(3.0)]);
        assert_eq!(study.claims[0].holds, [true, false]);
        assert_eq!(study.claims[0].expected, "> other");
        assert_eq!(study.claims[1].values, [None, Some(5.0)]);
        let (mean, deviation) = study.claims[0].mean_and_deviation().unwrap_or_default();
        assert!((mean - 2.5).abs() < 1e-12 && (deviation - 0.5f64.sqrt()).abs() < 1e-12);

        // Copying one seed gives the same results; a seed that does not exist changes nothing.
        let mut taken = Study {
            notebook: "n".into(),
            scale: "quick".into(),
            ..Study::default()
        };
        taken.take(&study, 1)?;
        taken.take(&study, 7)?;
        taken.take(&study, 0)?;
        assert_eq!(
            (&taken.seeds[..], &taken.minutes[..]),
            (&[1, 0][..], &[2.0, 1.5][..])
        );
        assert_eq!(taken.claims[0].values, [Some(3.0), Some(2.0)]);
        assert_eq!(taken.claims[1].values, [Some(5.0), None]);
        assert_eq!(taken.claims[0].expected, "> other");

        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let other = Study {
            settings: [("layer".into(), "conv1".into())].into(),
            ..study.clone()
        };
        study.keep(folder.path())?;
        other.keep(folder.path())?;
        study.minutes[0] = 9.0;
        study.keep(folder.path())?;
        assert_eq!(Study::all(folder.path(), "n")?, [study, other]);
        std::fs::write(folder.path().join("m.json"), "{").map_err(|e| Error::io("m", e))?;
        assert!(Study::all(folder.path(), "m").is_err());
        assert!(Study::all(folder.path(), "../m").is_err());
        Ok(())
    }
}
