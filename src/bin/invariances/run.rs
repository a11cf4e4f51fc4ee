//! `invariances run`: executes notebooks and writes their figures, their claims and a page that
//! shows both. It installs first what is missing.

use crate::execute::{Outcome, execute};
use crate::gallery::{self, Record};
use crate::interrupt;
use crate::setup::{self, duration};
use invariances::{Error, Result, VERSION};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

pub const SCALES: [&str; 4] = ["smoke", "quick", "real", "paper"];
/// The variable by which the networks of the cache are trained again.
pub const RETRAIN: &str = "INVARIANCES_RETRAIN";
/// The variable with the seed of the network under study.
pub const NETWORK_SEED: &str = "INVARIANCES_NETWORK_SEED";
/// The notebooks that `run` executes if none is given.
const DEFAULT: [&str; 2] = ["00", "01"];

#[derive(clap::Args)]
pub struct Arguments {
    /// Notebooks: a number (01), a name (01_invariances) or a path; 00 and 01 if none is named
    notebooks: Vec<String>,
    /// Every notebook of the project
    #[arg(long, conflicts_with = "notebooks")]
    all: bool,
    /// Sizes, steps and sources: smoke, quick, real or paper [default: INVARIANCES_SCALE, or quick]
    #[arg(long)]
    scale: Option<String>,
    /// The device of the networks: cpu, cuda, cuda:1 or metal
    /// [default: INVARIANCES_DEVICE, or a GPU if this program was built for one and there is one]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Where notebooks, figures, claims and index.html go
    /// [default: INVARIANCES_OUT, or out/ in the project]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A setting that the notebook reads with `lab.setting`
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Download nothing
    #[arg(long)]
    offline: bool,
    /// Train the networks of the cache again, once per notebook, instead of loading them
    /// (INVARIANCES_RETRAIN=1)
    #[arg(long)]
    retrain: bool,
}

pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let offline = arguments.offline || variable("INVARIANCES_OFFLINE").is_some_and(|v| v != "0");
    // All arguments are checked before anything is installed or written.
    let scale = scale(arguments.scale, variable("INVARIANCES_SCALE"))?;
    let seed_of = |name: &str| seed(name, variable(name));
    let seed = seed_of("INVARIANCES_SEED")?;
    let network_seed = seed_of(NETWORK_SEED)?;
    let device = device(arguments.device, variable("INVARIANCES_DEVICE"))?;
    let set = settings(&arguments.settings)?;
    let set: Vec<String> = set.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let set = match set.is_empty() {
        true => variable("INVARIANCES_SET").unwrap_or_default(),
        false => set.join(";"),
    };
    let project = setup::project()?;
    let notebooks = choose(
        &project.join("notebooks"),
        &arguments.notebooks,
        arguments.all,
    )?;
    let out = arguments
        .out
        .or_else(|| variable("INVARIANCES_OUT").map(PathBuf::from))
        .unwrap_or_else(|| project.join("out"));
    let out = std::path::absolute(&out).map_err(|e| Error::io(&out, e))?;
    writable(&out)?;

    interrupt::listen()?;
    println!(
        "invariances {VERSION} · scale {scale} · seed {seed}{} · into {}",
        said(device.as_deref()),
        out.display()
    );
    if cfg!(debug_assertions) {
        println!(
            "note: this is a dev build, and tensors in it are slow; use `cargo run --release -- run`"
        );
    }
    let ready = match setup::ready(offline) {
        Err(_) if interrupt::asked() => {
            println!("Interrupted during the set-up; the next run goes on from there.");
            return Ok(ExitCode::from(130));
        }
        done => done?,
    };
    println!("Set-up: all there ({}).", duration(began.elapsed()));

    let mut settings: Vec<(&str, OsString)> = vec![
        ("INVARIANCES_OUT", out.clone().into()),
        ("INVARIANCES_SCALE", scale.clone().into()),
        ("INVARIANCES_SEED", seed.to_string().into()),
        (NETWORK_SEED, network_seed.to_string().into()),
        ("INVARIANCES_SET", set.into()),
        (
            "INVARIANCES_OFFLINE",
            if offline { "1" } else { "0" }.into(),
        ),
    ];
    settings.extend(device.map(|name| ("INVARIANCES_DEVICE", OsString::from(name))));
    settings.extend(arguments.retrain.then(|| (RETRAIN, OsString::from("1"))));
    let mut records = gallery::read_records(&out)?;
    let mut failures = Vec::new();
    let mut interrupted = false;
    for notebook in &notebooks {
        let name = stem(notebook);
        println!("\n{name}");
        gallery::remove(&out, &name)?;
        records.retain(|r| r.notebook != name);
        let executed = out.join(format!("{name}.ipynb"));
        let outcome = match execute(&ready, notebook, &executed, &settings) {
            Ok(outcome) => outcome,
            Err(error) => Outcome {
                cells: 0,
                ran: 0,
                seconds: 0.0,
                error: Some(error.to_string()),
                interrupted: false,
            },
        };
        if outcome.interrupted {
            interrupted = true;
            println!("  interrupted; nothing of this notebook is kept");
            gallery::remove(&out, &name)?;
            break;
        }
        let time = duration(Duration::from_secs_f64(outcome.seconds));
        match &outcome.error {
            None => println!("  ✓ {} of {} cells in {time}", outcome.ran, outcome.cells),
            Some(error) => {
                println!(
                    "  ✗ {} of {} cells ran, in {time}",
                    outcome.ran, outcome.cells
                );
                failures.push(format!("{name}: {error}"));
            }
        }
        records.push(Record {
            title: gallery::title(notebook).unwrap_or_else(|| name.clone()),
            notebook: name,
            scale: scale.clone(),
            seed,
            version: VERSION.into(),
            seconds: outcome.seconds,
            cells: outcome.cells,
            ran: outcome.ran,
            error: outcome.error,
        });
    }
    records.sort_by(|a, b| a.notebook.cmp(&b.notebook));
    let claims = gallery::write(&out, &records)?;
    println!();
    for error in &claims.errors {
        println!("✗ {error}");
    }
    for failure in &failures {
        // The first two lines say where it failed and begin the message; the full message was
        // printed above.
        for line in failure.lines().take(2) {
            println!("✗ {line}");
        }
    }
    println!(
        "Claims: {}. Open {}",
        claims.counts,
        out.join("index.html").display()
    );
    println!("{}.", duration(began.elapsed()));
    Ok(if interrupted {
        ExitCode::from(130)
    } else if failures.is_empty() && claims.errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

pub fn scale(option: Option<String>, variable: Option<String>) -> Result<String> {
    let (scale, from) = match (option, variable) {
        (Some(scale), _) => (scale, "--scale"),
        (None, Some(scale)) => (scale, "INVARIANCES_SCALE"),
        (None, None) => return Ok("quick".into()),
    };
    if SCALES.contains(&scale.as_str()) {
        return Ok(scale);
    }
    Err(Error::invalid(format!(
        "{from}: expected one of {}, found `{scale}`",
        SCALES.join(", ")
    )))
}

/// The name of the device that is asked for, if one is. It is opened once, so that a device that
/// this program or this machine does not have is refused before anything is done.
pub fn device(option: Option<String>, variable: Option<String>) -> Result<Option<String>> {
    let (name, from) = match (option, variable) {
        (Some(name), _) => (name, "--device"),
        (None, Some(name)) => (name, "INVARIANCES_DEVICE"),
        (None, None) => return Ok(None),
    };
    match invariances::ops::open_device(&name) {
        Ok(device) => Ok(Some(invariances::ops::device_name(&device))),
        Err(error) => Err(Error::invalid(format!("{from}: {error}"))),
    }
}

/// The device as a part of the first line that is printed; nothing if none is asked for.
pub fn said(device: Option<&str>) -> String {
    device.map_or(String::new(), |name| format!(" · device {name}"))
}

/// Returns the settings of `--set NAME=VALUE`, by name.
///
/// # Errors
/// [`Error::Invalid`] for another form.
pub fn settings(given: &[String]) -> Result<BTreeMap<String, String>> {
    let each = given.iter().map(|text| {
        let found = text
            .split_once('=')
            .filter(|(n, v)| !n.is_empty() && !v.contains(';'));
        let (name, value) = found.ok_or_else(|| {
            Error::invalid(format!(
                "--set: expected NAME=VALUE without `;`, found `{text}`"
            ))
        })?;
        Ok((name.trim().to_string(), value.trim().to_string()))
    });
    each.collect()
}

/// Returns the seed in the value of the variable `name`; 0 if it is not set.
fn seed(name: &str, variable: Option<String>) -> Result<u64> {
    let Some(text) = variable else { return Ok(0) };
    text.parse().map_err(|_| {
        Error::invalid(format!(
            "{name}: expected a whole number from 0, found `{text}`"
        ))
    })
}

pub fn stem(notebook: &Path) -> String {
    notebook
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Returns the chosen notebooks in the order in which they are given.
pub fn choose(folder: &Path, names: &[String], all: bool) -> Result<Vec<PathBuf>> {
    let mut there: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::io(folder, e)),
    };
    there.retain(|path| path.extension().is_some_and(|e| e == "ipynb"));
    there.sort();
    if all {
        return Ok(there);
    }
    let default = DEFAULT.map(str::to_owned);
    let names = if names.is_empty() {
        &default[..]
    } else {
        names
    };
    let mut chosen: Vec<PathBuf> = Vec::new();
    for name in names {
        let path = find(&there, name)?;
        if chosen.contains(&path) {
            continue;
        }
        if let Some(other) = chosen.iter().find(|c| stem(c) == stem(&path)) {
            return Err(Error::invalid(format!(
                "{} and {} would be written to the same file; run them into different folders (--out)",
                other.display(),
                path.display()
            )));
        }
        chosen.push(path);
    }
    Ok(chosen)
}

fn find(there: &[PathBuf], name: &str) -> Result<PathBuf> {
    if let Some(path) = there.iter().find(|p| stem(p) == name) {
        return Ok(path.clone());
    }
    if let Ok(number) = name.parse::<u32>() {
        let numbered = |p: &&PathBuf| {
            let name = stem(p);
            name.split('_').next().and_then(|n| n.parse::<u32>().ok()) == Some(number)
        };
        if let Some(path) = there.iter().find(numbered) {
            return Ok(path.clone());
        }
    }
    let path = Path::new(name);
    if path.extension().is_some_and(|e| e == "ipynb") && path.is_file() {
        return path.canonicalize().map_err(|e| Error::io(path, e));
    }
    if let Some(path) = there
        .iter()
        .find(|p| p.file_name() == Some(path.as_os_str()))
    {
        return Ok(path.clone());
    }
    let known: Vec<String> = there.iter().map(|p| stem(p)).collect();
    let known = if known.is_empty() {
        "there are none in notebooks/".into()
    } else {
        known.join(", ")
    };
    Err(Error::invalid(format!(
        "no notebook `{name}`: expected a number, a name or the path of an .ipynb file; the project's are: {known}"
    )))
}

/// Checks that the output folder can be written, before the long work starts.
pub fn writable(out: &Path) -> Result<()> {
    let advice = "the output folder; choose another one with --out";
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, e).with_hint(advice))?;
    tempfile::tempfile_in(out).map_err(|e| Error::io(out, e).with_hint(advice))?;
    Ok(())
}
