//! [`Lab::study`], the table that compares a run's claims with their study.

use super::{Conditions, Lab, Study};
use crate::figure::Table;
use crate::ops::device_name;
use crate::{Error, Result, revision};
use invariances_core::files::write_atomic;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Lab {
    /// A notebook's last cell: a table of all its claims, with the values of the current run next
    /// to those that `invariances study` measured over several seeds.
    ///
    /// `configuration` contains everything that decides the values except the seed: settings,
    /// names of the data, hashes of shipped weights, a digest of your own network
    /// ([`Subject::weights`](super::Subject::weights) has it, or
    /// [`network_digest`](crate::interpret::network_digest)). Fields named `seed` are ignored. Its
    /// hash is stored with a study. The caption says if the study is out of date and why
    /// ([`Study::outdated`]), and which seeds were measured on another device.
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
        let now = Conditions {
            configuration: hash,
            cells: self.cells(),
            code: revision::all(),
            device: device_name(self.device()),
        };
        let file = self
            .out()
            .join("claims")
            .join(format!("{}.study", self.notebook()));
        write_atomic(&file, json!(now).to_string().as_bytes())?;
        let studies = Study::all(&self.studies()?, self.notebook())?;
        let same_settings = |s: &&Study| s.settings == self.settings();
        let same_scale = |s: &&Study| same_settings(s) && s.scale == self.scale().name();
        let study = studies
            .iter()
            .find(same_scale)
            .or(studies.iter().find(same_settings));
        Ok(self.comparison(&stated, study, &now))
    }

    /// The hash of the code cells in the notebook's file, or nothing if the file is not found or
    /// cannot be read: then it is not known whether the cells changed.
    fn cells(&self) -> String {
        let name = format!("{}.ipynb", self.notebook());
        let here = std::env::current_dir().unwrap_or_default();
        let inside = here.join("notebooks");
        let files = [&here, &inside].map(|folder| folder.join(&name));
        let file = files.iter().find(|file| file.is_file());
        let cells = file.and_then(|file| Study::cells_of(file).ok());
        cells.unwrap_or_default()
    }

    /// The table of the current run's claims and the values of a study.
    fn comparison(&self, stated: &[Value], study: Option<&Study>, now: &Conditions) -> Table {
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
                let mut now = now.clone();
                if s.scale != self.scale().name() {
                    text += &format!(" This run has scale {}.", self.scale());
                    // The configuration contains sizes that depend on the scale.
                    now.configuration = String::new();
                }
                let reasons = s.outdated(&now);
                if !reasons.is_empty() {
                    text += &format!(
                        " OUT OF DATE: {}. Run `cargo run --release -- study {}` to measure again.",
                        reasons.join("; "),
                        self.notebook()
                    );
                }
                text += &other_devices(s, &now.device);
                text
            }
        };
        table.caption(&caption)
    }
}

/// Names the seeds of a study that were measured on another device than `device`.
fn other_devices(study: &Study, device: &str) -> String {
    let mut seeds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (seed, name) in study.seeds.iter().zip(&study.devices) {
        if !name.is_empty() && name != device {
            seeds.entry(name).or_default().push(seed.to_string());
        }
    }
    let mut text = String::new();
    for (name, seeds) in seeds {
        let word = if seeds.len() == 1 { "Seed" } else { "Seeds" };
        text += &format!(
            " {word} {} measured on {name}, this run on {device}: values can differ in the last digits.",
            seeds.join(", ")
        );
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::{Scale, SeedResult};

    /// caption says why. Seeds of such conditions cannot be added.
    #[test]
    fn a_study_of_other_conditions_is_out_of_date() -> Result<()> {
        let now = Conditions {
            configuration: "abc".into(),
            cells: "cells".into(),
            code: revision::all(),
            device: "cpu".into(),
        };
        let mut study = Study {
            notebook: "n".into(),
            scale: "quick".into(),
            cells: now.cells.clone(),
            code: now.code.clone(),
            ..Study::default()
        };
        let claim = json!({"name": "a", "statement": "a", "expected": "> other (0.123)", "value": 1.0, "holds": true});
        let result = |seed: u64, conditions: &Conditions| SeedResult {
            seed,
            minutes: 1.0,
            conditions: conditions.clone(),
            claims: vec![claim.clone()],
        };
        study.add(&result(0, &now))?;
        assert!(study.outdated(&now).is_empty());
        let lab = Lab::open("n")?.with_scale(Scale::Quick);
        let caption =
            |study: &Study, now: &Conditions| lab.comparison(&[], Some(study), now).to_string();
        let text = caption(&study, &now);
        assert!(!text.contains("OUT OF DATE"), "{text}");
        let raised = Conditions {
            code: revision::all_of(&revision::raised("metric")),
            ..now.clone()
        };
        let cells = Conditions {
            cells: "others".into(),
            ..now.clone()
        };
        let configuration = Conditions {
            configuration: "xyz".into(),
            ..now.clone()
        };
        for (other, reason) in [
            (&raised, "metric"),
            (&cells, "cells changed"),
            (&configuration, "network under study"),
        ] {
            let reasons = study.outdated(other);
            assert!(
                reasons.len() == 1 && reasons[0].contains(reason),
                "{reasons:?}"
            );
            let text = caption(&study, other);
            assert!(
                text.contains("OUT OF DATE") && text.contains(reason),
                "{text}"
            );
            assert!(study.clone().add(&result(1, other)).is_err());
        }
        // A study without a code revision has the first revision of every part.
        let old = Study {
            code: String::new(),
            ..study.clone()
        };
        let first = Conditions {
            code: "flow 1, ops 1".into(),
            ..now.clone()
        };
        assert!(old.outdated(&first).is_empty());
        let second = Conditions {
            code: "flow 2, ops 1".into(),
            ..now.clone()
        };
        assert_eq!(old.outdated(&second), ["the code changed (flow 1 → 2)"]);

        // Another device is not a reason, but it is named.
        let gpu = Conditions {
            device: "cuda".into(),
            ..now.clone()
        };
        study.add(&result(1, &gpu))?;
        assert_eq!(study.devices, ["cpu", "cuda"]);
        let text = caption(&study, &now);
        assert!(
            text.contains("Seed 1 measured on cuda, this run on cpu"),
            "{text}"
        );
        assert!(!text.contains("OUT OF DATE"), "{text}");
        Ok(())
    }
}
