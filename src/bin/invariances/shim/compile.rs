//! Compiles a cell with one call of `rustc`: the changes of its source, the libraries that it is
//! linked with, and the support library made of `cell.rs` and `store.rs`.

use super::additions::Additions;
use super::answers::{read, stdout};
use super::manifest::Cell;
use super::{Kernel, OURS, Result, types, variables};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

impl Kernel {
    /// Does `cargo build` or `cargo check` of a cell with one call of rustc.
    pub(super) fn compile(&self, check: bool) -> Result<ExitCode> {
        let folder = self.cell_folder();
        let cell = Cell::read(&folder.join("Cargo.toml"))?;
        let (ours, others) = cell.split();
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
            .args(["-Cembed-bitcode=no", "-Crpath"])
            .args(
                std::env::var("RUSTFLAGS")
                    .unwrap_or_default()
                    .split_whitespace(),
            );
        let out = folder.join("target/cells");
        std::fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
        command.arg("--out-dir").arg(&out);
        if ours.is_some() {
            // As cargo does, both files are passed: rustc reads the metadata of the rlib, which
            // is not compressed, and links the other file.
            for file in self.settings["crate"].as_array().into_iter().flatten() {
                let file = file.as_str().unwrap_or_default();
                command.arg("--extern").arg(format!("{OURS}={file}"));
            }
            command.arg(format!("-Ldependency={}", self.setting("dependencies")));
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
        let said = match ours {
            Some(_) => std::fs::read_to_string(&notice).unwrap_or_default(),
            None => String::new(),
        };
        let mut source = String::new();
        let mut table = String::new();
        if check {
            command.current_dir(&folder);
        } else {
            source = self.instrumented(&read(&folder.join("src/lib.rs"))?);
            table = types::table(&source, &crates);
            let again = variables::drop_before_made_again(&mut source);
            write(&format!(
                "{source}{}",
                self.loading(&said, &table, &again, &BTreeMap::new())
            ))?;
            let support = self.support()?;
            command
                .arg("--extern")
                .arg(format!("invariances_kernel={}", support.display()));
            command.current_dir(&copy);
        }
        let mut run = || {
            let output = command.stdin(Stdio::null()).output();
            output.map_err(|e| format!("rustc: {e}"))
        };
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
                        "error: the crate was built by another version of rustc than {}; build it again: cargo build --release",
                        self.setting("rustc_version")
                            .lines()
                            .next()
                            .unwrap_or_default()
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
            if ours.is_some() {
                let _ = std::fs::remove_file(notice);
            }
            let _ = std::fs::write(self.work.join("started"), "");
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

    /// Changes the source of a cell that evcxr wrote, so that `cell.rs` is called if the cell
    /// panics or returns an error, and so that the compiled variable store is used. No line
    /// number changes.
    fn instrumented(&self, source: &str) -> String {
        let panicked = "println!(\"EVCXR_PANIC_NOTIFICATION\");";
        let mut source = source.replace(
            panicked,
            &format!("invariances_kernel::panicked(); {panicked}"),
        );
        // Replaces the source of evcxr's variable store by ours, which is already compiled.
        const STORE: &str = "mod evcxr_internal_runtime {";
        if let Some(start) = source.find(STORE)
            && let Some(last) =
                source[start..].find("Box::into_raw(Box::new(VariableStore::new()))\n}\n")
            && let Some(length) = source[start + last..].find("}\n}")
        {
            let text = start..start + last + length + "}\n}".len();
            let lines = "\n".repeat(source[text.clone()].matches('\n').count());
            let ours = format!("{STORE} pub use invariances_kernel::store::*; {lines}}}");
            source.replace_range(text, &ours);
        }
        // evcxr's error conversion has eprintln!(FORMAT, error); println!(…USER_ERROR_OCCURRED);
        if let Some(end) = source.find("evcxr_internal_runtime::USER_ERROR_OCCURRED);")
            && let Some(start) = source[..end].rfind("eprintln!(")
            && let Some(length) = source[start..end].find(", error);")
        {
            let format = &source[start + "eprintln!(".len()..start + length];
            let call = format!(
                "invariances_kernel::report(\"error\", &format!(concat!(\"error: \", {format}), error));"
            );
            source.replace_range(start..start + length + ", error);".len(), &call);
        }
        source
    }

    /// Returns the code with which the loader calls `cell.rs` and `store.rs` before the cell
    /// runs.
    fn loading(
        &self,
        notice: &str,
        table: &str,
        again: &[String],
        invalid: &BTreeMap<String, String>,
    ) -> String {
        let invalid: Vec<(&String, &String)> = invalid.iter().collect();
        let new_process = if self.work.join("started").exists() {
            "invariances: a new process runs this cell; the variables of earlier cells are lost."
        } else {
            ""
        };
        let section = if cfg!(target_vendor = "apple") {
            "__DATA,__mod_init_func"
        } else {
            ".init_array"
        };
        format!(
            "\n#[used] #[unsafe(link_section = \"{section}\")] \
                 static INVARIANCES_KERNEL: extern \"C\" fn() = {{ extern \"C\" fn loaded() {{ \
                 invariances_kernel::loaded({notice:?}, {new_process:?}, {:?}, {}); \
                 invariances_kernel::store::defined({table:?}, &{again:?}, &{invalid:?}) }} loaded }};\n",
            self.work.join("cell/src/lib.rs"),
            self.settings["full_panics"],
        )
    }

    /// Returns the compiled library of `cell.rs`. It is compiled once per version of rustc.
    fn support(&self) -> Result<PathBuf> {
        let source = concat!(
            include_str!("cell.rs"),
            "pub mod store {\n",
            include_str!("store.rs"),
            "}\n"
        );
        let key = format!("{}{source}", self.setting("rustc_version"));
        let name = format!("cell-{}", &blake3::hash(key.as_bytes()).to_hex()[..16]);
        let folder = Path::new(self.setting("kept")).join(name);
        let library = format!(
            "{}invariances_kernel{}",
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
            .args(["--crate-name", "invariances_kernel", "--edition=2024"])
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
