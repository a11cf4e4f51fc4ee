//! The Jupyter kernel "Rust (invariances)": evcxr in an environment where a cell compiles in a
//! fraction of a second against the library that `cargo build --release` built.
//!
//! `invariances kernel FILE` creates a work folder, writes the settings for `shim` into it, and
//! replaces itself by evcxr_jupyter. evcxr then finds this program under the names `cargo` and
//! `rustup`, through `rustup which cargo` and through `$CARGO_HOME/bin`.

use crate::shim::{STANDARD, WORK};
use invariances::{Error, Result, files};
use serde_json::{Value, json};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::SystemTime;

/// The version of evcxr that the kernel supports.
pub const EVCXR: &str = "0.22.0";
/// The file in a work folder that is locked as long as a process of the kernel runs. Process IDs
/// would not tell this: kernels of several hosts may share the cache.
const LOCK: &str = "kernel.lock";

#[derive(clap::Args)]
pub struct Arguments {
    /// The file with the ports, which Jupyter writes
    connection_file: PathBuf,
}

pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let evcxr = evcxr()?;
    let cache = files::cache_dir()?.join("kernels");
    // evcxr passes the file of a cell to its child process in a line of words separated by
    // blanks.
    if cache.to_str().is_none_or(|path| path.contains(' ')) {
        return Err(Error::invalid(format!(
            "{}: the kernel needs a cache folder whose path is Unicode without blanks; set INVARIANCES_CACHE to one",
            cache.display()
        )));
    }
    let (work, lock) = work_folder(&cache)?;
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
        // These variables would describe another build than that of the cells.
        .env_remove("CARGO")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_BUILD_TARGET_DIR");
    if let Some(sources) = settings["standard"]["short"].as_str()
        && std::env::var_os("RUST_SRC_PATH").is_none()
    {
        command.env("RUST_SRC_PATH", sources);
    }
    // If evcxr finds the kernelspec of its own kernel, it updates it; with this path it does not
    // find one.
    command.env("JUPYTER_PATH", &work);
    // Tensors are large blocks that are allocated and freed often. By default glibc returns each
    // block to the system and requests it again, page by page. Other systems ignore these
    // variables.
    for (name, value) in [
        ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
        ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
        ("MALLOC_TOP_PAD_", "67108864"),
    ] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    // evcxr and the processes of cells inherit the locked file, so that the lock lasts until the
    // last of them ends.
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())
        .map_err(|e| Error::io(&work, e.into()))?;
    let error = command.exec();
    let _ = std::fs::remove_dir_all(&work);
    Err(Error::io(command.get_program(), error))
}

/// Writes the kernelspec of this program into `dir`, which is a `kernels` folder of Jupyter.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be written.
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

/// Returns the path of evcxr_jupyter in the right version: from the cache, otherwise from PATH.
///
/// # Errors
/// [`Error::Invalid`] with the command that installs it.
pub fn evcxr() -> Result<PathBuf> {
    let name = format!("evcxr_jupyter{}", std::env::consts::EXE_SUFFIX);
    let folder = files::cache_dir()?.join(format!("evcxr-{EVCXR}"));
    let own = folder.join("bin").join(&name);
    if own.is_file() {
        return Ok(own);
    }
    // evcxr_jupyter has no option that prints its version, but cargo writes the version next to
    // the `bin` folder.
    let wanted = format!("evcxr_jupyter {EVCXR} ");
    let right = |program: &PathBuf| {
        program
            .parent()
            .and_then(Path::parent)
            .and_then(|root| std::fs::read_to_string(root.join(".crates.toml")).ok())
            .and_then(|text| text.parse::<toml::Table>().ok())
            .and_then(|table| {
                Some(
                    table
                        .get("v1")?
                        .as_table()?
                        .keys()
                        .any(|k| k.starts_with(&wanted)),
                )
            })
            .unwrap_or(false)
    };
    which::which_all_global(&name)
        .into_iter()
        .flatten()
        .find(right)
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

/// Fills the work folder with the settings, the shims and the current library.
fn prepare(work: &Path, cache: &Path) -> Result<Value> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let release = program()?
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let make = |folder: &Path| std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e));
    for folder in ["bin", "lib", "ctx"] {
        make(&work.join(folder))?;
    }
    let kept = cache.join("kept");
    make(&kept)?;

    // Hard links keep this kernel's library and program while a new build replaces the originals.
    let link = |from: &Path, to: &Path| {
        std::fs::hard_link(from, to)
            .or_else(|_| std::fs::copy(from, to).map(drop))
            .map_err(|e| Error::io(from, e).with_hint("build the library: cargo build --release"))
    };
    let mut libraries = Vec::new();
    let dependencies = release.join("deps");
    for end in [".rlib", std::env::consts::DLL_SUFFIX] {
        let name = format!("libinvariances{end}");
        // The files in `release/deps` are used, because cargo updates only some of those in
        // `release`, depending on the subcommand.
        let to = work.join("lib").join(&name);
        link(&dependencies.join(&name), &to)?;
        libraries.push(to);
    }
    // Under these names the program acts as `shim` describes; it finds its library in `../lib`.
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
    // The variables that this program changes for evcxr. The shim restores them for the real
    // programs.
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
        "rustup": which::which_global("rustup").ok(),
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

/// Returns the folder of the standard library's sources, and of a reduced copy. The copy is made
/// once per compiler version and omits the crates that no cell uses. Most of the omitted code is
/// the processors' intrinsics, a third of what rust-analyzer would read.
///
/// `None` if the sources are not installed: rust-analyzer then asks rustup for them.
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
        // Another kernel may have made the copy first. If there is no disk space, the full
        // sources are used.
        if copied.is_err() || std::fs::rename(&part, &folder).is_err() {
            let _ = std::fs::remove_dir_all(&part);
        }
    }
    short.is_dir().then_some((whole, short))
}

/// Copies the manifest and the Rust files of a crate, without tests and benchmarks.
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

/// Returns the path of the library that cells are linked with; `release` is the folder of this
/// program.
pub fn library(release: &Path) -> PathBuf {
    release
        .join("deps")
        .join(format!("libinvariances{}", std::env::consts::DLL_SUFFIX))
}

/// Returns a notice if a source file is newer than the built library: cells would then run old
/// code.
pub fn edited_since(release: &Path) -> Option<String> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dependencies = release.join("deps");
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let built: SystemTime = modified(&library(release))?;
    // rustc lists the source files of the library in this file.
    let list = std::fs::read_to_string(dependencies.join("invariances.d")).ok()?;
    let edited: Vec<PathBuf> = sources(&list)
        .into_iter()
        .map(|path| project.join(path))
        .chain(crate_sources(&project.join("crates")))
        // A file that no longer exists counts as edited.
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

/// Returns the files in `src` of each crate below `crates`: what the library is made of, but for the
/// root package.
fn crate_sources(crates: &Path) -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => below(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(crates).into_iter().flatten().flatten() {
        below(&entry.path().join("src"), &mut found);
    }
    found
}

/// Returns the files in a dependency list in `make` format: they follow the colon, and blanks
/// within names are escaped.
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

/// Returns the path of the real rustc or cargo for `project`, without rustup's proxy if rustup is
/// installed.
fn tool(name: &str, project: &Path) -> Result<PathBuf> {
    if which::which_global("rustup").is_ok() {
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
    which::which_global(name).map_err(|_| {
        Error::invalid(format!(
            "{name} is not on PATH; install Rust: https://rustup.rs"
        ))
    })
}

/// Removes the work folders of kernels that have ended, and creates a new one. Returns it with its
/// locked file.
fn work_folder(cache: &Path) -> Result<(PathBuf, File)> {
    let failed = |e| Error::io(cache, e);
    std::fs::create_dir_all(cache).map_err(failed)?;
    // Held until the new folder is locked: otherwise another kernel could remove it before.
    let gate = File::create(cache.join(LOCK)).map_err(failed)?;
    // On a file system without locks, no folder can be locked, and none is removed.
    let _ = gate.lock();
    remove_finished(cache);
    let work = tempfile::Builder::new()
        .prefix("kernel-")
        .tempdir_in(cache)
        .map_err(failed)?
        .keep();
    let lock = File::create(work.join(LOCK)).map_err(failed)?;
    if let Err(std::fs::TryLockError::Error(e)) = lock.try_lock()
        && e.kind() != ErrorKind::Unsupported
    {
        return Err(failed(e));
    }
    Ok((work, lock))
}

/// Removes the work folders whose file no process has locked.
fn remove_finished(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let work = entry.path();
        // A lock of other hosts on NFS requires a file that is open for writing.
        let file = File::options().write(true).open(work.join(LOCK));
        if file.is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(&work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{remove_finished, work_folder};

    #[test]
    fn only_folders_without_a_running_kernel_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        let kept = cache.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        let (ended, lock) = work_folder(cache.path()).unwrap();
        let (running, _lock) = work_folder(cache.path()).unwrap();
        assert!(ended.is_dir() && running.is_dir());
        drop(lock);
        remove_finished(cache.path());
        assert!(!ended.exists() && running.is_dir() && kept.is_dir());
    }
}
