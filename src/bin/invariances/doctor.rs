//! `invariances doctor`: lists what is installed, missing or outdated, and the command that fixes
//! it.

use crate::environment::Environment;
use crate::kernel;
use crate::setup::{self, KERNEL, Python};
use invariances::Result;
use invariances::files::cache_dir;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[derive(clap::Args)]
pub struct Arguments {}

const SET_UP: &str = "cargo run --release -- setup";

enum State {
    Ok,
    /// Missing, but the project works without it.
    Optional,
    /// Missing; `run` and `lab` install it automatically.
    Missing,
    Outdated,
}

struct Line {
    what: &'static str,
    state: State,
    found: String,
    mend: String,
}

pub fn main(_: Arguments) -> Result<ExitCode> {
    let cache = cache_dir()?;
    let project = setup::project()?;
    let mut lines = vec![rust(), cargo()];
    lines.extend(python(&cache, &project));
    lines.push(program(&project));
    lines.push(kernelspec(&cache, &project));
    lines.push(library(&project));
    lines.push(rust_src());
    lines.push(linker());
    lines.push(scale());
    lines.push(device());
    lines.push(ok("project", project.display().to_string()));
    let size = size(&cache) as f64 / (1u64 << 20) as f64;
    lines.push(ok("cache", format!("{}, {size:.0} MiB", cache.display())));

    let mut good = true;
    for Line {
        what,
        state,
        found,
        mend,
    } in &lines
    {
        let word = match state {
            State::Ok => "ok",
            State::Optional => "optional",
            State::Missing => "missing",
            State::Outdated => "outdated",
        };
        good &= matches!(state, State::Ok | State::Optional);
        println!("{what:<15} {word:<9} {found}");
        if !mend.is_empty() {
            println!("{:<25} mend: {mend}", "");
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn line(
    what: &'static str,
    state: State,
    found: impl Into<String>,
    mend: impl Into<String>,
) -> Line {
    Line {
        what,
        state,
        found: found.into(),
        mend: mend.into(),
    }
}

fn ok(what: &'static str, found: String) -> Line {
    line(what, State::Ok, found, "")
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn rust() -> Line {
    let needed = env!("CARGO_PKG_RUST_VERSION");
    let Some(text) = output("rustc", &["--version"]) else {
        return line(
            "Rust",
            State::Missing,
            "no rustc on PATH",
            "install Rust: https://rustup.rs",
        );
    };
    let number = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(['.', ' ', '-']);
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    match (text.strip_prefix("rustc ").and_then(number), number(needed)) {
        (Some(found), Some(wanted)) if found < wanted => line(
            "Rust",
            State::Outdated,
            format!("{text}, {needed} is needed"),
            "rustup update stable",
        ),
        _ => ok("Rust", text),
    }
}

fn cargo() -> Line {
    match output("cargo", &["--version"]) {
        Some(text) => ok("cargo", text),
        None => line(
            "cargo",
            State::Missing,
            "no cargo on PATH",
            "install Rust: https://rustup.rs",
        ),
    }
}

fn python(cache: &Path, project: &Path) -> Vec<Line> {
    let environment = match Environment::read(&project.join("requirements.txt")) {
        Ok(environment) => environment,
        Err(error) => {
            return vec![line(
                "Python",
                State::Missing,
                error.to_string(),
                "git checkout requirements.txt",
            )];
        }
    };
    let wanted = environment.requirements().join(", ");
    match setup::find_python(cache, &environment) {
        Ok(Python::Ready(python)) => vec![
            ok("Python", python.display().to_string()),
            ok("JupyterLab", wanted),
        ],
        Ok(Python::Base {
            program,
            version: (a, b),
        }) => {
            let older = std::fs::read_dir(cache).into_iter().flatten().flatten();
            let older = older
                .filter(|e| e.file_name().to_string_lossy().starts_with("python-"))
                .count()
                > 0;
            let state = if older {
                State::Outdated
            } else {
                State::Missing
            };
            vec![
                ok("Python", format!("{a}.{b}, {}", program.display())),
                line("JupyterLab", state, format!("{wanted} wanted"), SET_UP),
            ]
        }
        Err(error) => vec![line("Python", State::Missing, error.to_string(), "")],
    }
}

fn kernelspec(cache: &Path, project: &Path) -> Line {
    let what = "kernel";
    let file = setup::kernels(cache, project)
        .join(KERNEL)
        .join("kernel.json");
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let program = json["argv"][0].as_str().map(PathBuf::from);
    match (program, kernel::program()) {
        (None, _) => line(
            what,
            State::Missing,
            "Rust (invariances) is not registered",
            SET_UP,
        ),
        (Some(program), Ok(this)) if program != this => line(
            what,
            State::Outdated,
            format!("its command is {}", program.display()),
            SET_UP,
        ),
        _ => ok(what, format!("Rust (invariances), {}", file.display())),
    }
}

fn program(project: &Path) -> Line {
    let what = "cargo-kernel";
    match kernel::program() {
        Ok(program) if !program.is_file() => line(
            what,
            State::Missing,
            "the notebook kernel is not built",
            SET_UP,
        ),
        Ok(program) if kernel::is_current(project) => ok(what, program.display().to_string()),
        Ok(_) => line(
            what,
            State::Outdated,
            "its sources are newer than the program",
            SET_UP,
        ),
        Err(error) => line(what, State::Missing, error.to_string(), SET_UP),
    }
}

fn library(project: &Path) -> Line {
    let what = "library";
    match kernel::problem_of_library(project) {
        Some(problem) => line(what, State::Outdated, problem, "cargo build --release"),
        None => ok(what, "newer than its sources".into()),
    }
}

fn rust_src() -> Line {
    match setup::has_standard_sources() {
        true => ok("rust-src", "there".into()),
        false => line(
            "rust-src",
            State::Optional,
            "not there: variables in cells need their types written down",
            "rustup component add rust-src",
        ),
    }
}

fn linker() -> Line {
    let found = ["mold", "ld.lld"]
        .iter()
        .find_map(|name| which::which_global(name).ok());
    match found {
        Some(linker) => ok("fast linker", linker.display().to_string()),
        None if cfg!(target_os = "macos") => ok("fast linker", "the system's".into()),
        None => line(
            "fast linker",
            State::Optional,
            "neither mold nor lld",
            "Debian, Ubuntu: apt install mold",
        ),
    }
}

fn scale() -> Line {
    match std::env::var("INVARIANCES_SCALE")
        .ok()
        .filter(|v| !v.is_empty())
    {
        None => ok("scale", "quick (INVARIANCES_SCALE is not set)".into()),
        Some(scale) if crate::run::SCALES.contains(&scale.as_str()) => {
            ok("scale", format!("{scale} (INVARIANCES_SCALE)"))
        }
        Some(scale) => line(
            "scale",
            State::Outdated,
            format!(
                "INVARIANCES_SCALE is `{scale}`, expected one of {}",
                crate::run::SCALES.join(", ")
            ),
            "unset INVARIANCES_SCALE",
        ),
    }
}

/// The device on which notebooks run their networks.
fn device() -> Line {
    match invariances::notebook::chosen_device() {
        Ok(device) => ok("device", invariances::ops::device_name(&device)),
        Err(error) => line(
            "device",
            State::Outdated,
            error.to_string(),
            "unset INVARIANCES_DEVICE, or name another device",
        ),
    }
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |m| m.len()),
            _ => 0,
        })
        .sum()
}
