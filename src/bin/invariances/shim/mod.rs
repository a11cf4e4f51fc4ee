//! The program that the kernel "Rust (invariances)" runs instead of `cargo` and `rustup`: this
//! program, started under those names.
//!
//! evcxr compiles every cell with `cargo build`. It gets the types of variables from
//! rust-analyzer, which runs `cargo metadata`. Both would process about 500 crates each time. For
//! the crate of a cell, this program answers instead: with one call of `rustc` against the
//! library that cargo built, and with a graph of the few crates whose types users name. All other
//! calls go to the real cargo.
//!
//! The command `invariances kernel` creates links named `cargo` and `rustup` to its own program
//! and writes the settings that are read here. No second program has to be built.
//!
//! From a cell to its result:
//!
//! 1. Jupyter sends the cell to evcxr_jupyter, which `kernel.rs` started.
//! 2. evcxr writes a crate `ctx` with the cell, the user's earlier items, and code that takes
//!    variables from a store and puts them back. It runs `cargo build`, which is this program.
//! 3. `Kernel::compile` replaces evcxr's store by ours (`store.rs`), adds the reports of panics and
//!    errors (`cell.rs`), lists the definitions on which the variables' types depend (`types.rs`
//!    with `tokens.rs`), and drops variables of types that were redefined (`variables.rs`).
//! 4. It runs `rustc` once, with `libinvariances.so` and the compiled `cell.rs` as libraries. A
//!    dependency of the user (`:dep`) is built by cargo before, and refused if it contains candle.
//! 5. evcxr loads the library `libctx` into its child process, which runs the cell.

mod tokens;
mod types;
mod variables;

use invariances::files::write_atomic;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// The crates whose types appear in the types of users' variables. Each further crate would cost
/// rust-analyzer time, all of them several seconds.
const NAMED: [&str; 21] = [
    "candle-core",
    "candle-nn",
    "candle-transformers",
    "half",
    "hf-hub",
    "invariances-core",
    "invariances-data",
    "invariances-figure",
    "invariances-hub",
    "invariances-ops",
    "num-traits",
    "plotters",
    "plotters-backend",
    "polars",
    "polars-arrow",
    "polars-buffer",
    "polars-core",
    "polars-dtype",
    "polars-error",
    "polars-io",
    "polars-utils",
];

/// The crates of the standard library that rust-analyzer gets. They are found without the
/// registry, so this works offline. `invariances kernel` copies the sources of the same crates.
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

const OURS: &str = "invariances";

/// The environment variable that names the kernel's work folder.
pub const WORK: &str = "INVARIANCES_KERNEL";

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

type Result<T> = std::result::Result<T, String>;

/// The kernel's work folder, with the settings that `invariances kernel` wrote.
struct Kernel {
    work: PathBuf,
    settings: Value,
}

/// The parts of a cell's manifest, written by evcxr, that are needed here.
struct Cell {
    name: String,
    optimisation: String,
    /// Crates and their specifications, as in `[dependencies]`, in alphabetical order.
    dependencies: BTreeMap<String, toml::Value>,
}

impl Cell {
    fn read(manifest: &Path) -> Result<Self> {
        let mut table = read(manifest)?
            .parse::<toml::Table>()
            .map_err(|e| format!("{}: {e}", manifest.display()))?;
        let name = table
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(toml::Value::as_str)
            .unwrap_or("ctx")
            .to_owned();
        let level = table
            .get("profile")
            .and_then(toml::Value::as_table)
            .into_iter()
            .flat_map(|profiles| profiles.values())
            .find_map(|profile| profile.get("opt-level"));
        let optimisation = match level {
            None => "2".into(),
            Some(toml::Value::String(level)) => level.clone(),
            Some(level) => level.to_string(),
        };
        let dependencies = match table.remove("dependencies") {
            Some(toml::Value::Table(crates)) => crates.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        Ok(Cell {
            name,
            optimisation,
            dependencies,
        })
    }

    /// Returns the specification of our crate, if the cell uses it, and the crates that the user
    /// added.
    fn split(&self) -> (Option<&toml::Value>, BTreeMap<&str, &toml::Value>) {
        let ours = self.dependencies.get(OURS);
        let others = self
            .dependencies
            .iter()
            .filter(|(name, _)| *name != OURS)
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        (ours, others)
    }
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
        write_atomic(&path, text.as_bytes()).map_err(|e| e.to_string())?;
        Ok(text)
    }

    /// Returns the graph of the standard library's crates.
    fn standard_library(&self, manifest: &Path) -> Result<String> {
        // The reduced copy of the sources lacks some crates, so cargo cannot read it; it reads
        // the full sources.
        let whole = self.settings["standard"]["whole"].as_str();
        let short = self.settings["standard"]["short"].as_str();
        let (manifest, paths) = match (whole, short) {
            (Some(whole), Some(short)) if manifest.starts_with(short) => {
                (Path::new(whole).join("Cargo.toml"), Some((whole, short)))
            }
            _ => (manifest.to_path_buf(), None),
        };
        // Without hashbrown, a `HashMap` has no methods. Every version has the types that `std`
        // uses.
        let hashbrown = parse(&self.our_graph()?)?["hashbrown"].clone();
        let key = format!(
            "{} {paths:?} {}",
            manifest.display(),
            text_of(&hashbrown, "id")
        );
        self.kept(&["standard", &key, self.setting("rustc_version")], || {
            let mut command = self.real("cargo");
            command
                .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
                .arg("--manifest-path")
                .arg(&manifest)
                // The standard library uses features that only a nightly cargo accepts;
                // rust-analyzer sets this too.
                .env("__CARGO_TEST_CHANNEL_OVERRIDE_DO_NOT_USE_THIS", "nightly");
            let mut text = stdout(&mut command)?;
            if let Some((whole, short)) = paths {
                text = text.replace(whole, short);
            }
            let mut answer = parse(&text)?;
            let mut packages = objects(&answer["packages"])
                .filter(|p| STANDARD.contains(&text_of(p, "name")))
                .map(libraries_only)
                .collect::<Vec<_>>();
            packages.extend((!hashbrown.is_null()).then_some(hashbrown));
            let id: BTreeMap<String, String> = packages
                .iter()
                .map(|p| (text_of(p, "name").into(), text_of(p, "id").into()))
                .collect();
            let nodes: Vec<Value> = packages
                .iter()
                .map(|p| {
                    let named = objects(&p["dependencies"])
                        .filter(|d| d["kind"].is_null())
                        .map(|d| text_of(d, "name"));
                    let of_hashbrown = ["core", "alloc"]
                        .into_iter()
                        .filter(|_| text_of(p, "name") == "hashbrown");
                    let edges = named
                        .chain(of_hashbrown)
                        .filter_map(|name| id.get(name).map(|id| (name.to_owned(), id.clone())))
                        .collect::<BTreeMap<_, _>>();
                    // `std` needs the feature for unwinding panics; its other features do not
                    // change types.
                    node(
                        text_of(p, "id"),
                        &edges,
                        json!(["default", "panic-unwind", "panic_unwind"]),
                    )
                })
                .collect();
            answer["workspace_members"] = id.values().cloned().collect();
            answer["workspace_default_members"] = answer["workspace_members"].clone();
            answer["packages"] = packages.into();
            answer["resolve"] = json!({ "nodes": nodes, "root": null });
            Ok(answer.to_string())
        })
    }

    /// Prints the graph of a cell's crate: our crate with the crates whose types users name, and
    /// the crates that the user added.
    fn metadata(&self, alone: bool) -> Result<ExitCode> {
        let folder = self.cell_folder();
        let manifest = folder.join("Cargo.toml");
        let cell = Cell::read(&manifest)?;
        let (ours, others) = cell.split();
        if let Some(specification) = ours {
            self.accept(specification)?;
        }
        let mut packages = BTreeMap::<String, Value>::new();
        let mut nodes = BTreeMap::<String, Value>::new();
        let mut edges = BTreeMap::<String, String>::new();
        // Added crates are looked up also when evcxr only checks whether they exist.
        if !others.is_empty() && !alone {
            let graph = Additions::new(self, &others).metadata()?;
            for package in objects(&graph["packages"]) {
                packages.insert(text_of(package, "id").into(), libraries_only(package));
            }
            for one in objects(&graph["resolve"]["nodes"]) {
                if one["id"] == graph["resolve"]["root"] {
                    for edge in objects(&one["deps"]) {
                        edges.insert(text_of(edge, "name").into(), text_of(edge, "pkg").into());
                    }
                    packages.remove(text_of(one, "id"));
                } else {
                    nodes.insert(text_of(one, "id").into(), one.clone());
                }
            }
        }
        if ours.is_some() && !alone && cell.name == "ctx" {
            let graph = parse(&self.our_graph()?)?;
            for package in objects(&graph["packages"]) {
                packages.insert(text_of(package, "id").into(), package.clone());
            }
            for one in objects(&graph["nodes"]) {
                nodes.insert(text_of(one, "id").into(), one.clone());
            }
            edges.insert(OURS.into(), text_of(&graph, "root").into());
        }
        // An added crate can also be in our graph. Only edges to packages in the combined graph
        // are kept.
        for one in nodes.values_mut() {
            if let Some(deps) = one["deps"].as_array_mut() {
                deps.retain(|d| packages.contains_key(text_of(d, "pkg")));
            }
        }
        let id = format!("path+file://{}#{}@1.0.0", folder.display(), cell.name);
        let dependencies: Vec<Value> = cell
            .dependencies
            .keys()
            .map(|name| {
                json!({
                    "name": name, "source": null, "req": "*", "kind": null, "rename": null,
                    "optional": false, "uses_default_features": true, "features": [],
                    "target": null, "registry": null,
                })
            })
            .collect();
        packages.insert(
            id.clone(),
            json!({
                "name": cell.name, "version": "1.0.0", "id": id, "license": null,
                "license_file": null, "description": null, "source": null,
                "dependencies": dependencies,
                "targets": [{
                    "kind": ["cdylib"], "crate_types": ["cdylib"], "name": cell.name,
                    "src_path": folder.join("src/lib.rs"), "edition": "2024",
                    "doc": true, "doctest": false, "test": true,
                }],
                "features": {}, "manifest_path": manifest, "metadata": null, "publish": null,
                "authors": [], "categories": [], "keywords": [], "readme": null,
                "repository": null, "homepage": null, "documentation": null,
                "edition": "2024", "links": null, "default_run": null, "rust_version": null,
            }),
        );
        nodes.insert(id.clone(), node(&id, &edges, json!([])));
        let resolve = if alone {
            Value::Null
        } else {
            json!({ "nodes": nodes.into_values().collect::<Vec<_>>(), "root": id })
        };
        let answer = json!({
            "packages": packages.into_values().collect::<Vec<_>>(),
            "workspace_members": [id], "workspace_default_members": [id],
            "resolve": resolve, "target_directory": folder.join("target"), "version": 1,
            "workspace_root": folder, "metadata": null,
        });
        println!("{answer}");
        Ok(ExitCode::SUCCESS)
    }

    /// Returns an error unless the specification is the crate that the kernel was built with.
    fn accept(&self, specification: &toml::Value) -> Result<()> {
        let project = Path::new(self.setting("project"));
        let path = specification.get("path").and_then(toml::Value::as_str);
        let wanted = path.ok_or_else(|| {
            format!(
                "this kernel has the crate that was built in {}; name it by its folder: :dep {OURS} = {{ path = \"{}\" }}",
                project.display(),
                project.display()
            )
        })?;
        if !same_file(Path::new(wanted), project) {
            return Err(format!(
                "this kernel has the crate that was built in {}, not the one in {wanted}; \
                 start JupyterLab from that one (cargo run --release -- lab), or use the kernel \"Rust\" of evcxr",
                project.display()
            ));
        }
        let built: BTreeSet<&str> = self.settings["features"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let features = specification.get("features");
        let features = features.and_then(toml::Value::as_array);
        for feature in features
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_str)
        {
            if feature != "default" && !built.contains(feature) {
                return Err(format!(
                    "the crate was built without the feature {feature}; build it with: cargo build --release --features {feature}"
                ));
            }
        }
        Ok(())
    }

    /// Returns our crate and the crates whose types users name, taken from cargo's full graph. It
    /// is cached as long as Cargo.lock does not change.
    fn our_graph(&self) -> Result<String> {
        let project = Path::new(self.setting("project"));
        let manifest = project.join("Cargo.toml");
        let key = [
            "graph",
            &manifest.to_string_lossy(),
            &read(&manifest)?,
            &read(&project.join("Cargo.lock"))?,
            &self.settings["features"].to_string(),
            self.setting("cargo_version"),
            &NAMED.join(" "),
            "hashbrown",
        ];
        self.kept(&key, || {
            let mut command = self.real("cargo");
            command
                .args([
                    "metadata",
                    "--format-version=1",
                    "--locked",
                    "--filter-platform",
                ])
                .arg(self.setting("host"))
                .arg("--manifest-path")
                .arg(&manifest);
            let features = list_of(&self.settings["features"]).join(",");
            if !features.is_empty() {
                command.args(["--features", &features]);
            }
            let whole = parse(&stdout_offline_first(&mut command)?)?;
            let mut root = String::new();
            let mut packages = Vec::new();
            let mut ids = BTreeSet::new();
            for package in objects(&whole["packages"]) {
                let name = text_of(package, "name");
                let ours = name == OURS && package["source"].is_null();
                if ours {
                    root = text_of(package, "id").into();
                }
                if ours || NAMED.contains(&name) {
                    ids.insert(text_of(package, "id").to_owned());
                    let mut package = libraries_only(package);
                    package["dependencies"] = json!([]);
                    packages.push(package);
                }
            }
            let nodes: Vec<Value> = objects(&whole["resolve"]["nodes"])
                .filter(|n| ids.contains(text_of(n, "id")))
                .map(|n| {
                    let edges = objects(&n["deps"])
                        .filter(|d| ids.contains(text_of(d, "pkg")))
                        .map(|d| (text_of(d, "name").into(), text_of(d, "pkg").into()))
                        .collect();
                    node(text_of(n, "id"), &edges, n["features"].clone())
                })
                .collect();
            let mut hashbrown = objects(&whole["packages"])
                .filter(|p| text_of(p, "name") == "hashbrown")
                .max_by_key(|p| text_of(p, "version").to_owned())
                .map(libraries_only)
                .unwrap_or_default();
            hashbrown["dependencies"] = json!([]);
            Ok(json!({
                "root": root, "packages": packages, "nodes": nodes, "hashbrown": hashbrown,
            })
            .to_string())
        })
    }

    /// Does `cargo build` or `cargo check` of a cell with one call of rustc.
    fn compile(&self, check: bool) -> Result<ExitCode> {
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

/// The crates that a user adds with `:dep`. The real cargo builds them separately, and cells link
/// them in addition to our crate.
struct Additions<'a> {
    kernel: &'a Kernel,
    folder: PathBuf,
    manifest: String,
    /// Whether one of them is in a folder of the user.
    local: bool,
}

struct Built {
    libraries: Vec<(String, PathBuf)>,
    /// Crates in folders of the user, which may be edited and built again.
    local: Vec<(String, PathBuf)>,
    folders: BTreeSet<String>,
}

impl<'a> Additions<'a> {
    fn new(kernel: &'a Kernel, crates: &BTreeMap<&str, &toml::Value>) -> Self {
        let mut manifest = String::from(
            "[package]\nname = \"cells\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\n\
             # Unlike our own profile, so that no crate is taken for one of ours that was built otherwise.\n\
             [profile.release]\ncodegen-units = 15\n\n[workspace]\n\n[dependencies]\n",
        );
        for (name, specification) in crates {
            manifest += &format!("{name} = {specification}\n");
        }
        let hash = blake3::hash(manifest.as_bytes()).to_hex();
        Additions {
            folder: kernel.work.join("added").join(&hash[..16]),
            local: crates.values().any(|s| s.get("path").is_some()),
            kernel,
            manifest,
        }
    }

    /// Writes a crate that only has these dependencies, with our Cargo.lock, so that versions
    /// agree.
    fn write(&self) -> Result<()> {
        let manifest = self.folder.join("Cargo.toml");
        if manifest.exists() {
            return Ok(());
        }
        let lock = Path::new(self.kernel.setting("project")).join("Cargo.lock");
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| std::fs::write(self.folder.join("lib.rs"), ""))
            .and_then(|()| std::fs::copy(lock, self.folder.join("Cargo.lock")))
            .and_then(|_| std::fs::write(&manifest, &self.manifest))
            .map_err(|e| format!("{}: {e}", self.folder.display()))
    }

    fn cargo(&self, subcommand: &str) -> Command {
        let mut command = self.kernel.real("cargo");
        command
            .arg(subcommand)
            .arg("--manifest-path")
            .arg(self.folder.join("Cargo.toml"))
            .env("CARGO_TARGET_DIR", self.kernel.setting("added"))
            .current_dir(&self.folder);
        // These variables were set by evcxr for the crate of a cell.
        for name in [
            "CARGO_BUILD_BUILD_DIR",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "EVCXR_RUSTC_WRAPPER",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn metadata(&self) -> Result<Value> {
        let kept = self.folder.join("metadata.json");
        if let Ok(text) = std::fs::read_to_string(&kept) {
            return parse(&text);
        }
        self.write()?;
        let mut command = self.cargo("metadata");
        command
            .args(["--format-version=1", "--filter-platform"])
            .arg(self.kernel.setting("host"));
        let text = stdout_offline_first(&mut command)?;
        let graph = parse(&text)?;
        self.refuse_second_candle(&graph)?;
        std::fs::write(&kept, text).map_err(|e| format!("{}: {e}", kept.display()))?;
        Ok(graph)
    }

    /// Returns an error if a second copy of candle would be linked. Each copy numbers its own
    /// tensors, so gradients would be lost without a message.
    fn refuse_second_candle(&self, graph: &Value) -> Result<()> {
        let nodes: BTreeMap<&str, &Value> = objects(&graph["resolve"]["nodes"])
            .map(|n| (text_of(n, "id"), n))
            .collect();
        let names: BTreeMap<&str, &str> = objects(&graph["packages"])
            .map(|p| (text_of(p, "id"), text_of(p, "name")))
            .collect();
        let root = graph["resolve"]["root"].as_str().unwrap_or_default();
        // The path from the root to each crate that was reached.
        let mut path = BTreeMap::from([(root, Vec::<&str>::new())]);
        let mut waiting = vec![root];
        while let Some(id) = waiting.pop() {
            let Some(node) = nodes.get(id) else { continue };
            for edge in objects(&node["deps"]) {
                let next = text_of(edge, "pkg");
                if path.contains_key(next) {
                    continue;
                }
                let mut way = path[id].clone();
                way.push(names.get(next).copied().unwrap_or(next));
                match way.last() {
                    Some(&"candle-core") => {
                        return Err(format!(
                            "this crate brings its own copy of candle ({}): its tensors would not be those of invariances, and gradients would be lost; \
                             use candle through invariances::candle_core, candle_nn and candle_transformers",
                            way.join(" → ")
                        ));
                    }
                    Some(&OURS) => {
                        return Err(format!(
                            "this crate is built on invariances itself ({}): it would bring a second copy of it; copy what you need of it into a cell, or into invariances",
                            way.join(" → ")
                        ));
                    }
                    _ => {}
                }
                path.insert(next, way);
                waiting.push(next);
            }
        }
        Ok(())
    }

    fn build(&self) -> Result<Built> {
        let kept = self.folder.join("built.json");
        // A crate in a user's folder may have been edited since, so cargo has to check it.
        if !self.local
            && let Ok(text) = std::fs::read_to_string(&kept)
        {
            return Ok(Self::built(&parse(&text)?));
        }
        let graph = self.metadata()?;
        let root = &graph["resolve"]["root"];
        let edges: BTreeMap<&str, &str> = objects(&graph["resolve"]["nodes"])
            .filter(|n| n["id"] == *root)
            .flat_map(|n| objects(&n["deps"]))
            .map(|d| (text_of(d, "pkg"), text_of(d, "name")))
            .collect();
        let mut command = self.cargo("build");
        command
            .args(["--release", "--message-format=json-render-diagnostics"])
            .stderr(Stdio::inherit());
        let output = command
            .output()
            .map_err(|e| format!("{}: {e}", self.kernel.setting("cargo")))?;
        if !output.status.success() {
            return Err("error: a crate that was added by :dep did not build".into());
        }
        let mut libraries = BTreeMap::new();
        let mut local = BTreeMap::<String, String>::new();
        let mut folders = BTreeSet::from([format!(
            "dependency={}",
            Path::new(self.kernel.setting("added"))
                .join("release/deps")
                .display()
        )]);
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(message) = parse(line) else { continue };
            if message["reason"] == "build-script-executed" {
                folders.extend(list_of(&message["linked_paths"]));
            }
            if message["reason"] != "compiler-artifact" {
                continue;
            }
            let is = |path: &&String| {
                [".rlib", std::env::consts::DLL_SUFFIX]
                    .iter()
                    .any(|end| path.ends_with(end))
            };
            let files = list_of(&message["filenames"]);
            if let Some(file) = files.iter().find(is)
                && !list_of(&message["target"]["kind"]).contains(&"custom-build".into())
            {
                let id = text_of(&message, "package_id");
                if let Some(name) = edges.get(id) {
                    libraries.insert(name.to_string(), file.clone());
                }
                if id.contains("path+file") && *root != id {
                    local.insert(text_of(&message["target"], "name").into(), file.clone());
                }
            }
        }
        let built = json!({ "libraries": libraries, "local": local, "folders": folders });
        std::fs::write(&kept, built.to_string()).map_err(|e| format!("{}: {e}", kept.display()))?;
        Ok(Self::built(&built))
    }

    fn built(value: &Value) -> Built {
        let paths = |key: &str| {
            value[key]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, path)| (name.clone(), path.as_str().unwrap_or_default().into()))
                .collect()
        };
        Built {
            libraries: paths("libraries"),
            local: paths("local"),
            folders: list_of(&value["folders"]).into_iter().collect(),
        }
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| format!("an answer of cargo cannot be read: {e}"))
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn after<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(i, a)| {
        if a == option {
            return arguments.get(i + 1).map(String::as_str);
        }
        a.strip_prefix(option)?.strip_prefix('=')
    })
}

fn objects(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list_of(value: &Value) -> Vec<String> {
    objects(value)
        .filter_map(|v| v.as_str().map(String::from))
        .collect()
}

/// Returns a package without its programs, tests and build script, which a cell cannot use.
fn libraries_only(package: &Value) -> Value {
    let mut package = package.clone();
    if let Some(targets) = package["targets"].as_array_mut() {
        targets.retain(|t| {
            list_of(&t["kind"])
                .iter()
                .any(|k| k.ends_with("lib") || k == "proc-macro")
        });
        // evcxr recognises libraries by the kind `lib`.
        for target in targets {
            if list_of(&target["kind"]).iter().any(|k| k == "rlib") {
                target["kind"] = json!(["lib"]);
            }
        }
    }
    package
}

fn node(id: &str, edges: &BTreeMap<String, String>, features: Value) -> Value {
    let deps: Vec<Value> = edges
        .iter()
        .map(|(name, id)| {
            json!({ "name": name, "pkg": id, "dep_kinds": [{ "kind": null, "target": null }] })
        })
        .collect();
    json!({
        "id": id, "dependencies": edges.values().collect::<Vec<_>>(), "deps": deps, "features": features,
    })
}

fn stdout(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Runs the command offline first. If this fails, it runs again with the network, unless
/// INVARIANCES_OFFLINE forbids it.
fn stdout_offline_first(command: &mut Command) -> Result<String> {
    let mut offline = Command::new(command.get_program());
    offline.args(command.get_args()).arg("--offline");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => offline.env(name, value),
            None => offline.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        offline.current_dir(folder);
    }
    let forbidden =
        std::env::var_os("INVARIANCES_OFFLINE").is_some_and(|v| !v.is_empty() && v != "0");
    match stdout(&mut offline) {
        Err(_) if !forbidden => stdout(command),
        answer => answer,
    }
}
