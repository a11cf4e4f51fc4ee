//! The Jupyter kernel "Rust (invariances)": `crates/kernel` with this project. Builds it, registers
//! it, and adds the sources of the standard library that it reads.
//!
//! The kernel is a workspace of its own with a lock file of its own, so it is built in a folder of its
//! own beside the project's: `target/kernel`.

use crate::setup::{duration, offline_error};
use invariances::{Error, Result, files};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Instant, SystemTime};

/// The folder of the kernel's crate in a project.
const CRATE: &str = "crates/kernel";

/// cargo's target folder in which this program was built.
fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()
        .and_then(|p| p.canonicalize())
        .map_err(|e| Error::io("invariances", e))?;
    let release = program.parent().and_then(Path::parent);
    Ok(release.unwrap_or(&program).to_path_buf())
}

/// Returns the path of the kernel's program. It may not be built yet.
///
/// # Errors
/// [`Error::Io`] if this program does not know where it is.
pub fn program() -> Result<PathBuf> {
    let name = format!("cargo-kernel{}", std::env::consts::EXE_SUFFIX);
    Ok(target()?.join("kernel/release").join(name))
}

/// Whether the program is newer than everything that it is made of.
pub fn is_current(project: &Path) -> bool {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let Some(built) = program().ok().and_then(|program| modified(&program)) else {
        return false;
    };
    let folder = project.join(CRATE);
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut waiting = vec![folder.join("src")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            waiting.extend(entries.map(|e| e.path()));
        }
        newest = newest.max(modified(&path).unwrap_or(newest));
    }
    for file in ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"] {
        newest = newest.max(modified(&folder.join(file)).unwrap_or(newest));
    }
    newest < built
}

/// Builds the kernel, unless it is current.
///
/// # Errors
/// [`Error::Invalid`] if it cannot be built.
pub fn build(project: &Path, offline: bool) -> Result<PathBuf> {
    let program = program()?;
    if is_current(project) {
        return Ok(program);
    }
    let began = Instant::now();
    if !program.is_file() {
        eprintln!(
            "The notebook kernel: built from source, with evcxr and rust-analyzer; this takes some minutes …"
        );
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = project.join(CRATE);
    let mut build = Command::new(&cargo);
    build
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(target()?.join("kernel"))
        // The settings for cargo in this folder replace those of the project.
        .current_dir(&folder)
        .stdin(Stdio::null());
    if offline {
        build.arg("--offline");
    }
    // Variables that cargo or the user set for this project would change the build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if matches!(
            &*text,
            "RUSTFLAGS" | "RUSTDOCFLAGS" | "CARGO_ENCODED_RUSTFLAGS"
        ) || [
            "CARGO_BUILD_",
            "CARGO_MANIFEST_",
            "CARGO_PKG_",
            "CARGO_PROFILE_",
            "CARGO_TARGET_",
            "CARGO_BIN_",
        ]
        .iter()
        .any(|p| text.starts_with(p))
        {
            build.env_remove(&name);
        }
    }
    let status = build.status().map_err(|e| {
        Error::io(PathBuf::from(&cargo), e)
            .with_hint("cargo builds the kernel; install Rust: https://rustup.rs")
    })?;
    if !status.success() && offline {
        return Err(offline_error("the notebook kernel or one of its crates"));
    }
    if !status.success() {
        // The compiled files are kept, so that the next attempt continues from there.
        return Err(Error::invalid(format!(
            "building the kernel in {} failed (its messages are above); try again",
            folder.display()
        )));
    }
    let took = began.elapsed();
    if took.as_secs() >= 5 {
        eprintln!("The notebook kernel: ready after {}.", duration(took));
    }
    Ok(program)
}

/// `invariances kernel`: builds the kernel if needed, and prints its kernelspec.
///
/// # Errors
/// As [`build`].
pub fn main() -> Result<ExitCode> {
    let project = crate::setup::project()?;
    build(&project, false)?;
    println!("{:#}", kernelspec(&project)?);
    Ok(ExitCode::SUCCESS)
}

/// Writes the kernelspec of this project into `dir`, which is a `kernels` folder of Jupyter.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be written.
pub fn write_kernelspec(dir: &Path, project: &Path) -> Result<()> {
    let text = format!("{:#}\n", kernelspec(project)?);
    files::write_atomic(dir.join("invariances/kernel.json"), text.as_bytes())
}

/// What Jupyter must know to start this project's kernel.
fn kernelspec(project: &Path) -> Result<Value> {
    let mut argv = vec![
        program()?.display().to_string(),
        "start".into(),
        "--path".into(),
        project.display().to_string(),
        "--target-dir".into(),
        target()?.display().to_string(),
    ];
    let features: Vec<&str> = [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
    ]
    .into_iter()
    .filter_map(|(name, on)| on.then_some(name))
    .collect();
    if !features.is_empty() {
        argv.extend(["--features".into(), features.join(",")]);
    }
    argv.push("{connection_file}".into());
    Ok(json!({
        "argv": argv,
        "display_name": "Rust (invariances)",
        "language": "rust",
        "interrupt_mode": "message",
        "env": { "CARGO_KERNEL_CACHE": files::cache_dir()?.join("kernel") },
        "metadata": { "debugger": false },
    }))
}

/// Returns why cells would run old code, or none at all; `None` if the library is current.
pub fn problem_of_library(project: &Path) -> Option<String> {
    let target = target().ok()?;
    let output = Command::new(program().ok()?)
        .args(["check", "--path"])
        .arg(project)
        .arg("--target-dir")
        .arg(target)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr);
    (!output.status.success()).then(|| text.lines().next().unwrap_or_default().to_owned())
}

/// Whether the sources of the standard library are installed. The kernel needs them to infer the
/// types of variables.
pub fn has_standard_sources() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    sysroot.is_ok_and(|o| {
        Path::new(String::from_utf8_lossy(&o.stdout).trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    })
}

/// Installs these sources with rustup. They are the only part outside the project and its cache,
/// because they belong to the Rust toolchain. Without them the kernel works, but variables that later
/// cells use need explicit types.
pub fn standard_sources(offline: bool) {
    if has_standard_sources() {
        return;
    }
    let add = "rustup component add rust-src";
    if offline {
        println!(
            "rust-src is missing: variables in cells need their types written down. Once online: {add}"
        );
        return;
    }
    println!("rust-src: the standard library's sources, added to the Rust toolchain …");
    let added = Command::new("rustup")
        .args(["component", "add", "rust-src"])
        .stdin(Stdio::null())
        .status();
    if !added.is_ok_and(|s| s.success()) {
        println!(
            "rust-src could not be had: variables in cells need their types written down, until `{add}` works."
        );
    }
}
