//! [`Study`], a notebook's claims measured over several seeds. `repeated.rs` has the statistics of
//! one claim, and `comparison.rs` shows a study next to the results of a run.

use super::{OverSeeds, Repeated, Scale, Verdict, stored};
use crate::metric::holm;
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
/// There are two kinds of seeds. [`Lab::network_seed`](super::Lab::network_seed) is the seed of the
/// network under study, [`Lab::seed`](super::Lab::seed) is that of everything else: t, samples and
/// resamples. Each entry of a study has one of each. A study of an earlier version varied both
/// together: it has no `networks`, and its table has one column, "seeds of both".
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
    /// The seeds of the network under study, in the same order. Empty in a study of an earlier
    /// version, in which they are equal to `seeds`.
    #[serde(default)]
    pub networks: Vec<u64>,
    /// The device on which each entry was measured, as [`device_name`](crate::ops::device_name) gives it.
    /// Results of another device can differ in the last digits.
    #[serde(default)]
    pub devices: Vec<String>,
    /// The duration of each entry, in minutes.
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

/// The results of one seed, with one seed of the network under study.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SeedResult {
    /// The seed of everything but the network under study.
    pub seed: u64,
    /// The seed of the network under study.
    #[serde(default)]
    pub network: u64,
    /// The duration in minutes.
    pub minutes: f64,
    /// The conditions under which it was measured.
    pub conditions: Conditions,
    /// The claims as saved by the notebook (`claims/<notebook>.json`).
    pub claims: Vec<Value>,
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

    /// The entries, each a seed and a seed of the network under study.
    pub fn entries(&self) -> Vec<(u64, u64)> {
        let seeds = self.seeds.iter().enumerate();
        seeds
            .map(|(i, seed)| (*seed, self.networks.get(i).copied().unwrap_or(*seed)))
            .collect()
    }

    /// The columns of the study's table: what the seeds vary, and the indices of the entries.
    /// "seeds of t" are the entries with seed 0 of the network under study, "seeds of the network"
    /// those with seed 0 of everything else. A study of an earlier version has one column, "seeds
    /// of both".
    ///
    /// ```
    /// use invariances::notebook::Study;
    /// let mut study = Study { seeds: vec![0, 1, 0], ..Study::default() };
    /// assert_eq!(study.columns(), [("seeds of both", vec![0, 1, 2])]);
    /// study.networks = vec![0, 0, 1];
    /// let columns = [("seeds of t", vec![0, 1]), ("seeds of the network", vec![0, 2])];
    /// assert_eq!(study.columns(), columns);
    /// ```
    pub fn columns(&self) -> Vec<(&'static str, Vec<usize>)> {
        let entries = self.entries();
        let with = |is_in: fn(&(u64, u64)) -> bool| -> Vec<usize> {
            let all = entries.iter().enumerate();
            all.filter(|(_, e)| is_in(e)).map(|(i, _)| i).collect()
        };
        if self.networks.len() < self.seeds.len() {
            return vec![("seeds of both", with(|_| true))];
        }
        vec![
            ("seeds of t", with(|(_, network)| *network == 0)),
            ("seeds of the network", with(|(seed, _)| *seed == 0)),
        ]
    }

    /// Computes each claim's statistics over some entries, and its verdict, with Holm's correction
    /// over the claims of the study. The claims are in the order of [`Study::claims`]. A claim has
    /// no statistics if no entry has a value, and no verdict if fewer than three entries have a
    /// difference.
    pub fn over(&self, entries: &[usize]) -> Vec<(Option<OverSeeds>, Option<Verdict>)> {
        let claims = self.claims.iter();
        let over: Vec<Option<OverSeeds>> = claims.map(|c| c.over(entries)).collect();
        let p_values: Vec<f64> = over
            .iter()
            .map(|o| o.and_then(|o| o.p).unwrap_or(f64::NAN))
            .collect();
        let is_smoke = self.scale == Scale::Smoke.name();
        let decided = over.iter().zip(holm(&p_values)).map(|(over, p)| {
            let verdict = over.filter(|_| p.is_finite()).map(|over| match is_smoke {
                true => Verdict::Smoke,
                false => Verdict::decide(Some(p), over.as_expected),
            });
            (*over, verdict)
        });
        decided.collect()
    }

    /// Copies the results of one entry from another study of the same notebook. Does nothing if
    /// that study does not contain it.
    ///
    /// # Errors
    /// As [`Study::add`].
    pub fn take(&mut self, other: &Self, seed: u64, network: u64) -> Result<()> {
        let entries = other.entries();
        let Some(index) = entries.iter().position(|e| *e == (seed, network)) else {
            return Ok(());
        };
        let at = |values: &[Option<f64>]| values.get(index).copied().flatten();
        let claims = other.claims.iter().map(|c| {
            let expected = c.expected.strip_prefix("> ");
            let name = expected.or_else(|| c.expected.strip_prefix("< "));
            json!({
                "name": c.name, "statement": c.statement, "expected": c.expected,
                "direction": c.direction, "value": at(&c.values), "holds": c.holds.get(index),
                "difference": {"value": at(&c.differences)},
                "other": {"name": name, "value": at(&c.others)},
            })
        });
        self.add(&SeedResult {
            seed,
            network,
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

    /// Adds the results of one entry. Earlier results of the same two seeds are replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the entry was measured with another configuration, other code cells or
    /// another revision of the code than the existing ones.
    pub fn add(&mut self, result: &SeedResult) -> Result<()> {
        let (entry, conditions) = ((result.seed, result.network), &result.conditions);
        let is_first = self.seeds.is_empty();
        if is_first {
            self.configuration = conditions.configuration.clone();
        }
        if self.configuration != conditions.configuration {
            return Err(Error::invalid(format!(
                "{} of {} was measured with another configuration ({}) than the earlier seeds ({}): the configuration given to `lab.study` must not contain a seed, nor the weights of a network that depends on one",
                entry_name(entry),
                self.notebook,
                conditions.configuration,
                self.configuration
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
                "expected all seeds of {} to be measured under the same conditions, found {} under others: {}; measure the study again",
                self.notebook,
                entry_name(entry),
                reasons.join("; ")
            )));
        }
        let mut entries = self.entries();
        let index = entries.iter().position(|e| *e == entry);
        let index = index.unwrap_or_else(|| {
            entries.push(entry);
            entries.len() - 1
        });
        // A study of an earlier version has no networks, devices, differences and others.
        let n = entries.len();
        (self.seeds, self.networks) = entries.into_iter().unzip();
        self.minutes.resize(n, 0.0);
        self.devices.resize(n, String::new());
        self.claims.iter_mut().for_each(|claim| claim.resize(n));
        self.minutes[index] = (result.minutes * 10.0).round() / 10.0;
        self.devices[index] = conditions.device.clone();
        for claim in &result.claims {
            let text = |key: &str| claim[key].as_str().unwrap_or_default().to_string();
            let name = text("name");
            let known = self.claims.iter().position(|c| c.name == name);
            let known = known.unwrap_or_else(|| {
                let mut repeated = Repeated {
                    name,
                    ..Repeated::default()
                };
                repeated.resize(n);
                self.claims.push(repeated);
                self.claims.len() - 1
            });
            let repeated = &mut self.claims[known];
            repeated.statement = text("statement");
            repeated.expected = without_value(&text("expected"), claim["other"]["name"].as_str());
            // An entry of an earlier version has none.
            repeated.direction = stored::direction(claim).or(repeated.direction);
            repeated.values[index] = claim["value"].as_f64();
            repeated.holds[index] = claim["holds"].as_bool().unwrap_or(false);
            repeated.differences[index] = claim["difference"]["value"].as_f64();
            repeated.others[index] = claim["other"]["value"].as_f64();
        }
        Ok(())
    }
}

/// In "> squared error 0.41 [0.40, 0.42]" the numbers belong to one seed, so they are removed.
/// Claims of earlier versions have no name of the other value, and write "> squared error (0.41)".
fn without_value(expected: &str, other: Option<&str>) -> String {
    match (other, expected.chars().next()) {
        (Some(name), Some(sign)) => format!("{sign} {name}"),
        _ => expected.split(" (").next().unwrap_or_default().into(),
    }
}

/// `seed 1`, or `seed 0, network 2`.
pub(super) fn entry_name((seed, network): (u64, u64)) -> String {
    match network {
        0 => format!("seed {seed}"),
        _ => format!("seed {seed}, network {network}"),
    }
}

fn file(folder: &Path, notebook: &str) -> Result<PathBuf> {
    super::lab::check_name("a notebook", notebook)?;
    Ok(folder.join(format!("{notebook}.json")))
}

#[cfg(test)]
mod tests;
