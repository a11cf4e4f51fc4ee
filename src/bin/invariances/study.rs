//! `invariances study`: measures a notebook's claims with several seeds and stores a small table
//! in `data/studies`. An interrupted study can be continued.

use crate::execute::execute;
use crate::interrupt;
use crate::run::{NETWORK_SEED, RETRAIN, choose, device, said, scale, settings, stem, writable};
use crate::setup::{self, duration};
use invariances::files::write_atomic;
use invariances::notebook::{Conditions, SeedResult, Study, Verdict};
use invariances::{Error, Result, VERSION, revision};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// The notebook: a number (07), a name (07_training) or a path
    notebook: String,
    /// How many seeds of everything but the network under study: 0, 1, 2 …
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// How many seeds of the network under study: 0 with each of the others, and 1, 2 … with seed 0
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    networks: u64,
    /// A setting that the notebook reads with `lab.setting`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Sizes, steps and sources: smoke, quick, real or paper [default: INVARIANCES_SCALE, or quick]
    #[arg(long)]
    scale: Option<String>,
    /// The device of the networks: cpu, cuda, cuda:1 or metal
    /// [default: INVARIANCES_DEVICE, or a GPU if this program was built for one and there is one]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Where the executed notebooks and figures of each seed go [default: out/study in the project]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where the table goes [default: data/studies in the project, whose tables notebooks show]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Measure all seeds again, and train the networks of the cache again instead of loading them
    /// (INVARIANCES_RETRAIN=1)
    #[arg(long, conflicts_with = "confirm")]
    retrain: bool,
    /// Measure nothing: record that the values in the table are still those of the notebook's
    /// cells and of the code, which changed in a way that cannot alter values
    #[arg(long, conflicts_with = "background")]
    confirm: bool,
    /// Run in the background, and print where the log is
    #[arg(long)]
    background: bool,
}

pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let scale = scale(arguments.scale.clone(), variable("INVARIANCES_SCALE"))?;
    let device = device(arguments.device.clone(), variable("INVARIANCES_DEVICE"))?;
    let project = setup::project()?;
    let names = [arguments.notebook.clone()];
    let notebooks = choose(&project.join("notebooks"), &names, false)?;
    let notebook = notebooks
        .first()
        .ok_or_else(|| Error::invalid("name a notebook"))?;
    let name = stem(notebook);
    check_networks(arguments.networks, &name, notebook)?;
    let settings = settings(&arguments.settings)?;
    let out = arguments.out.clone();
    let out = out.unwrap_or_else(|| project.join("out").join("study"));
    let out = std::path::absolute(&out)
        .map_err(|e| Error::io(&out, e))?
        .join(&name);
    writable(&out)?;
    if arguments.background {
        return background(&out);
    }
    let studies = arguments
        .into
        .unwrap_or_else(|| project.join("data").join("studies"));
    if arguments.confirm {
        return confirm(&studies, notebook, &scale, &settings);
    }
    interrupt::listen()?;
    println!(
        "invariances {VERSION} · {name} · scale {scale} · {} seeds, {} of the network{} · into {}",
        arguments.seeds,
        arguments.networks,
        said(device.as_deref()),
        studies.join(format!("{name}.json")).display()
    );
    let ready = setup::ready(variable("INVARIANCES_OFFLINE").is_some_and(|v| v != "0"))?;
    let set: Vec<String> = settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let set = set.join(";");
    // A user's own images are identified here by their path only; the images themselves are part
    // of the notebook's configuration.
    let sources = [
        "INVARIANCES_MNIST",
        "INVARIANCES_IMAGES",
        "INVARIANCES_FRAMES",
    ]
    .map(variable);
    let now = Conditions {
        cells: Study::cells_of(notebook)?,
        code: revision::all(),
        ..Conditions::default()
    };
    let key = key(&json!([&now.cells, &now.code, &scale, &set, &sources]))?;
    let mut study = Study {
        notebook: name.clone(),
        settings,
        scale: scale.clone(),
        version: VERSION.into(),
        key: key.clone(),
        cells: now.cells.clone(),
        code: now.code.clone(),
        ..Study::default()
    };
    // The part of the table that is already measured, on this or another computer.
    let same = |s: &Study| s.scale == study.scale && s.settings == study.settings;
    let before = Study::all(&studies, &name)?.into_iter().find(same);
    let mut before = before.unwrap_or_default();
    let retrain = arguments.retrain || variable(RETRAIN).is_some_and(|v| v != "0");
    // Nothing of the table counts that was measured with other cells or other code.
    let mut reasons = before.outdated(&now);
    if retrain && !before.seeds.is_empty() {
        reasons.push("the networks are trained again".into());
    }
    if !before.seeds.is_empty() && !reasons.is_empty() {
        println!(
            "\nThe {} of the table will be replaced: {}.",
            seeds(&before),
            reasons.join("; ")
        );
        before = Study::default();
    }
    let requested = requested(arguments.seeds, arguments.networks);
    let measured_before = before.entries();
    let folder_of =
        |(seed, network): Entry| out.join(format!("{}-seed-{seed}-network-{network}", &key[..12]));
    let mut failed = 0;
    // Entries in the table that were measured with other shipped weights or with images at another
    // path. They count if the configuration turns out to be the same.
    let mut doubtful = Vec::new();
    let mut missing = VecDeque::new();
    for entry in requested.iter().copied() {
        let done = folder_of(entry).join("done.json");
        if retrain {
            // An interrupted study that goes on without the flag must not find earlier results.
            let _ = std::fs::remove_file(&done);
        }
        if let Some(result) = finished(&done) {
            println!(
                "\n{}: measured before, {:.1} min, on {}",
                name_of(entry),
                result.minutes,
                result.conditions.device
            );
            study.add(&result)?;
        } else if !measured_before.contains(&entry) {
            missing.push_back(entry);
        } else if before.key == key {
            println!("\n{}: in the table", name_of(entry));
            study.take(&before, entry.0, entry.1)?;
        } else {
            doubtful.push(entry);
        }
    }
    // Entries beyond the requested ones stay in the table if they have the same configuration.
    doubtful.extend(measured_before.iter().filter(|e| !requested.contains(e)));
    // If there is no entry to compare with, one of them is measured again.
    if study.seeds.is_empty() && missing.is_empty() && !doubtful.is_empty() {
        // The first one is a requested entry, because requested entries were added first.
        missing.push_back(doubtful.remove(0));
    }
    let mut wanted = missing;
    loop {
        // Without an entry that was measured now there is no configuration to compare with: if the
        // wanted ones failed, one that is in the table is measured again.
        if study.seeds.is_empty() && wanted.is_empty() {
            let again = doubtful.iter().position(|e| requested.contains(e));
            wanted.extend(again.map(|i| doubtful.remove(i)));
        }
        if !study.seeds.is_empty() && !doubtful.is_empty() {
            for entry in doubtful.drain(..) {
                if study.configuration == before.configuration {
                    println!("\n{}: in the table", name_of(entry));
                    study.take(&before, entry.0, entry.1)?;
                } else if requested.contains(&entry) {
                    wanted.push_back(entry);
                }
            }
        }
        // The table is written after every entry, so that nothing measured is lost.
        if !study.seeds.is_empty() {
            study.keep(&studies)?;
        }
        let Some(entry) = wanted.pop_front() else {
            break;
        };
        let (seed, network) = entry;
        println!("\n{}", name_of(entry));
        let folder = folder_of(entry);
        let done = folder.join("done.json");
        // Claims of an interrupted run would count as claims of this one.
        let _ = std::fs::remove_dir_all(folder.join("claims"));
        let mut environment: Vec<(&str, OsString)> = vec![
            ("INVARIANCES_OUT", folder.clone().into()),
            ("INVARIANCES_SCALE", scale.clone().into()),
            ("INVARIANCES_SEED", seed.to_string().into()),
            (NETWORK_SEED, network.to_string().into()),
            ("INVARIANCES_SET", set.clone().into()),
        ];
        let named = device.clone();
        environment.extend(named.map(|name| ("INVARIANCES_DEVICE", OsString::from(name))));
        environment.extend(retrain.then(|| (RETRAIN, OsString::from("1"))));
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let executed = folder.join(format!("{name}.ipynb"));
        let outcome = execute(&ready, notebook, &executed, &environment)?;
        if outcome.interrupted {
            // Before its first seed, the table has the values of earlier networks.
            let next = match (retrain, study.seeds.is_empty()) {
                (false, _) => "goes on from here",
                (true, false) => "without --retrain goes on from here",
                (true, true) => "starts again",
            };
            println!("  interrupted; the same command {next}");
            return Ok(ExitCode::from(130));
        }
        if let Some(error) = outcome.error {
            println!(
                "✗ {}: {}",
                name_of(entry),
                error.lines().next().unwrap_or_default()
            );
            failed += 1;
            continue;
        }
        let minutes = outcome.seconds / 60.0;
        let read = |file: PathBuf| std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e));
        let claims = folder.join("claims");
        let path = claims.join(format!("{name}.study"));
        let conditions = read(path.clone()).map_err(|e| {
            e.with_hint(
                "the notebook's last cell must be `lab.study(&…)?`: it names the configuration",
            )
        })?;
        let conditions: Conditions = serde_json::from_str(&conditions)
            .map_err(|e| Error::content(&path, format!("expected the conditions of a run: {e}")))?;
        let path = claims.join(format!("{name}.json"));
        let claims: Vec<Value> = serde_json::from_str(&read(path.clone())?)
            .map_err(|e| Error::content(&path, format!("is not a list of claims: {e}")))?;
        let result = SeedResult {
            seed,
            network,
            minutes,
            conditions,
            claims,
        };
        // The cells or the code may have changed while the seed was measured.
        study.add(&result)?;
        write_atomic(&done, json!(result).to_string().as_bytes())?;
    }
    print(&study);
    println!("{}.", duration(began.elapsed()));
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Returns an error for several networks under study if the notebook's is the same for every seed: the
/// column of the table would show no deviation.
fn check_networks(networks: u64, name: &str, notebook: &Path) -> Result<()> {
    let text = std::fs::read_to_string(notebook).map_err(|e| Error::io(notebook, e))?;
    if networks <= 1 || text.contains("network_seed()") {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "expected a notebook that trains its network under study with the seed \
         `lab.network_seed()` for --networks {networks}, found {name}, which never reads it: leave \
         out --networks"
    )))
}

/// A seed, and a seed of the network under study.
type Entry = (u64, u64);

/// The entries of a study: each seed with seed 0 of the network, and each other seed of the network
/// with seed 0.
fn requested(seeds: u64, networks: u64) -> Vec<Entry> {
    let of_t = (0..seeds).map(|seed| (seed, 0));
    of_t.chain((1..networks).map(|network| (0, network)))
        .collect()
}

fn name_of((seed, network): Entry) -> String {
    match network {
        0 => format!("seed {seed}"),
        _ => format!("seed {seed}, network {network}"),
    }
}

/// Prints each claim over each kind of seeds: mean, standard deviation, mean difference with its
/// interval, and verdict.
fn print(study: &Study) {
    for (what, entries) in study.columns() {
        println!("\n{} {what}:", entries.len());
        for (claim, (over, verdict)) in study.claims.iter().zip(study.over(&entries)) {
            let Some(over) = over else { continue };
            let difference = match over.difference.map(|d| (d.value, d.interval)) {
                Some((value, Some((low, high)))) => {
                    format!("; difference {value:.3} [{low:.3}, {high:.3}]")
                }
                _ => String::new(),
            };
            println!(
                "{:>9.3} ± {:<7.3} {} ({}{difference}): {}",
                over.mean,
                over.deviation,
                verdict.map_or("–", Verdict::mark),
                claim.expected,
                claim.statement
            );
        }
    }
}

/// Records in the table that its values are those of the current cells and the current code.
fn confirm(
    studies: &Path,
    notebook: &Path,
    scale: &str,
    settings: &BTreeMap<String, String>,
) -> Result<ExitCode> {
    let name = stem(notebook);
    let same = |s: &Study| s.scale == scale && s.settings == *settings;
    let before = Study::all(studies, &name)?.into_iter().find(same);
    let before = before.ok_or_else(|| {
        Error::invalid(format!(
            "expected a study of {name} at scale {scale} with these settings in {}, found none: leave out --confirm to measure one",
            studies.display()
        ))
    })?;
    let now = Conditions {
        cells: Study::cells_of(notebook)?,
        code: revision::all(),
        ..Conditions::default()
    };
    let reasons = before.outdated(&now);
    let study = Study {
        cells: now.cells,
        code: now.code,
        ..before
    };
    study.keep(studies)?;
    println!(
        "The {} of {name} count as measured with the current cells and code{}.",
        seeds(&study),
        match reasons.is_empty() {
            true => String::new(),
            false => format!(", although {}", reasons.join("; ")),
        }
    );
    Ok(ExitCode::SUCCESS)
}

/// `seed 0`, or `seeds 0, 1; seed 0, network 1`.
fn seeds(study: &Study) -> String {
    let (of_t, others): (Vec<Entry>, Vec<Entry>) =
        study.entries().into_iter().partition(|e| e.1 == 0);
    let each: Vec<String> = of_t.iter().map(|(seed, _)| seed.to_string()).collect();
    let first = match each.len() {
        0 => None,
        1 => Some(format!("seed {}", each.join(", "))),
        _ => Some(format!("seeds {}", each.join(", "))),
    };
    let parts = first.into_iter().chain(others.into_iter().map(name_of));
    parts.collect::<Vec<_>>().join("; ")
}

/// Starts the same command in its own process group, with its output in a file.
fn background(out: &Path) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().map_err(|e| Error::io("this command", e))?;
    let log = out.join("log.txt");
    let file = std::fs::File::create(&log).map_err(|e| Error::io(&log, e))?;
    let twin = file.try_clone().map_err(|e| Error::io(&log, e))?;
    let mut command = Command::new(&program);
    command
        .args(std::env::args_os().skip(1).filter(|a| a != "--background"))
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(twin)
        // Ctrl-C and the end of this terminal must not stop it.
        .process_group(0);
    let child = command.spawn().map_err(|e| Error::io(&program, e))?;
    std::thread::sleep(Duration::from_millis(50));
    println!(
        "process {} goes on; its words are in {}",
        child.id(),
        log.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Returns the key of a study: the hash of everything that determines a seed's numbers and is
/// known before the notebook runs. These are `conditions` (the code cells, the revision of the
/// code, the scale, the settings, the paths of the user's images) and the cards of the shipped
/// networks, which contain the hashes of their weights.
fn key(conditions: &Value) -> Result<String> {
    let shipped = invariances::train::pretrained::folder();
    let files = std::fs::read_dir(&shipped).into_iter().flatten().flatten();
    let mut cards: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
    cards.retain(|path| path.extension().is_some_and(|e| e == "json"));
    cards.sort();
    let cards: Vec<String> = cards
        .iter()
        .map(|card| std::fs::read_to_string(card).map_err(|e| Error::io(card, e)))
        .collect::<Result<_>>()?;
    let text = json!([conditions, cards]).to_string();
    Ok(blake3::hash(text.as_bytes()).to_hex().to_string())
}

/// Returns the results of a seed that was measured completely.
fn finished(done: &Path) -> Option<SeedResult> {
    serde_json::from_str(&std::fs::read_to_string(done).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Networks are varied only where the notebook reads their seed.
    #[test]
    fn a_network_that_does_not_vary_is_refused() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
        let file = folder.path().join("n.ipynb");
        let write = |text: &str| std::fs::write(&file, text).map_err(|e| Error::io(&file, e));
        write(r#"{"cells": [{"source": ["let seed = lab.seed();"]}]}"#)?;
        check_networks(1, "n", &file)?;
        let refused = check_networks(3, "n", &file).map_err(|e| e.to_string());
        assert!(refused.is_err_and(|e| e.contains("never reads it")));
        write(r#"{"cells": [{"source": ["let seed = lab.network_seed();"]}]}"#)?;
        check_networks(3, "n", &file)
    }

    /// The entry of seed 0 and network 0 belongs to both kinds of seeds and is measured once.
    #[test]
    fn seeds_and_networks_share_their_first_entry() {
        assert_eq!(requested(3, 1), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(requested(2, 3), [(0, 0), (1, 0), (0, 1), (0, 2)]);
        let study = Study {
            seeds: vec![0, 1, 0],
            networks: vec![0, 0, 2],
            ..Study::default()
        };
        assert_eq!(seeds(&study), "seeds 0, 1; seed 0, network 2");
    }
}
