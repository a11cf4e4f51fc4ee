//! [`Study`], a notebook's claims measured over several seeds, and the table that compares them
//! with the current run.

use super::Lab;
use crate::figure::Table;
use crate::{Error, Result};
use invariances_core::files::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A notebook's claims, measured with several seeds by `invariances study`. It is a small table
/// in `data/studies/`, and [`Lab::study`] shows it next to the results of the current run.
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
    /// The hash of the configuration that the notebook gave to [`Lab::study`].
    pub configuration: String,
    /// The crate's version.
    pub version: String,
    /// A hash of everything that decides the values and is known before the notebook runs: its
    /// code cells and the shipped weights. If it is unchanged, a seed need not be measured again.
    /// If it differs, the configuration decides.
    #[serde(default)]
    pub key: String,
    /// The seeds, in the order of the values.
    pub seeds: Vec<u64>,
    /// The duration of each seed, in minutes.
    pub minutes: Vec<f64>,
    /// The measured claims.
    pub claims: Vec<Repeated>,
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
        let minutes = other.minutes.get(index).copied().unwrap_or_default();
        self.add(
            seed,
            minutes,
            &other.configuration,
            &claims.collect::<Vec<_>>(),
        )
    }

    /// Adds the results of one seed, with the claims as saved by the notebook
    /// (`claims/<notebook>.json`). Earlier results of this seed are replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the claims have another configuration than the existing ones.
    pub fn add(
        &mut self,
        seed: u64,
        minutes: f64,
        configuration: &str,
        claims: &[Value],
    ) -> Result<()> {
        if self.seeds.is_empty() {
            self.configuration = configuration.into();
        }
        if self.configuration != configuration {
            return Err(Error::invalid(format!(
                "seed {seed} of {} was measured with another configuration ({configuration}) than the earlier seeds ({}): the configuration given to `lab.study` must not contain the seed",
                self.notebook, self.configuration
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
        self.minutes[index] = (minutes * 10.0).round() / 10.0;
        for claim in claims {
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

fn without_seeds(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("seed");
            map.values_mut().for_each(without_seeds);
        }
        Value::Array(list) => list.iter_mut().for_each(without_seeds),
        _ => {}
    }
}

impl Lab {
    /// A notebook's last cell: a table of all its claims, with the values of the current run next
    /// to those that `invariances study` measured over several seeds.
    ///
    /// `configuration` contains everything that decides the values except the seed: settings,
    /// names of the data, hashes of shipped weights. Fields named `seed` are ignored. Its hash is
    /// stored with a study, so that a study with another configuration is shown as out of date.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the configuration cannot be written as JSON; [`Error::Unknown`] if the
    /// notebook did not read a value set by `--set` ([`Lab::setting`]); [`Error::Content`] if the
    /// files of claims or studies are damaged.
    pub fn study(&self, configuration: &impl Serialize) -> Result<Table> {
        let mut configuration = serde_json::to_value(configuration).map_err(|e| {
            Error::invalid(format!("the configuration cannot be written as JSON: {e}"))
        })?;
        without_seeds(&mut configuration);
        let unread = self.unread_settings();
        if !unread.is_empty() {
            return Err(Error::unknown(format!(
                "this notebook does not read the setting {}: its settings are those that its cells read with `lab.setting`",
                unread.join(", ")
            )));
        }
        let text = json!([configuration, self.notebook(), self.settings()]);
        let hash =
            blake3::hash(crate::train::canonical(&text).as_bytes()).to_hex()[..16].to_string();
        let claims = self
            .out()
            .join("claims")
            .join(format!("{}.json", self.notebook()));
        let stated: Vec<Value> = match std::fs::read(&claims) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| Error::content(&claims, format!("expected a list of claims ({e})")))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(&claims, e)),
        };
        let hash_file = self
            .out()
            .join("claims")
            .join(format!("{}.study", self.notebook()));
        write_atomic(&hash_file, hash.as_bytes())?;
        let studies = Study::all(&self.studies()?, self.notebook())?;
        let same_settings = |s: &&Study| s.settings == self.settings();
        let same_scale = |s: &&Study| same_settings(s) && s.scale == self.scale().name();
        let study = studies
            .iter()
            .find(same_scale)
            .or(studies.iter().find(same_settings));
        Ok(self.comparison(&stated, study, &hash))
    }

    /// The table of the current run's claims and the values of a study.
    fn comparison(&self, stated: &[Value], study: Option<&Study>, hash: &str) -> Table {
        let seeds = study.map_or(0, |s| s.seeds.len());
        let mut table = Table::new([
            "claim".to_string(),
            format!("seed {}", self.seed()),
            format!("{seeds} seeds"),
            "expected".to_string(),
            "holds".to_string(),
        ]);
        for claim in stated {
            let text = |key: &str| claim[key].as_str().unwrap_or_default();
            let current = claim["value"]
                .as_f64()
                .map_or("–".into(), |v| format!("{v:.3}"));
            let found = study.and_then(|s| s.claims.iter().find(|c| c.name == text("name")));
            let (over_seeds, holds) = match found.and_then(|c| Some((c, c.mean_and_deviation()?))) {
                Some((c, (mean, deviation))) => (
                    format!("{mean:.3} ± {deviation:.3}"),
                    format!(
                        "{} of {}",
                        c.holds.iter().filter(|h| **h).count(),
                        c.holds.len()
                    ),
                ),
                None => ("–".into(), "–".into()),
            };
            table = table.row([
                text("statement"),
                &current,
                &over_seeds,
                text("expected"),
                &holds,
            ]);
        }
        let caption = match study {
            None => format!(
                "There is no study of this notebook with these settings: run `cargo run --release -- study {}` to create one.",
                self.notebook()
            ),
            Some(s) => {
                let seeds: Vec<String> = s.seeds.iter().map(ToString::to_string).collect();
                let mut text = format!(
                    "Mean ± standard deviation over the seeds {}; scale {}, configuration {}, version {}.",
                    seeds.join(", "),
                    s.scale,
                    s.configuration,
                    s.version
                );
                if s.scale != self.scale().name() {
                    text += &format!(" This run has scale {}.", self.scale());
                } else if s.configuration != hash {
                    text += &format!(
                        " OUT OF DATE: the configuration of this run is {hash}; run `cargo run --release -- study {}` to measure again.",
                        self.notebook()
                    );
                }
                text
            }
        };
        table.caption(&caption)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, value: f64, holds: bool) -> Value {
        json!({"name": name, "statement": name, "expected": "> other (0.123)", "value": value, "holds": holds})
    }

    #[test]
    fn seeds_are_added_replaced_and_kept_apart_by_configuration() -> Result<()> {
        let mut study = Study {
            notebook: "n".into(),
            scale: "quick".into(),
            ..Study::default()
        };
        study.add(0, 1.0, "abc", &[claim("a", 1.0, true)])?;
        study.add(
            1,
            2.0,
            "abc",
            &[claim("a", 3.0, false), claim("b", 5.0, true)],
        )?;
        let text = study.add(2, 1.0, "xyz", &[]).unwrap_err().to_string();
        assert!(text.contains("another configuration"), "{text}");
        study.add(0, 1.5, "abc", &[claim("a", 2.0, true)])?;
        assert_eq!(study.seeds, [0, 1]);
        assert_eq!(study.minutes, [1.5, 2.0]);
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
