//! Compiles a cell with one call of `rustc`: the changes of its source, the libraries that it is
//! linked with, and the support library made of `cell/report.rs` and `cell/store.rs`.

use super::additions::Additions;
use super::answers::{list_of, objects, read, stdout};
use super::edit::{CHECK, CHECKED, edit};
use super::manifest::Cell;
use super::{Kernel, Result, types, variables};
use crate::project::WRAPPER;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

impl Kernel {
    /// Does `cargo build` or `cargo check` of a cell with one call of rustc.
    pub(super) fn compile(&self, check: bool) -> Result<ExitCode> {
        if !self.setting("problem").is_empty() {
            return Err(format!("error: {}", self.setting("problem")));
        }
        let folder = self.cell_folder();
        let cell = Cell::read(&folder.join("Cargo.toml"))?;
        let others = self.added(&cell)?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| self.setting("rustc").into());
        let mut command = Command::new(rustc);
        command
            .args(["--crate-name", "ctx", "--edition=2024", "src/lib.rs"])
            .args(["--crate-type", "cdylib"])
            .args(["--error-format=json", "--json=diagnostic-rendered-ansi"])
            .arg(if check {
                "--emit=metadata"
            } else {
                "--emit=link"
            })
            .arg(format!("-Copt-level={}", cell.optimisation))
            // Lines are for the report of a crash.
            .args([
                "-Cembed-bitcode=no",
                "-Crpath",
                "-Cdebuginfo=line-tables-only",
            ])
            .args(
                std::env::var("RUSTFLAGS")
                    .unwrap_or_default()
                    .split_whitespace(),
            );
        let out = folder.join("target/cells");
        std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
        command.arg("--out-dir").arg(&out);
        // As cargo does, both files of the dylib are passed: rustc reads the metadata of the rlib,
        // which is not compressed, and links the other file.
        for pair in objects(&self.settings["linked"]) {
            let [name, file] = [&pair[0], &pair[1]].map(|v| v.as_str().unwrap_or_default());
            command.arg("--extern").arg(format!("{name}={file}"));
        }
        for (name, file) in self.settings["crates"].as_object().into_iter().flatten() {
            let file = file.as_str().unwrap_or_default();
            command.arg("--extern").arg(format!("{name}={file}"));
        }
        for folder in list_of(&self.settings["folders"]) {
            command.arg(format!("-L{folder}"));
        }
        let mut crates = Vec::new();
        if !others.is_empty() {
            let built = Additions::new(self, &others).build()?;
            for (name, path) in built.libraries.iter().chain(&built.local) {
                crates.push((name.replace('-', "_"), types::stamp(path)));
            }
            for (name, path) in &built.libraries {
                command
                    .arg("--extern")
                    .arg(format!("{name}={}", path.display()));
            }
            for folder in &built.folders {
                command.arg(format!("-L{folder}"));
            }
        }
        let notice = self.work.join("notice.txt");
        let copy = self.work.join("cell");
        let write = |source: &str| {
            std::fs::create_dir_all(copy.join("src"))
                .and_then(|()| std::fs::write(copy.join("src/lib.rs"), source))
                .map_err(|e| format!("{}: {e}", copy.display()))
        };
        // The first cell of the user says it, not those that run when the kernel starts.
        let mut said = String::new();
        let mut source = String::new();
        let mut table = String::new();
        if check {
            command.current_dir(&folder);
        } else {
            let written = read(&folder.join("src/lib.rs"))?;
            if self.work.join("ready").exists() {
                said = std::fs::read_to_string(&notice).unwrap_or_default();
            }
            let fallback = !self.work.join("own-format").exists();
            let edited = edit(&written, fallback)?;
            source = edited.source;
            if edited.all && source.contains(CHECK) {
                let path = self.work.join(CHECKED);
                std::fs::write(&path, "").map_err(|e| format!("{}: {e}", path.display()))?;
            }
            let stable: Vec<String> = self.provided().into_keys().collect();
            table = types::table(&source, &crates, &stable);
            let again = variables::drop_before_made_again(&mut source);
            write(&format!(
                "{source}{}",
                self.loading(&said, &table, &again, &BTreeMap::new())
            ))?;
            let support = self.support()?;
            command
                .arg("--extern")
                .arg(format!("cargo_kernel_cell={}", support.display()));
            command.current_dir(&copy);
        }
        let mut run = || self.interruptible(&mut command);
        let mut output = run()?;
        if !check && !output.status.success() {
            let invalid = variables::invalid(&source, &String::from_utf8_lossy(&output.stderr));
            if !invalid.is_empty() {
                let empty = variables::empty(&source);
                write(&format!(
                    "{empty}{}",
                    self.loading(&said, &table, &[], &invalid)
                ))?;
                output = run()?;
            }
        }
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(message) if message["code"]["code"] == "E0514" => {
                    return Err(format!(
                        "error: the crate was built by another version of rustc than {}; build it again: {}",
                        self.setting("rustc_version")
                            .lines()
                            .next()
                            .unwrap_or_default(),
                        self.setting("command")
                    ));
                }
                // The message of rustc is about the generated code and says nothing to a user.
                Ok(message)
                    if objects(&message["spans"]).next().is_none()
                        && message["message"]
                            .as_str()
                            .is_some_and(|m| m.contains("`std` only shows up once")) =>
                {
                    return Err(format!(
                        "error: the library of {} contains std. Cells need a dylib that is linked with std: \
                         write `rustflags = [\"-Cprefer-dynamic\", \"-Crpath\"]` under `[build]` in the project's \
                         .cargo/config.toml and build it again, or leave `dylib` out of its `crate-type`",
                        self.setting("package")
                    ));
                }
                Ok(message) => {
                    println!(
                        "{}",
                        json!({ "reason": "compiler-message", "message": message })
                    );
                }
                Err(_) => eprintln!("{line}"),
            }
        }
        if !output.status.success() {
            return Ok(ExitCode::from(101));
        }
        if !check {
            if !said.is_empty() {
                let _ = std::fs::remove_file(notice);
            }
            let library = out.join(format!(
                "{}ctx{}",
                std::env::consts::DLL_PREFIX,
                std::env::consts::DLL_SUFFIX
            ));
            println!(
                "{}",
                json!({ "reason": "compiler-artifact", "target": { "name": "ctx" }, "filenames": [library] })
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Runs rustc or cargo such that an interrupt of the cell ends it: the kernel reads its process
    /// group from a file.
    ///
    /// # Errors
    /// If the cell was interrupted, or rustc cannot be started.
    pub(super) fn interruptible(&self, command: &mut Command) -> Result<Output> {
        const INTERRUPTED: &str = "error: interrupted";
        let interrupted = self.work.join("interrupted");
        let compiling = self.work.join("compiling");
        if interrupted.exists() {
            return Err(INTERRUPTED.into());
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
        let _ = std::fs::write(&compiling, child.id().to_string());
        // The interrupt may have come before the file was there.
        if interrupted.exists()
            && let Some(group) = rustix::process::Pid::from_raw(child.id() as i32)
        {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let output = child.wait_with_output();
        let _ = std::fs::remove_file(&compiling);
        if interrupted.exists() {
            return Err(INTERRUPTED.into());
        }
        output.map_err(|e| format!("rustc: {e}"))
    }

    /// Returns the code with which the loader calls `cell/report.rs` and `cell/store.rs` before the cell
    /// runs.
    fn loading(
        &self,
        notice: &str,
        table: &str,
        again: &[String],
        invalid: &BTreeMap<String, String>,
    ) -> String {
        let invalid: Vec<(&String, &String)> = invalid.iter().collect();
        // A crate that no code names is not linked.
        let generated = objects(&self.settings["linked"]).any(|pair| pair[0] == WRAPPER);
        let wrapper = match generated {
            true => format!("extern crate {WRAPPER} as _; "),
            false => String::new(),
        };
        let section = if cfg!(target_vendor = "apple") {
            "__DATA,__mod_init_func"
        } else {
            ".init_array"
        };
        format!(
            "\n{wrapper}#[used] #[unsafe(link_section = \"{section}\")] \
                 static CARGO_KERNEL: extern \"C\" fn() = {{ extern \"C\" fn loaded() {{ \
                 cargo_kernel_cell::loaded({notice:?}, {:?}, {}, loaded as *const ()); \
                 cargo_kernel_cell::store::defined({table:?}, &{again:?}, &{invalid:?}) }} loaded }};\n",
            self.work.join("cell/src/lib.rs"),
            self.settings["full_panics"],
        )
    }

    /// Returns the compiled library of `cell/`. It is compiled once per version of rustc.
    fn support(&self) -> Result<PathBuf> {
        let source = concat!(
            include_str!("../cell/report.rs"),
            "pub mod store {\n",
            include_str!("../cell/store.rs"),
            "}\n"
        );
        let key = format!("{}{source}", self.setting("rustc_version"));
        let name = format!("cell-{}", &blake3::hash(key.as_bytes()).to_hex()[..16]);
        let folder = Path::new(self.setting("kept")).join(name);
        let library = format!(
            "{}cargo_kernel_cell{}",
            std::env::consts::DLL_PREFIX,
            std::env::consts::DLL_SUFFIX
        );
        let path = folder.join(&library);
        if path.is_file() {
            return Ok(path);
        }
        let part = folder.with_extension(format!("{}.tmp", std::process::id()));
        let text = part.join("cell.rs");
        let failed = |e: std::io::Error| format!("{}: {e}", part.display());
        std::fs::create_dir_all(&part)
            .and_then(|()| std::fs::write(&text, source))
            .map_err(failed)?;
        let mut command = Command::new(self.setting("rustc"));
        command
            .args(["--crate-name", "cargo_kernel_cell", "--edition=2024"])
            .args([
                "--crate-type",
                "dylib",
                "-Cprefer-dynamic",
                "-Crpath",
                "-Copt-level=1",
            ])
            .arg("--out-dir")
            .arg(&part)
            .arg(text);
        stdout(&mut command)?;
        // Another kernel may have compiled it first.
        if std::fs::rename(&part, &folder).is_err() {
            let _ = std::fs::remove_dir_all(&part);
        }
        Ok(path)
    }
}
