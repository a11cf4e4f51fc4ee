//! [`Additions`], the crates that a user adds with `:dep`.

use super::answers::{list_of, objects, parse, stdout_offline_first, text_of};
use super::{Kernel, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The crates that a user adds with `:dep`. The real cargo builds them separately, and cells link
/// them in addition to our crate.
pub(super) struct Additions<'a> {
    kernel: &'a Kernel,
    folder: PathBuf,
    manifest: String,
    /// Whether one of them is in a folder of the user.
    local: bool,
}

pub(super) struct Built {
    pub(super) libraries: Vec<(String, PathBuf)>,
    /// Crates in folders of the user, which may be edited and built again.
    pub(super) local: Vec<(String, PathBuf)>,
    pub(super) folders: BTreeSet<String>,
}

impl<'a> Additions<'a> {
    pub(super) fn new(kernel: &'a Kernel, crates: &BTreeMap<&str, &toml::Value>) -> Self {
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
        let lock = Path::new(self.kernel.setting("workspace")).join("Cargo.lock");
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

    pub(super) fn metadata(&self) -> Result<Value> {
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
        self.refuse_second_copy(&graph)?;
        std::fs::write(&kept, text).map_err(|e| format!("{}: {e}", kept.display()))?;
        Ok(graph)
    }

    /// Returns an error if a second copy would be linked of the project, or of a crate that may
    /// exist only once in a process (`once` in `[package.metadata.kernel]`): one with state, such
    /// as a counter that numbers its values.
    fn refuse_second_copy(&self, graph: &Value) -> Result<()> {
        let once = list_of(&self.kernel.settings["once"]);
        let package = self.kernel.setting("package");
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
                let last = way.last().copied().unwrap_or_default();
                if once.iter().any(|name| name == last) {
                    let hint = match self.kernel.setting("once_hint") {
                        "" => format!("use {last} through {package}"),
                        hint => hint.to_owned(),
                    };
                    return Err(format!(
                        "this crate brings its own copy of {last} ({}), whose values would not be those of {package}; {hint}",
                        way.join(" → ")
                    ));
                }
                if last == package {
                    return Err(format!(
                        "this crate is built on {package} itself ({}): it would bring a second copy of it; copy what you need of it into a cell, or into {package}",
                        way.join(" → ")
                    ));
                }
                path.insert(next, way);
                waiting.push(next);
            }
        }
        Ok(())
    }

    pub(super) fn build(&self) -> Result<Built> {
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
        command.args(["--release", "--message-format=json-render-diagnostics"]);
        let kernel = self.kernel;
        let run = |command: &mut Command| {
            let output = kernel.interruptible(command)?;
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            Ok(output)
        };
        let Some(output) = build_of(&mut command, run)? else {
            return Err("error: a crate that was added by :dep did not build".into());
        };
        let mut libraries = BTreeMap::new();
        let mut local = BTreeMap::<String, String>::new();
        let mut folders = output.folders;
        folders.insert(format!(
            "dependency={}",
            Path::new(self.kernel.setting("added"))
                .join("release/deps")
                .display()
        ));
        for artifact in &output.artifacts {
            let is = |path: &&PathBuf| {
                [".rlib", std::env::consts::DLL_SUFFIX]
                    .iter()
                    .any(|end| path.to_string_lossy().ends_with(end))
            };
            if let Some(file) = artifact.files.iter().find(is) {
                let file = file.to_string_lossy().into_owned();
                let id = &*artifact.package;
                // A build script may need the crate too, built for the host.
                if let Some(name) = edges.get(id)
                    && (artifact.optimised || !libraries.contains_key(*name))
                {
                    libraries.insert(name.to_string(), file.clone());
                }
                if id.contains("path+file") && *root != id {
                    local.insert(artifact.name.clone(), file);
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

/// What cargo built.
pub struct Output {
    pub artifacts: Vec<Artifact>,
    /// Values for the option `-L` of rustc: the folders of native libraries.
    pub folders: BTreeSet<String>,
}

/// A library that cargo built or found up to date.
pub struct Artifact {
    /// The ID of its package.
    pub package: String,
    /// Its name in Rust code.
    pub name: String,
    pub files: Vec<PathBuf>,
    /// Whether it was built with the profile of what cells use, not with that of build scripts.
    pub optimised: bool,
}

/// Starts a build whose messages appear as they come.
///
/// # Errors
/// If cargo cannot be started.
pub fn visible(command: &mut Command) -> Result<std::process::Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .and_then(|child| child.wait_with_output())
        .map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))
}

/// Runs `cargo build` with JSON messages, by a function that returns what it printed. Returns `None` if a crate did not compile.
///
/// # Errors
/// If cargo cannot be started.
pub fn build_of(
    command: &mut Command,
    run: impl FnOnce(&mut Command) -> Result<std::process::Output>,
) -> Result<Option<Output>> {
    let output = run(command)?;
    if !output.status.success() {
        return Ok(None);
    }
    let mut found = Output {
        artifacts: Vec::new(),
        folders: BTreeSet::new(),
    };
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = parse(line) else { continue };
        if message["reason"] == "build-script-executed" {
            found.folders.extend(list_of(&message["linked_paths"]));
        }
        if message["reason"] != "compiler-artifact"
            || list_of(&message["target"]["kind"]).contains(&"custom-build".into())
        {
            continue;
        }
        found.artifacts.push(Artifact {
            package: text_of(&message, "package_id").into(),
            name: text_of(&message["target"], "name").replace('-', "_"),
            optimised: message["profile"]["opt_level"] != "0",
            files: list_of(&message["filenames"])
                .into_iter()
                .map(PathBuf::from)
                .collect(),
        });
    }
    Ok(Some(found))
}
