//! A Jupyter kernel for any Cargo project.
//!
//! ```text
//! cargo kernel install --path my/project    builds the project for notebooks, tells Jupyter
//! cargo kernel build --path my/project      builds it again after a change
//! ```
//!
//! The same program is four others, each started by the one before:
//!
//! 1. `start` makes a work folder (`start.rs`) and becomes
//! 2. `serve`, the kernel: sockets (`server.rs`), requests (`session.rs`), output of cells
//!    (`output.rs`). evcxr's library compiles cells and infers the types of variables.
//! 3. The process that runs cells (`child/`) is started by evcxr.
//! 4. The shim (`shim/`) is what evcxr and rust-analyzer find as `cargo` and `rustup`.

mod child;
mod control;
mod frames;
mod hover;
mod messages;
mod output;
mod project;
mod report;
mod server;
mod session;
mod shim;
mod start;
mod text;
mod wrapper;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use project::Project;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Serves Rust notebooks with a Cargo project
#[derive(Parser)]
#[command(name = "cargo kernel", bin_name = "cargo kernel", version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build a project for notebooks, and add its kernel to Jupyter's list
    Install(Install),
    /// Build a project for notebooks
    Build(Which),
    /// Check that a project was built for notebooks after its last change
    Check(Which),
    /// Start a project's kernel; Jupyter does this
    Start {
        #[command(flatten)]
        which: Which,
        /// The file with the ports, which Jupyter writes
        connection_file: PathBuf,
    },
    /// Serve a connection; `start` does this
    #[command(hide = true)]
    Serve { connection_file: PathBuf },
}

#[derive(Args)]
struct Which {
    /// The folder with the project's Cargo.toml
    #[arg(long, default_value = ".")]
    path: PathBuf,
    /// Features of the project, separated by commas
    #[arg(long, value_delimiter = ',')]
    features: Vec<String>,
    /// The folder for what cargo builds, if it is not the project's own
    #[arg(long)]
    target_dir: Option<PathBuf>,
}

impl Which {
    fn project(&self) -> Result<Project> {
        Project::read(&self.path, self.target_dir.as_deref(), &self.features)
    }
}

#[derive(Args)]
struct Install {
    #[command(flatten)]
    which: Which,
    /// The name in Jupyter's list
    #[arg(long)]
    display_name: Option<String>,
    /// Where Jupyter keeps kernels: a prefix such as that of a Python environment, instead of the
    /// user's own folder
    #[arg(long)]
    prefix: Option<PathBuf>,
    /// Do not build the project now
    #[arg(long)]
    no_build: bool,
}

fn main() -> ExitCode {
    if let Some(code) = shim::run() {
        return code;
    }
    child::run_if_asked();
    // cargo passes its own name for the command on: `cargo kernel install` is
    // `cargo-kernel kernel install`.
    let mut words: Vec<_> = std::env::args_os().collect();
    if words.get(1).is_some_and(|word| word == "kernel") {
        words.remove(1);
    }
    let done = match Cli::parse_from(words).command {
        Action::Install(arguments) => install(&arguments),
        Action::Build(which) => which.project().and_then(|project| {
            project.build()?;
            println!("Built {} for notebooks.", project.package);
            Ok(())
        }),
        Action::Check(which) => which.project().and_then(|project| {
            match start::edited_since(&project, &project.built()?) {
                Some(notice) => bail!(notice),
                None => Ok(()),
            }
        }),
        Action::Start {
            which,
            connection_file,
        } => which
            .project()
            .and_then(|project| start::start(&project, &connection_file))
            .map(|never| match never {}),
        Action::Serve { connection_file } => std::env::var_os(shim::WORK)
            .context("`serve` is started by `start`")
            .and_then(|folder| start::Work::open(folder.into()))
            .and_then(|work| server::serve(&connection_file, work)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo kernel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the project and writes its kernelspec.
fn install(arguments: &Install) -> Result<()> {
    let project = arguments.which.project()?;
    if !arguments.no_build {
        project.build()?;
    }
    let mut argv = vec![
        std::env::current_exe()?.canonicalize()?,
        "start".into(),
        "--path".into(),
        project.folder.clone(),
    ];
    if let Some(target) = &arguments.which.target_dir {
        argv.extend(["--target-dir".into(), std::path::absolute(target)?]);
    }
    if !project.features.is_empty() {
        argv.extend(["--features".into(), project.features.join(",").into()]);
    }
    argv.push("{connection_file}".into());
    let name = match &arguments.display_name {
        Some(name) => name.clone(),
        None => format!("Rust ({})", project.package),
    };
    let mut environment = serde_json::Map::new();
    if let Ok(cache) = std::env::var("CARGO_KERNEL_CACHE") {
        environment.insert("CARGO_KERNEL_CACHE".into(), cache.into());
    }
    let spec = json!({
        "argv": argv,
        "display_name": name,
        "language": "rust",
        "interrupt_mode": "message",
        "env": environment,
        "metadata": { "debugger": false },
    });
    let folder = kernels(arguments.prefix.as_deref())?.join(id(arguments
        .display_name
        .as_deref()
        .unwrap_or(&project.package)));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join("kernel.json");
    start::write_atomic(&path, &format!("{spec:#}\n"))
        .with_context(|| path.display().to_string())?;
    println!("Jupyter's list has \"{name}\" now ({}).", path.display());
    Ok(())
}

/// The name of the kernel's folder, from the name in the list or of the package: what Jupyter allows
/// in one.
fn id(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let id: String = name.chars().filter(|c| allowed(*c)).collect();
    format!("rust-{}", id.to_ascii_lowercase())
}

/// Jupyter's folder for the kernels of a prefix or of the user.
fn kernels(prefix: Option<&Path>) -> Result<PathBuf> {
    if let Some(prefix) = prefix {
        return Ok(prefix.join("share/jupyter/kernels"));
    }
    if let Some(data) = std::env::var_os("JUPYTER_DATA_DIR") {
        return Ok(PathBuf::from(data).join("kernels"));
    }
    let Some(home) = std::env::var_os("HOME") else {
        bail!("there is no home folder; use --prefix");
    };
    let home = PathBuf::from(home);
    Ok(match cfg!(target_vendor = "apple") {
        true => home.join("Library/Jupyter/kernels"),
        false => std::env::var_os("XDG_DATA_HOME")
            .map_or_else(|| home.join(".local/share"), PathBuf::from)
            .join("jupyter/kernels"),
    })
}
