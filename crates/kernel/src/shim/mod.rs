//! The program that the kernel runs instead of `cargo` and `rustup`: this program, started under
//! those names.
//!
//! evcxr compiles every cell with `cargo build`. It gets the types of variables from
//! rust-analyzer, which runs `cargo metadata`. Both would process all crates of the project each
//! time, often hundreds. For the crate of a cell, this program answers instead: with one call of
//! `rustc` against the library that cargo built, and with a graph of the few crates whose types
//! users name. All other calls go to the real cargo.
//!
//! `start.rs` creates links named `cargo` and `rustup` to its own program and writes the settings
//! that are read here. No second program has to be built.
//!
//! From a cell to its result:
//!
//! 1. Jupyter sends the cell to the kernel, which passes it to evcxr (`session.rs`).
//! 2. evcxr writes a crate `ctx` with the cell, the user's earlier items, and code that takes
//!    variables from a store and puts them back. It runs `cargo build`, which is this program.
//! 3. `compile.rs` replaces evcxr's store by ours (`cell/store.rs`) and its reports of panics and
//!    errors (`cell/report.rs`, both in `edit.rs`), lists the definitions on which the variables'
//!    types depend (`types.rs` with `tokens.rs`), and drops variables of types that were redefined
//!    (`variables.rs`).
//! 4. It runs `rustc` once, with the project's dylib and the compiled `cell/` as libraries. A
//!    dependency of the user (`:dep`, `additions.rs`) is built by cargo before, and refused if it
//!    brings a second copy of a crate that may exist only once. `manifest.rs` reads what a cell
//!    depends on.
//! 5. evcxr has the library `libctx` loaded by the process for cells (`child/`), which runs it.
//!
//! rust-analyzer gets its graph of crates from `graph.rs`; `answers.rs` runs programs and reads what
//! they print.

mod additions;
pub mod answers;
mod compile;
mod edit;
mod graph;
mod manifest;
mod tokens;
mod types;
mod variables;

pub use additions::{build_of, visible};
pub use edit::{CHECK, CHECKED, incomplete};
pub use variables::stored_variable;

use answers::{after, objects, read, same_file, stdout};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The crates of the standard library that rust-analyzer gets. They are found without the
/// registry, so this works offline. `start.rs` copies the sources of the same crates.
pub const STANDARD: [&str; 8] = [
    "alloc",
    "core",
    "panic_abort",
    "panic_unwind",
    "proc_macro",
    "std",
    "test",
    "unwind",
];

/// The environment variable that names the kernel's work folder.
pub const WORK: &str = "CARGO_KERNEL_WORK";

/// Acts as `cargo` or `rustup` if the kernel started this program under that name.
///
/// Returns `None` for every other start, also for a start under such a name outside a kernel.
pub fn run() -> Option<ExitCode> {
    let program = PathBuf::from(std::env::args_os().next()?);
    let work = PathBuf::from(std::env::var_os(WORK)?);
    let run = match program.file_name()?.to_str()? {
        "cargo" => Kernel::cargo,
        "rustup" => Kernel::rustup,
        _ => return None,
    };
    let done = Kernel::open(work).and_then(|kernel| run(&kernel));
    Some(done.unwrap_or_else(|message| {
        eprintln!("{message}");
        ExitCode::from(101)
    }))
}

/// Returns the names under which cells can use the project's crates, with their versions (`""`
/// where it is not known), from a kernel's settings.
pub fn provided(settings: &Value) -> BTreeMap<String, String> {
    let mut provided: BTreeMap<String, String> = settings["versions"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, version)| (name.clone(), version.as_str().unwrap_or_default().into()))
        .collect();
    for pair in objects(&settings["linked"]) {
        let name = pair[0].as_str().unwrap_or_default();
        if name != crate::project::WRAPPER {
            provided.entry(name.into()).or_default();
        }
    }
    provided
}

type Result<T> = std::result::Result<T, String>;

/// The kernel's work folder, with the settings that `start.rs` wrote.
struct Kernel {
    work: PathBuf,
    settings: Value,
}

impl Kernel {
    fn open(work: PathBuf) -> Result<Self> {
        let settings = serde_json::from_str(&read(&work.join("kernel.json"))?)
            .map_err(|e| format!("{}: {e}", work.join("kernel.json").display()))?;
        Ok(Kernel { work, settings })
    }

    fn setting(&self, name: &str) -> &str {
        self.settings[name].as_str().unwrap_or_default()
    }

    fn provided(&self) -> BTreeMap<String, String> {
        provided(&self.settings)
    }

    /// Returns the folder of the crate that evcxr writes for each cell.
    fn cell_folder(&self) -> PathBuf {
        self.work.join("ctx")
    }

    /// Replaces this process by the real program, with the environment in which the kernel was
    /// started.
    fn become_real(&self, program: &str) -> Result<ExitCode> {
        let mut command = self.real(program);
        command.args(std::env::args_os().skip(1));
        Err(format!("{program}: {}", command.exec()))
    }

    fn real(&self, program: &str) -> Command {
        let mut command = Command::new(self.setting(program));
        if let Some(environment) = self.settings["environment"].as_object() {
            for (name, value) in environment {
                match value.as_str() {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
        }
        // See `project::cargo`.
        if program == "cargo" && self.settings["environment"]["RUSTC"].is_null() {
            command.env("RUSTC", self.setting("rustc"));
        }
        command
    }

    fn rustup(&self) -> Result<ExitCode> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["which", "rustc"] => println!("{}", self.setting("rustc")),
            // Cells are compiled by this program with every toolchain.
            ["which", "cargo"] | [_, "which", "cargo"] => {
                println!("{}", self.work.join("bin/cargo").display())
            }
            _ if self.setting("rustup").is_empty() => {
                return Err("rustup is not installed".into());
            }
            _ => return self.become_real("rustup"),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn cargo(&self) -> Result<ExitCode> {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let manifest = after(&arguments, "--manifest-path").map(PathBuf::from);
        let here = std::env::current_dir().map_err(|e| e.to_string())?;
        let of_cell = match &manifest {
            Some(path) => path.starts_with(self.cell_folder()),
            None => same_file(&here, &self.cell_folder()),
        };
        let has = |word: &str| arguments.iter().any(|a| a == word);
        if has("--version") && arguments.len() == 1 {
            println!("{}", self.setting("cargo_version"));
        } else if has("metadata")
            && let Some(path) = &manifest
            && path.ends_with("rust/library/Cargo.toml")
        {
            print!("{}", self.standard_library(path)?);
        } else if !of_cell {
            return self.become_real("cargo");
        } else if has("locate-project") {
            let root = self.cell_folder().join("Cargo.toml");
            println!("{}", json!({ "root": root }));
        } else if has("metadata") {
            return self.metadata(has("--no-deps"));
        } else if has("rustc") && has("--print") {
            return self.print(&arguments);
        } else if has("config") && has("get") || has("clean") {
            // Cargo's settings have no effect on cells, and there is nothing to clean.
        } else if has("build") || has("check") {
            return self.compile(has("check"));
        } else {
            return self.become_real("cargo");
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Answers `cargo rustc --print cfg`, with which rust-analyzer reads the properties of the
    /// target. The answer comes from rustc and is cached per version of rustc.
    fn print(&self, arguments: &[String]) -> Result<ExitCode> {
        let what = after(arguments, "--print").unwrap_or_default();
        let text = self.kept(&["print", what, self.setting("rustc_version")], || {
            let mut command = Command::new(self.setting("rustc"));
            command.env("RUSTC_BOOTSTRAP", "1");
            command.args(["-Zunstable-options", "--print", what, "-O"]);
            stdout(&mut command)
        })?;
        print!("{text}");
        Ok(ExitCode::SUCCESS)
    }

    /// Returns a text that depends only on `key`. It is made once and cached for all kernels.
    fn kept(&self, key: &[&str], make: impl FnOnce() -> Result<String>) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for part in [env!("CARGO_PKG_VERSION")].iter().chain(key) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        let name = format!("{}-{}.txt", key[0], &hasher.finalize().to_hex()[..16]);
        let path = Path::new(self.setting("kept")).join(name);
        if let Ok(text) = std::fs::read_to_string(&path) {
            return Ok(text);
        }
        let text = make()?;
        crate::start::write_atomic(&path, &text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(text)
    }
}
