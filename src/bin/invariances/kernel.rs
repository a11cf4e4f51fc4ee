//! The Jupyter kernel "Rust (invariances)": evcxr, in an environment where a cell compiles in a
//! fraction of a second against the library that `cargo build --release` made.
//!
//! `invariances kernel FILE` makes a work folder, writes the settings there that `shim` reads, and
//! becomes evcxr_jupyter. That finds this program under the names `cargo` and `rustup`, by
//! `rustup which cargo` and by `$CARGO_HOME/bin`.

use crate::shim::{STANDARD, WORK};
use invariances::{Error, Result, files};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

/// The version of evcxr that the kernel is made for.
pub const EVCXR: &str = "0.22.0";

#[derive(clap::Args)]
pub struct Arguments {
    /// The file with the ports, which Jupyter writes
    connection_file: PathBuf,
}

pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let evcxr = evcxr()?;
    let cache = files::cache_dir()?.join("kernels");
    // evcxr tells its child process the file of a cell by a line of words.
    if cache.to_str().is_none_or(|path| path.contains(' ')) {
        return Err(Error::invalid(format!(
            "{}: the kernel needs a cache folder whose path is Unicode without blanks; set INVARIANCES_CACHE to one",
            cache.display()
        )));
    }
    remove_finished(&cache);
    let work = cache.join(std::process::id().to_string());
    let settings = prepare(&work, &cache)?;
    let bin = work.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)))
            .map_err(|e| {
                Error::invalid(format!("PATH cannot be extended by {}: {e}", bin.display()))
            })?;
    let mut command = Command::new(evcxr);
    command
        .arg("--control_file")
        .arg(&arguments.connection_file)
        .env(WORK, &work)
        .env("EVCXR_TMPDIR", work.join("ctx"))
        .env("CARGO_HOME", &work)
        .env("RUSTC", settings["rustc"].as_str().unwrap_or_default())
        .env("PATH", path)
        // They would be about another build than the cells'.
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET_DIR");
    if let Some(sources) = settings["standard"]["short"].as_str()
        && std::env::var_os("RUST_SRC_PATH").is_none()
    {
        command.env("RUST_SRC_PATH", sources);
    }
    // evcxr would renew the files of a kernel of its own, where it finds one.
    command.env("JUPYTER_PATH", &work);
    // Tensors are big blocks that come and go: glibc would hand each back to the system and fetch it
    // again, page by page. Other systems do not read these.
    for (name, value) in [
        ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
        ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
        ("MALLOC_TOP_PAD_", "67108864"),
    ] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    let error = command.exec();
    let _ = std::fs::remove_dir_all(&work);
    Err(Error::io(command.get_program(), error))
}

/// Writes the kernelspec into `dir`, a folder `kernels` of Jupyter's, for this very program.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be written.
pub fn write_kernelspec(dir: &Path) -> Result<()> {
    let program = program()?;
    let spec = json!({
        "argv": [program, "kernel", "{connection_file}"],
        "display_name": "Rust (invariances)",
        "language": "rust",
        "interrupt_mode": "message",
        "metadata": { "debugger": false },
    });
    let text = format!("{spec:#}\n");
    files::write_atomic(dir.join("invariances/kernel.json"), text.as_bytes())
}

/// The evcxr_jupyter of the right version: the one in the cache, else one on PATH.
///
/// # Errors
/// [`Error::Invalid`] that says how to install it.
pub fn evcxr() -> Result<PathBuf> {
    let name = format!("evcxr_jupyter{}", std::env::consts::EXE_SUFFIX);
    let folder = files::cache_dir()?.join(format!("evcxr-{EVCXR}"));
    let own = folder.join("bin").join(&name);
    if own.is_file() {
        return Ok(own);
    }
    // It does not tell its version; cargo noted it beside the folder of programs.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let right = |bin: &PathBuf| {
        bin.join(&name).is_file()
            && bin
                .parent()
                .and_then(|p| std::fs::read_to_string(p.join(".crates.toml")).ok())
                .is_some_and(|text| text.contains(&format!("\"evcxr_jupyter {EVCXR} ")))
    };
    std::env::split_paths(&path)
        .find(right)
        .map(|bin| bin.join(&name))
        .ok_or_else(|| {
            Error::invalid(format!(
                "evcxr_jupyter {EVCXR} is neither in {} nor on PATH; install it: cargo install --locked evcxr_jupyter --version {EVCXR} --root {}",
                folder.display(),
                folder.display()
            ))
        })
}

fn program() -> Result<PathBuf> {
    std::env::current_exe()
        .and_then(|p| p.canonicalize())
        .map_err(|e| Error::io("invariances", e))
}

/// Makes the work folder: settings, the shims, and the library as it is now.
fn prepare(work: &Path, cache: &Path) -> Result<Value> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let release = program()?
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let make = |folder: &Path| std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e));
    // A process of this number may have ended here before, without us.
    let _ = std::fs::remove_dir_all(work);
    for folder in ["bin", "lib", "ctx"] {
        make(&work.join(folder))?;
    }
    let kept = cache.join("kept");
    make(&kept)?;

    // Links keep this kernel's library and program while a build puts others in their place.
    let link = |from: &Path, to: &Path| {
        std::fs::hard_link(from, to)
            .or_else(|_| std::fs::copy(from, to).map(drop))
            .map_err(|e| Error::io(from, e).with_hint("build the library: cargo build --release"))
    };
    let mut libraries = Vec::new();
    let dependencies = release.join("deps");
    for end in [".rlib", std::env::consts::DLL_SUFFIX] {
        let name = format!("libinvariances{end}");
        // Not those in `release`, of which cargo renews only some, depending on its subcommand.
        let to = work.join("lib").join(&name);
        link(&dependencies.join(&name), &to)?;
        libraries.push(to);
    }
    // Under these names the program is what `shim` describes; it finds its library in `../lib`.
    for name in ["cargo", "rustup"] {
        link(&program()?, &work.join("bin").join(name))?;
    }

    let rustc = tool("rustc", project)?;
    let cargo = tool("cargo", project)?;
    let rustc_version = text(&rustc, &["-vV"])?;
    let host = rustc_version
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .unwrap_or_default()
        .to_owned();
    let standard = standard_library(&rustc, &rustc_version, &kept);
    let cargo_version = text(&cargo, &["--version"])?.trim().to_owned();
    let features: Vec<&str> = [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
    ]
    .into_iter()
    .filter_map(|(name, on)| on.then_some(name))
    .collect();
    // What we change for evcxr, and the shim gives back to the real programs.
    let environment: serde_json::Map<String, Value> = [
        "PATH",
        "CARGO",
        "CARGO_HOME",
        "RUSTC",
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET_DIR",
        WORK,
        "EVCXR_TMPDIR",
        "RUST_SRC_PATH",
        "JUPYTER_PATH",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), std::env::var(name).ok().into()))
    .collect();
    let settings = json!({
        "project": project,
        "cargo": cargo,
        "cargo_version": cargo_version,
        "rustc": rustc,
        "rustc_version": rustc_version,
        "rustup": which("rustup"),
        "host": host,
        "standard": standard.map(|(whole, short)| json!({ "whole": whole, "short": short })),
        "features": features,
        "crate": libraries,
        "dependencies": dependencies,
        "kept": kept,
        "added": cache.join("added"),
        "environment": environment,
        "full_panics": std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v == "full"),
    });
    let write = |name: &str, content: &str| {
        let path = work.join(name);
        std::fs::write(&path, content).map_err(|e| Error::io(path, e))
    };
    write("kernel.json", &settings.to_string())?;
    if let Some(notice) = edited_since(&release) {
        eprintln!("{notice}");
        write("notice.txt", &notice)?;
    }
    Ok(settings)
}

/// The sources of the standard library and a copy of them, made once for each version, without what nobody
/// names in a cell. Most of it are the processors' intrinsics, a third of what rust-analyzer would read.
///
/// None where the sources are not installed: rust-analyzer then asks rustup for them.
fn standard_library(rustc: &Path, version: &str, kept: &Path) -> Option<(PathBuf, PathBuf)> {
    let sysroot = text(rustc, &["--print", "sysroot"]).ok()?;
    let whole = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    let name = format!(
        "standard-{}",
        &blake3::hash(version.as_bytes()).to_hex()[..16]
    );
    let folder = kept.join(&name);
    let short = folder.join("rust/library");
    if whole.join("Cargo.toml").is_file() && !short.is_dir() {
        let part = kept.join(format!("{name}.{}.tmp", std::process::id()));
        let library = part.join("rust/library");
        let copied = STANDARD
            .iter()
            .try_for_each(|name| copy_sources(&whole.join(name), &library.join(name)))
            .and_then(|()| std::fs::copy(whole.join("Cargo.toml"), library.join("Cargo.toml")));
        // Another kernel may have been quicker; without room for it, the whole serves as well.
        if copied.is_err() || std::fs::rename(&part, &folder).is_err() {
            let _ = std::fs::remove_dir_all(&part);
        }
    }
    short.is_dir().then_some((whole, short))
}

/// Copies a crate's manifest and Rust files, without tests and benchmarks.
fn copy_sources(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            if name != "tests" && name != "benches" {
                copy_sources(&entry.path(), &to.join(name))?;
            }
        } else if name == "Cargo.toml" || Path::new(&name).extension().is_some_and(|e| e == "rs") {
            std::fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// The library that cells are linked with, below the folder of this program.
pub fn library(release: &Path) -> PathBuf {
    release
        .join("deps")
        .join(format!("libinvariances{}", std::env::consts::DLL_SUFFIX))
}

/// What to say where a source of the library is newer than the library: cells would use what is no longer written there.
pub fn edited_since(release: &Path) -> Option<String> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = release.join("deps");
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let built: SystemTime = modified(&library(release))?;
    // rustc lists there what it made the library of.
    let list = std::fs::read_to_string(dependencies.join("invariances.d")).ok()?;
    let edited: Vec<PathBuf> = sources(&list)
        .into_iter()
        .map(|path| project.join(path))
        .chain(rust_files(&project.join("crates")))
        // A file that is gone was edited, too.
        .filter(|path| modified(path).is_none_or(|m| m > built))
        .collect();
    let first = edited.first()?;
    let others = match edited.len() - 1 {
        0 => String::new(),
        1 => " and one other file".into(),
        n => format!(" and {n} other files"),
    };
    Some(format!(
        "invariances: {}{others} changed since the crate was built, and cells use what was built.\n\
         Build it again and restart the kernel:\n    cd {} && cargo build --release",
        first.display(),
        project.display()
    ))
}

/// The Rust files of the crates that the library is made of, below `folder`.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// The files of a dependency list in the form of `make`: after the colon, blanks within names escaped.
fn sources(list: &str) -> Vec<String> {
    let line = list
        .lines()
        .find_map(|l| l.split_once(": "))
        .map_or("", |(_, files)| files);
    line.replace("\\ ", "\0")
        .split_whitespace()
        .map(|f| f.replace('\0', " "))
        .collect()
}

fn text(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|e| Error::io(program, e))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Error::invalid(format!(
            "{} {} failed: {}",
            program.display(),
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}

/// The real rustc or cargo that builds in `project`: without the detour over rustup where that is installed.
fn tool(name: &str, project: &Path) -> Result<PathBuf> {
    if which("rustup").is_some() {
        let output = Command::new("rustup")
            .args(["which", name])
            .current_dir(project)
            .output();
        if let Ok(output) = output
            && output.status.success()
        {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().into());
        }
    }
    which(name).ok_or_else(|| {
        Error::invalid(format!(
            "{name} is not on PATH; install Rust: https://rustup.rs"
        ))
    })
}

fn which(name: &str) -> Option<PathBuf> {
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Removes the work folders of kernels that have ended.
fn remove_finished(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let process = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<libc::pid_t>().ok());
        if let Some(process) = process {
            // SAFETY: signal 0 only asks whether there is such a process.
            let there = unsafe { libc::kill(process, 0) } == 0
                || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
            if !there {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}
