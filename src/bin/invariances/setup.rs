//! `invariances setup`: installs what a notebook needs: a Python with JupyterLab, and the kernel,
//! built and registered. Python goes into the project's cache, the kernel into cargo's target
//! folder. Parts that are present and have the right version are used as they are.
//!
//! `python.rs` finds or makes the Python; `kernel.rs` builds and registers the kernel.

use crate::environment::{Environment, blake3_hex};
use crate::kernel;
use crate::python::make_venv;
use invariances::files::cache_dir;
use invariances::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

pub use crate::kernel::has_standard_sources;
pub use crate::python::{Python, find_python};
pub use invariances_core::duration;

/// The name of the kernelspec in Jupyter's list.
pub const KERNEL: &str = "invariances";

#[derive(clap::Args)]
pub struct Arguments {
    /// Download nothing; fail where something is missing
    #[arg(long)]
    offline: bool,
}

pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let ready = ready(arguments.offline)?;
    println!("Python   {}", ready.python.display());
    println!("kernel   {}", ready.kernel.display());
    println!("         {}", ready.kernels.join(KERNEL).display());
    println!("All there ({}).", duration(began.elapsed()));
    Ok(ExitCode::SUCCESS)
}

/// Everything that is needed to execute a notebook.
pub struct Ready {
    pub project: PathBuf,
    pub cache: PathBuf,
    /// A Python with JupyterLab and nbclient.
    pub python: PathBuf,
    /// The kernel's program.
    pub kernel: PathBuf,
    /// Jupyter's folder `kernels`, with the kernelspec of this clone.
    pub kernels: PathBuf,
}

impl Ready {
    /// Returns a command that runs Python such that Jupyter finds this clone's kernel and writes
    /// its files into the cache.
    pub fn python(&self) -> Command {
        let mut command = Command::new(&self.python);
        // The user's search path could contain other versions than the pinned ones.
        for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"] {
            command.env_remove(name);
        }
        let home = self.cache.join("jupyter");
        let ours = self.kernels.parent().unwrap_or(&self.kernels);
        let theirs = std::env::var_os("JUPYTER_PATH").unwrap_or_default();
        let path = std::iter::once(ours.to_owned()).chain(std::env::split_paths(&theirs));
        command
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env(
                "JUPYTER_PATH",
                std::env::join_paths(path).unwrap_or_else(|_| ours.into()),
            )
            .env("JUPYTER_CONFIG_DIR", home.join("config"))
            .env("JUPYTER_DATA_DIR", home.join("data"))
            .env("JUPYTER_RUNTIME_DIR", home.join("runtime"))
            .env("IPYTHONDIR", home.join("ipython"));
        if std::env::var_os("INVARIANCES_OFFLINE").is_some_and(|v| !v.is_empty() && v != "0") {
            // What the kernel's cargo reads.
            command.env("CARGO_NET_OFFLINE", "true");
        }
        command
    }
}

/// Installs what is missing and prints what it does. If everything is present, this takes
/// milliseconds.
///
/// # Errors
/// If something is missing and cannot be installed; the message says what the user can do.
pub fn ready(offline: bool) -> Result<Ready> {
    let project = project()?;
    let cache = cache_dir()?;
    std::fs::create_dir_all(&cache).map_err(|e| {
        Error::io(&cache, e)
            .with_hint("the project's cache; set INVARIANCES_CACHE to a folder that can be written")
    })?;
    let environment = Environment::read(&project.join("requirements.txt"))?;
    // Search for Python first: without it, nothing else is installed.
    let found = find_python(&cache, &environment)?;
    // Two commands must not install into the same folder at the same time.
    let lock = cache.join("setup.lock");
    let lock = std::fs::File::create(&lock).map_err(|e| {
        Error::io(&lock, e)
            .with_hint("the project's cache; set INVARIANCES_CACHE to a folder that can be written")
    })?;
    if lock.try_lock().is_err() {
        println!("Waiting for another set-up in {} …", cache.display());
        lock.lock().map_err(|e| Error::io(&cache, e))?;
    }
    let python = match found {
        Python::Ready(python) => python,
        Python::Base { program, .. } => {
            // Another command may have created the environment while this one waited.
            match find_python(&cache, &environment)? {
                Python::Ready(python) => python,
                Python::Base { .. } => make_venv(&program, &cache, &environment, offline)?,
            }
        }
    };
    let program = kernel::build(&project, offline)?;
    kernel::standard_sources(offline);
    let kernels = kernels(&cache, &project);
    kernel::write_kernelspec(&kernels, &project)?;
    // IPython expects its folder to exist.
    let ipython = cache.join("jupyter/ipython");
    std::fs::create_dir_all(&ipython).map_err(|e| Error::io(&ipython, e))?;
    // For users who start Jupyter from this environment by hand. An environment of the user is
    // not changed.
    if python.starts_with(&cache)
        && let Some(prefix) = python.parent().and_then(Path::parent)
    {
        kernel::write_kernelspec(&prefix.join("share/jupyter/kernels"), &project)?;
    }
    Ok(Ready {
        project,
        cache,
        python,
        kernel: program,
        kernels,
    })
}

/// Returns Jupyter's folder `kernels` for the clone in `project`. Several clones share the cache,
/// and each one has its own folder in it.
pub fn kernels(cache: &Path, project: &Path) -> PathBuf {
    let clone = blake3_hex(project.as_os_str().as_encoded_bytes());
    cache.join("clones").join(clone).join("jupyter/kernels")
}

/// Returns the project's folder: the folder in which this command was built, otherwise the
/// nearest project folder above the current one.
///
/// # Errors
/// [`Error::Invalid`] if neither holds the project.
pub fn project() -> Result<PathBuf> {
    let is_project = |dir: &Path| {
        std::fs::read_to_string(dir.join("Cargo.toml"))
            .ok()
            .and_then(|text| text.parse::<toml::Table>().ok())
            .and_then(|table| Some(table.get("package")?.get("name")?.as_str()? == "invariances"))
            .unwrap_or(false)
    };
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    if is_project(built) {
        return Ok(built.into());
    }
    let here = std::env::current_dir().map_err(|e| Error::io(".", e))?;
    here.ancestors().find(|dir| is_project(dir)).map(Path::to_owned).ok_or_else(|| {
        Error::invalid(format!(
            "the project's folder is gone: it was {} when this command was built; change to the folder where it is now and build again: cargo build --release",
            built.display()
        ))
    })
}

pub fn offline_error(what: &str) -> Error {
    Error::invalid(format!(
        "{what} is missing, and --offline forbids downloading it; run `cargo run --release -- setup` once with a connection"
    ))
}
