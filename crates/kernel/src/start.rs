//! Starts a kernel: a work folder with the settings for the shim, then this program again, in the
//! environment in which evcxr finds the shim as `cargo` and `rustup`.

use crate::project::{Built, Project, text_from, tool};
use crate::shim::{STANDARD, WORK};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The file in a work folder that is locked as long as a process of the kernel runs. Process IDs
/// would not tell this: kernels of several hosts may share the cache.
const LOCK: &str = "kernel.lock";
/// The file in a work folder with the name of the host. Locks of other hosts are not visible on
/// every file system, so only the folders of this host are ever removed.
const HOST: &str = "host";

/// What a running kernel knows of its work folder.
pub struct Work {
    pub folder: PathBuf,
    pub program: PathBuf,
    pub crate_name: String,
    /// The names under which cells can use the project's crates.
    pub crates: Vec<String>,
    pub rust_version: String,
    /// The value of RUST_BACKTRACE with which the kernel was started.
    pub backtraces: Option<String>,
}

impl Work {
    /// Opens the folder that [`start`] made.
    ///
    /// # Errors
    /// If its settings cannot be read.
    pub fn open(folder: PathBuf) -> Result<Self> {
        let path = folder.join("kernel.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let settings: Value = serde_json::from_str(&text)?;
        let version = settings["rustc_version"].as_str().unwrap_or_default();
        Ok(Self {
            folder,
            program: std::env::current_exe()?,
            crates: crate::shim::provided(&settings).into_keys().collect(),
            crate_name: settings["package"].as_str().unwrap_or_default().into(),
            rust_version: version.split_whitespace().nth(1).unwrap_or_default().into(),
            backtraces: settings["environment"]["RUST_BACKTRACE"]
                .as_str()
                .map(String::from),
        })
    }

    /// The file with the source of the cell that was compiled last.
    pub fn cell_source(&self) -> PathBuf {
        self.folder.join("cell/src/lib.rs")
    }
}

/// Returns the folder for what kernels keep: `CARGO_KERNEL_CACHE`, otherwise `cargo-kernel` in the
/// user's cache folder.
///
/// # Errors
/// If there is no home folder, or its path cannot be passed to evcxr.
pub fn cache() -> Result<PathBuf> {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let cache = set("CARGO_KERNEL_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|c| c.join("cargo-kernel")))
        .or_else(|| {
            let folder = match cfg!(target_vendor = "apple") {
                true => "Library/Caches",
                false => ".cache",
            };
            Some(set("HOME")?.join(folder).join("cargo-kernel"))
        })
        .context("there is no cache folder; set CARGO_KERNEL_CACHE to one")?;
    // evcxr passes the file of a cell to its child process in a line of words separated by blanks.
    if cache.to_str().is_none_or(|path| path.contains(' ')) {
        bail!(
            "{}: the kernel needs a cache folder whose path is Unicode without blanks; set CARGO_KERNEL_CACHE to one",
            cache.display()
        );
    }
    Ok(cache)
}

/// Writes a file such that it is never seen half written, and everyone can read it.
///
/// # Errors
/// If its folder cannot be written.
pub fn write_atomic(path: &Path, content: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)?;
    std::fs::write(file.path(), content)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// Starts the kernel of a project. Returns only if that fails.
///
/// # Errors
/// If Rust is not installed, or a folder cannot be written.
pub fn start(project: &Project, connection: &Path) -> Result<std::convert::Infallible> {
    let cache = cache()?;
    let (work, lock) = work_folder(&cache)?;
    let settings = match prepare(&work, &cache, project) {
        Ok(settings) => settings,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&work);
            return Err(error);
        }
    };
    let bin = work.join("bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)))
            .with_context(|| format!("PATH cannot be extended by {}", bin.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("serve")
        .arg(connection)
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
    // Numbers in large blocks are allocated and freed often. By default glibc returns each block to
    // the system and requests it again, page by page. Other systems ignore these variables.
    for (name, value) in [
        ("MALLOC_MMAP_THRESHOLD_", "1073741824"),
        ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
        ("MALLOC_TOP_PAD_", "67108864"),
    ] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    // The kernel and the processes of cells inherit the locked file, so that the lock lasts until
    // the last of them ends.
    rustix::io::fcntl_setfd(&lock, rustix::io::FdFlags::empty())?;
    let error = command.exec();
    let _ = std::fs::remove_dir_all(&work);
    Err(error).context("the kernel could not be started")
}

/// Fills the work folder with the settings, the shims and the current library.
fn prepare(work: &Path, cache: &Path, project: &Project) -> Result<Value> {
    let make = |folder: &Path| {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())
    };
    for folder in ["bin", "lib", "ctx"] {
        make(&work.join(folder))?;
    }
    let kept = cache.join("kept");
    make(&kept)?;
    let built = project.built();
    let (built, problem) = match built {
        Ok(built) => (built, None),
        // The kernel starts nevertheless and says in the notebook what is missing.
        Err(error) => (Built::default(), Some(format!("{error:#}"))),
    };

    // Hard links keep this kernel's library and program while a new build replaces the originals.
    let link = |from: &Path, to: &Path| {
        std::fs::hard_link(from, to)
            .or_else(|_| std::fs::copy(from, to).map(drop))
            .with_context(|| from.display().to_string())
    };
    let mut linked = Vec::new();
    for (name, file) in &built.linked {
        let end = match file.extension().is_some_and(|e| e == "rlib") {
            true => ".rlib",
            false => std::env::consts::DLL_SUFFIX,
        };
        let to = work.join("lib").join(format!("lib{name}{end}"));
        link(file, &to)?;
        linked.push((name.clone(), to));
    }
    let (crates, folders) = keep_libraries(work, project, &built);
    // Under these names the program acts as `shim` describes.
    for name in ["cargo", "rustup"] {
        link(&std::env::current_exe()?, &work.join("bin").join(name))?;
    }

    let rustc = tool("rustc", &project.folder)?;
    let cargo = tool("cargo", &project.folder)?;
    let rustc_version = text_from(Command::new(&rustc).arg("-vV"))?;
    let host = rustc_version
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .unwrap_or_default()
        .to_owned();
    let standard = standard_library(&rustc, &rustc_version, &kept);
    let cargo_version = text_from(Command::new(&cargo).arg("--version"))?
        .trim()
        .to_owned();
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
        "RUST_BACKTRACE",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), std::env::var(name).ok().into()))
    .collect();
    let settings = json!({
        "project": project.folder,
        "workspace": project.workspace,
        "package": project.package,
        "library": project.library,
        "command": project.command(),
        "problem": problem,
        "cargo": cargo,
        "cargo_version": cargo_version,
        "rustc": rustc,
        "rustc_version": rustc_version,
        "rustup": which::which_global("rustup").ok(),
        "host": host,
        "standard": standard.map(|(whole, short)| json!({ "whole": whole, "short": short })),
        "features": project.features,
        "linked": linked,
        "crates": crates,
        "versions": built.versions,
        "folders": folders,
        "types": project.settings["types"],
        "once": project.settings["once"],
        "once_hint": project.settings["once-hint"],
        "kept": kept,
        "added": cache.join("added"),
        "environment": environment,
        "full_panics": std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v == "full"),
    });
    let write = |name: &str, content: &str| {
        let path = work.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())
    };
    write("kernel.json", &settings.to_string())?;
    if let Some(notice) = edited_since(project, &built) {
        eprintln!("{notice}");
        write("notice.txt", &notice)?;
    }
    Ok(settings)
}

/// Links the libraries that cargo built into the work folder, so that a new build changes nothing for a
/// kernel that runs. Returns the crates and the folders that rustc gets; the original ones where the
/// file system has no links.
fn keep_libraries(
    work: &Path,
    project: &Project,
    built: &Built,
) -> (BTreeMap<String, PathBuf>, Vec<String>) {
    let original = project.dependencies();
    let kept = work.join("lib/deps");
    let all = || -> std::io::Result<()> {
        std::fs::create_dir_all(&kept)?;
        for entry in std::fs::read_dir(&original)? {
            let entry = entry?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let ends = [".rlib", ".rmeta", std::env::consts::DLL_SUFFIX];
            if ends.iter().any(|end| text.ends_with(end)) {
                std::fs::hard_link(entry.path(), kept.join(&name))?;
            }
        }
        Ok(())
    };
    if all().is_err() {
        let _ = std::fs::remove_dir_all(&kept);
        return (built.crates.clone(), built.folders.clone());
    }
    let crates = built.crates.iter().map(|(name, path)| {
        let file = path.file_name().map(|file| kept.join(file));
        let file = file.filter(|file| file.is_file());
        (name.clone(), file.unwrap_or_else(|| path.clone()))
    });
    let folders = built.folders.iter().map(|folder| {
        match *folder == format!("dependency={}", original.display()) {
            true => format!("dependency={}", kept.display()),
            false => folder.clone(),
        }
    });
    (crates.collect(), folders.collect())
}

/// Returns the folder of the standard library's sources, and of a reduced copy. The copy is made
/// once per compiler version and omits the crates that no cell uses. Most of the omitted code is
/// the processors' intrinsics, a third of what rust-analyzer would read.
///
/// `None` if the sources are not installed: rust-analyzer then asks rustup for them.
fn standard_library(rustc: &Path, version: &str, kept: &Path) -> Option<(PathBuf, PathBuf)> {
    let sysroot = text_from(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
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

/// Returns a notice if a source file is newer than the built library: cells would then run old
/// code.
pub fn edited_since(project: &Project, built: &Built) -> Option<String> {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    let library = &built
        .linked
        .iter()
        .find(|(_, file)| file.extension().is_some_and(|e| e != "rlib"))?
        .1;
    // cargo leaves a library alone whose sources did not change; the build itself is newer then.
    let when: SystemTime =
        modified(library)?.max(modified(&project.record()).unwrap_or(SystemTime::UNIX_EPOCH));
    // rustc lists the source files of a library in this file.
    let list = project.dependencies().join(format!(
        "{}.d",
        project.library.as_deref().unwrap_or_default()
    ));
    let listed = std::fs::read_to_string(list).map(|list| sources(&list));
    let mut files: Vec<PathBuf> = match listed {
        Ok(listed) => listed
            .into_iter()
            .map(|path| project.workspace.join(path))
            .collect(),
        Err(_) => Vec::new(),
    };
    if files.is_empty() {
        below(&project.folder.join("src"), &mut files);
    }
    for folder in local_crates(project) {
        below(&folder.join("src"), &mut files);
    }
    let edited: Vec<PathBuf> = files
        .into_iter()
        // A file that no longer exists counts as edited.
        .filter(|path| modified(path).is_none_or(|m| m > when))
        .collect();
    let first = edited.first()?;
    let others = match edited.len() - 1 {
        0 => String::new(),
        1 => " and one other file".into(),
        n => format!(" and {n} other files"),
    };
    Some(format!(
        "{}: {}{others} changed since the crate was built, and cells use what was built.\n\
         Build it again and restart the kernel:\n    {}",
        project.package,
        first.display(),
        project.command()
    ))
}

/// Returns the folders of the other crates in the workspace, which the project may be made of.
fn local_crates(project: &Project) -> Vec<PathBuf> {
    let manifest = std::fs::read_to_string(project.workspace.join("Cargo.toml"));
    let members = manifest
        .ok()
        .and_then(|text| text.parse::<toml::Table>().ok())
        .and_then(|table| table.get("workspace")?.get("members")?.as_array().cloned());
    let mut found = Vec::new();
    for member in members.into_iter().flatten() {
        let Some(member) = member.as_str() else {
            continue;
        };
        match member.strip_suffix("/*") {
            Some(folder) => {
                let inside = std::fs::read_dir(project.workspace.join(folder));
                found.extend(inside.into_iter().flatten().flatten().map(|e| e.path()));
            }
            None => found.push(project.workspace.join(member)),
        }
    }
    // A folder may be excluded: only those that cargo built have left a library.
    let built = |folder: &PathBuf| {
        let text = std::fs::read_to_string(folder.join("Cargo.toml")).ok()?;
        let table = text.parse::<toml::Table>().ok()?;
        let name = table
            .get("package")?
            .get("name")?
            .as_str()?
            .replace('-', "_");
        let begin = format!("lib{name}-");
        let entries = std::fs::read_dir(project.dependencies()).ok()?;
        entries
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with(&begin))
            .then_some(())
    };
    found.retain(|folder| *folder != project.folder && built(folder).is_some());
    found
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => below(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
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

/// Removes the work folders of kernels that have ended, and creates a new one. Returns it with its
/// locked file.
fn work_folder(cache: &Path) -> Result<(PathBuf, File)> {
    let cache = cache.join("kernels");
    let failed = || cache.display().to_string();
    std::fs::create_dir_all(&cache).with_context(failed)?;
    // Held until the new folder is locked: otherwise another kernel could remove it before.
    let gate = File::create(cache.join(LOCK)).with_context(failed)?;
    // On a file system without locks, no folder can be locked, and none is removed.
    let _ = gate.lock();
    remove_finished(&cache);
    let work = tempfile::Builder::new()
        .prefix("kernel-")
        .tempdir_in(&cache)
        .with_context(failed)?
        .keep();
    std::fs::write(work.join(HOST), host_name()).with_context(failed)?;
    let lock = File::create(work.join(LOCK)).with_context(failed)?;
    if let Err(std::fs::TryLockError::Error(e)) = lock.try_lock()
        && e.kind() != ErrorKind::Unsupported
    {
        return Err(e).with_context(failed);
    }
    Ok((work, lock))
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Removes the work folders of this host whose file no process has locked.
fn remove_finished(cache: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let work = entry.path();
        let ours = std::fs::read_to_string(work.join(HOST)).is_ok_and(|host| host == host_name());
        // A lock on NFS requires a file that is open for writing.
        let file = File::options().write(true).open(work.join(LOCK));
        if ours && file.is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(&work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HOST, LOCK, remove_finished, sources, work_folder};

    #[test]
    fn only_folders_of_this_host_without_a_running_kernel_are_removed() {
        let cache = tempfile::tempdir().unwrap();
        let kernels = cache.path().join("kernels");
        let (ended, lock) = work_folder(cache.path()).unwrap();
        let (running, _lock) = work_folder(cache.path()).unwrap();
        assert!(ended.is_dir() && running.is_dir());
        let other = kernels.join("kernel-other");
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join(HOST), "another host").unwrap();
        std::fs::write(other.join(LOCK), "").unwrap();
        drop(lock);
        remove_finished(&kernels);
        assert!(!ended.exists() && running.is_dir() && other.is_dir());
    }

    #[test]
    fn the_sources_of_a_library_are_read_from_its_list() {
        let list = "libx.rlib: src/lib.rs src/a\\ b.rs\n\nsrc/lib.rs:\n";
        assert_eq!(sources(list), ["src/lib.rs", "src/a b.rs"]);
        assert!(sources("").is_empty());
    }
}
