//! [`Lab::study`], a notebook's last cell: it corrects the verdicts of all claims together, and
//! compares them with their study.

use super::format::with_interval;
use super::study::entry_name;
use super::{Conditions, Counts, Lab, OverSeeds, Study, Verdict, stored, with_history};
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
    /// The p-values of the run's claims are corrected by Holm's method over all claims with an
    /// expectation, and the corrected verdicts are saved in `claims/<notebook>.json`, from which
    /// the page of a run counts them. A seed column has the mean and the standard deviation over
    /// its seeds, and the verdict of Student's t test of the differences, corrected in the same way
    /// ([`Study::over`]).
    ///
    /// `configuration` contains everything that decides the values except the seed: settings,
    /// names of the data, hashes of shipped weights, a digest of your own network
    /// ([`Subject::weights`](super::Subject::weights) has it, or
    /// [`network_digest`](crate::interpret::network_digest)). Fields named `seed` are ignored, and
    /// it must not contain the weights of a network that depends on a seed. Its hash is stored with
    /// a study. The caption says if the study is out of date and why
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
        let file = stored::path(self, "json");
        let of_this_run = {
            let names = self.stated.lock().unwrap_or_else(|p| p.into_inner());
            names.clone()
        };
        let stated = stored::change(&file, |claims| {
            // Claims of an earlier run of other cells. If this lab stated none, they were stated
            // by another process.
            if !of_this_run.is_empty() {
                claims.retain(|c| c["name"].as_str().is_some_and(|n| of_this_run.contains(n)));
            }
            stored::correct(claims);
        })?;
        let now = Conditions {
            configuration: hash,
            cells: self.cells(),
            code: revision::all(),
            device: device_name(self.device()),
        };
        let file = stored::path(self, "study");
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
        let none = Study::default();
        let shown = study.unwrap_or(&none);
        let columns = shown.columns();
        let mut header: Vec<String> = ["claim", "this run", "expected", "difference", "verdict"]
            .map(String::from)
            .into();
        for (seeds, entries) in &columns {
            header.push(match entries.len() {
                1 => format!("1 {}", seeds.replacen("seeds", "seed", 1)),
                n => format!("{n} {seeds}"),
            });
        }
        let over: Vec<_> = columns.iter().map(|(_, e)| shown.over(e)).collect();
        let mut table = Table::new(header);
        for claim in stated {
            let text = |key: &str| claim[key].as_str().unwrap_or_default();
            let known = shown.claims.iter().position(|c| c.name == text("name"));
            let mut row = vec![
                text("statement").to_string(),
                measured(claim),
                with_history(text("expected"), claim["history"].as_str()),
                difference(claim),
                verdict(claim),
            ];
            for column in &over {
                row.push(over_seeds(known.and_then(|i| column.get(i).copied())));
            }
            table = table.row(row);
        }
        let mut caption = counted(stated);
        caption += &match study {
            None => format!(
                "There is no study of this notebook with these settings: run `cargo run --release -- study {}` to create one.",
                self.notebook()
            ),
            Some(study) => self.about(study, now),
        };
        table.caption(&caption)
    }

    /// The sentences about a study: its seeds, its conditions, and whether it is current.
    fn about(&self, study: &Study, now: &Conditions) -> String {
        let entries = study.entries();
        let mut text = String::from("Mean ± standard deviation");
        for (i, (seeds, indices)) in study.columns().iter().enumerate() {
            let of_network = *seeds == "seeds of the network";
            let each = indices.iter().filter_map(|i| entries.get(*i));
            let each: Vec<String> = each
                .map(|(seed, network)| match of_network {
                    true => network.to_string(),
                    false => seed.to_string(),
                })
                .collect();
            let start = if i == 0 { " over the " } else { " and the " };
            text += &format!("{start}{seeds} {}", each.join(", "));
        }
        text += &format!(
            "; scale {}, configuration {}, version {}.",
            study.scale, study.configuration, study.version
        );
        let mut now = now.clone();
        if study.scale != self.scale().name() {
            text += &format!(" This run has scale {}.", self.scale());
            // The configuration contains sizes that depend on the scale.
            now.configuration = String::new();
        }
        let reasons = study.outdated(&now);
        if !reasons.is_empty() {
            text += &format!(
                " OUT OF DATE: {}. Run `cargo run --release -- study {}` to measure again.",
                reasons.join("; "),
                self.notebook()
            );
        }
        text + &other_devices(study, &now.device)
    }
}

/// The value of a stored claim, with its interval and unit.
fn measured(claim: &Value) -> String {
    let Some(value) = claim["value"].as_f64() else {
        return "–".into();
    };
    let interval = claim["low"].as_f64().zip(claim["high"].as_f64());
    let text = with_interval(value, interval);
    match claim["unit"].as_str() {
        None | Some("") => text,
        Some(unit) => format!("{text} {unit}"),
    }
}

/// The difference between a stored claim's value and its expectation, with the interval that
/// decides for this claim alone.
fn difference(claim: &Value) -> String {
    let number = |key: &str| claim["difference"][key].as_f64();
    match number("value") {
        Some(value) => with_interval(value, number("low").zip(number("high"))),
        None => "–".into(),
    }
}

/// The verdict of a stored claim in words, or – for a value that is only reported and for a claim
/// of an earlier version.
fn verdict(claim: &Value) -> String {
    match stored::verdict(claim) {
        None | Some(Verdict::Reported) => "–".into(),
        Some(Verdict::Undecided) if claim["p"].is_null() => "undecided (no interval)".into(),
        Some(verdict) => verdict.word().into(),
    }
}

/// The values of a claim over the seeds of a column.
fn over_seeds(found: Option<(Option<OverSeeds>, Option<Verdict>)>) -> String {
    let Some((Some(over), verdict)) = found else {
        return "–".into();
    };
    let verdict = verdict.map_or("–", Verdict::word);
    let mean = match over.n {
        1 => format!("{:.3}", over.mean),
        _ => format!("{:.3} ± {:.3}", over.mean, over.deviation),
    };
    match over.difference {
        Some(difference) => format!(
            "{mean}, difference {}: {verdict}",
            with_interval(difference.value, difference.interval)
        ),
        None => format!("{mean}, {verdict}"),
    }
}

/// How the verdicts were decided, and how many there are of each. Nothing if no claim has one.
fn counted(stated: &[Value]) -> String {
    let verdicts: Vec<Verdict> = stated.iter().filter_map(stored::verdict).collect();
    if verdicts.is_empty() {
        return String::new();
    }
    let counts: Counts = verdicts.into_iter().collect();
    format!("Of this run's claims {counts} (5 %, with Holm's correction over these claims). ")
}

/// Names the seeds of a study that were measured on another device than `device`.
fn other_devices(study: &Study, device: &str) -> String {
    let mut seeds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (entry, name) in study.entries().into_iter().zip(&study.devices) {
        if !name.is_empty() && name != device {
            seeds.entry(name).or_default().push(entry_name(entry));
        }
    }
    let mut text = String::new();
    for (name, seeds) in seeds {
        text += &format!(
            " Measured on {name}, this run on {device}: {}; values can differ in the last digits.",
            seeds.join("; ")
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

    /// The caption says why. Seeds of such conditions cannot be added.
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
            network: 0,
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
            text.contains("Measured on cuda, this run on cpu: seed 1;"),
            "{text}"
        );
        assert!(!text.contains("OUT OF DATE"), "{text}");
        Ok(())
    }

    /// The last cell corrects the verdicts of all claims together, saves them, and shows them next
    /// to those over the seeds of t and of the network.
    #[test]
    fn the_last_cell_decides_all_claims_together() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let lab = Lab::open("n")?
            .with_scale(Scale::Quick)
            .with_out(folder.path());
        // Alone, p is 0.0002, 0.03 and 0.04: with Holm's correction 0.0006, 0.06 and 0.06.
        for (name, deviations) in [("a", 3.72), ("b", 2.17), ("c", 2.054)] {
            let (value, half) = (0.5 + 0.01 * deviations, 0.01 * 1.96);
            let claim = lab
                .claim(name, value)
                .interval(value - half, value + half)
                .at_least(0.5)
                .history("new")
                .state()?;
            assert!(claim.holds(), "{name} alone: {:?}", claim.p);
        }
        lab.claim("r", 0.25).state()?;
        let table = lab.study(&"seedless")?.to_string();
        let line = |name: &str| {
            let start = format!("{name}  ");
            table
                .lines()
                .find(|l| l.starts_with(&start))
                .unwrap_or_default()
                .to_string()
        };
        assert!(line("a").contains("≥ 0.5 (new)  "), "{table}");
        assert!(line("a").trim_end().contains("  holds"), "{table}");
        assert!(line("b").contains("undecided") && line("c").contains("undecided"));
        assert!(!line("r").contains("holds"), "{table}");
        assert!(table.contains("1 hold, 0 fail, 2 undecided"), "{table}");
        let saved = stored::change(&stored::path(&lab, "json"), |_| ())?;
        let held: Vec<_> = saved.iter().map(|c| c["holds"].as_bool()).collect();
        let no = Some(false);
        assert_eq!(held, [Some(true), no, no, no]);
        assert!(saved[1]["p_holm"].as_f64().is_some_and(|p| p > 0.05));
        assert!(saved[1]["p"].as_f64().is_some_and(|p| p < 0.05));
        Ok(())
    }

    /// Three seeds of t decide, one seed of the network does not.
    #[test]
    fn seeds_of_t_and_of_the_network_have_columns() -> Result<()> {
        let lab = Lab::open("n")?.with_scale(Scale::Quick);
        let mut study = Study {
            notebook: "n".into(),
            scale: "quick".into(),
            ..Study::default()
        };
        let stated = |value: f64| {
            json!({
                "name": "a", "statement": "a", "expected": "≥ 0.5", "direction": "above",
                "value": value, "difference": {"value": value - 0.5}, "p": 0.2,
                "verdict": "undecided", "holds": false,
            })
        };
        for (seed, value) in [(0, 0.81), (1, 0.8), (2, 0.82)] {
            study.add(&SeedResult {
                seed,
                claims: vec![stated(value)],
                ..SeedResult::default()
            })?;
        }
        let now = Conditions::default();
        let claims = [stated(0.75), json!({"name": "b", "statement": "older"})];
        let text = lab.comparison(&claims, Some(&study), &now).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("3 seeds of t  "), "{text}");
        assert!(lines[0].ends_with("1 seed of the network"), "{text}");
        let cells: Vec<&str> = lines[1].split("  ").filter(|c| !c.is_empty()).collect();
        let cells: Vec<&str> = cells.into_iter().map(str::trim).collect();
        // The t-interval of the mean difference, 0.31 ± 4.303 · 0.01 / √3.
        let over = "0.810 ± 0.010, difference 0.31 [0.285, 0.335]: holds";
        let expected = ["a", "0.75", "≥ 0.5", "0.25", "undecided", over];
        assert_eq!(cells[..6], expected);
        assert_eq!(cells[6], "0.810, –");
        assert!(lines[2].starts_with("older"), "{text}");
        assert!(text.contains("over the seeds of t 0, 1, 2 and the seeds of the network 0;"));
        // A study of an earlier version has one column.
        study.networks.clear();
        let text = lab.comparison(&claims, Some(&study), &now).to_string();
        assert!(
            text.lines()
                .next()
                .is_some_and(|l| l.ends_with("3 seeds of both"))
        );
        Ok(())
    }
}
