//! A Cargo project that notebooks use: what it provides to cells, and how it is built for them.
//!
//! Cells are linked with one dylib. If the project's library is a dylib (`crate-type = ["dylib",
//! "rlib"]`), it is that one, as `cargo build --release` leaves it. Otherwise a small crate is
//! generated, a dylib made of the project's library and its direct dependencies, and built in the
//! project's target folder. Cells can use the project's library and its direct dependencies under
//! the names that the project's own code has for them.

use crate::shim::answers::{list_of, objects, parse, text_of};
use crate::wrapper;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of the generated crate.
pub const WRAPPER: &str = "cargo_kernel_project";

/// How many times a crate that is not a direct dependency may be away from one so that
/// rust-analyzer reads it.
const NEAR: usize = 1;

#[derive(Debug)]
pub struct Project {
    /// The folder with the package's `Cargo.toml`.
    pub folder: PathBuf,
    pub package: String,
    /// The name of its library in Rust code, if it has one.
    pub library: Option<String>,
    /// Whether the library itself is a dylib.
    pub is_dylib: bool,
    /// The folder of the workspace, which has `Cargo.lock`.
    pub workspace: PathBuf,
    pub target: PathBuf,
    pub features: Vec<String>,
    /// `[package.metadata.kernel]`.
    pub settings: Value,
}

impl Project {
    /// Reads the project in a folder with cargo.
    ///
    /// # Errors
    /// If there is no package in the folder.
    pub fn read(folder: &Path, target: Option<&Path>, features: &[String]) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| {
            format!(
                "{}: expected the folder of a Cargo project",
                folder.display()
            )
        })?;
        let manifest = folder.join("Cargo.toml");
        if !manifest.is_file() {
            bail!(
                "{}: expected the folder of a Cargo project, found no Cargo.toml in it",
                folder.display()
            );
        }
        let metadata = json_of(
            cargo(&folder)?
                .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
                .arg("--manifest-path")
                .arg(&manifest)
                .current_dir(&folder),
        )?;
        let packages = || objects(&metadata["packages"]);
        let Some(package) = packages().find(|p| Path::new(text_of(p, "manifest_path")) == manifest)
        else {
            let names: Vec<String> = packages()
                .filter_map(|p| {
                    let folder = Path::new(text_of(p, "manifest_path")).parent()?;
                    Some(folder.display().to_string())
                })
                .collect();
            bail!(
                "{}: expected the folder of a package, found a workspace; choose one of its packages with --path: {}",
                folder.display(),
                names.join(", ")
            );
        };
        let kinds = ["lib", "rlib", "dylib"];
        let library = objects(&package["targets"])
            .find(|t| list_of(&t["kind"]).iter().any(|k| kinds.contains(&&**k)));
        let is_dylib =
            library.is_some_and(|t| list_of(&t["crate_types"]).contains(&"dylib".to_owned()));
        Ok(Self {
            package: text_of(package, "name").into(),
            library: library.map(|t| text_of(t, "name").replace('-', "_")),
            is_dylib,
            workspace: text_of(&metadata, "workspace_root").into(),
            target: match target {
                Some(target) => std::path::absolute(target)?,
                None => text_of(&metadata, "target_directory").into(),
            },
            features: features.to_vec(),
            settings: package["metadata"]["kernel"].clone(),
            folder,
        })
    }

    /// The folder with the libraries that cargo built.
    pub fn dependencies(&self) -> PathBuf {
        self.target.join("release/deps")
    }

    /// The file with what was built for cells.
    pub fn record(&self) -> PathBuf {
        let features = self.features.join(",");
        let key = blake3::hash(format!("{}\0{features}", self.folder.display()).as_bytes());
        self.target
            .join("cargo-kernel")
            .join(format!("{}-{}", self.package, &key.to_hex()[..8]))
            .join("built.json")
    }

    /// The command that builds the project for cells, for messages.
    pub fn command(&self) -> String {
        let features = match self.features.is_empty() {
            true => String::new(),
            false => format!(" --features {}", self.features.join(",")),
        };
        match self.is_dylib {
            true => format!(
                "cd {} && cargo build --release{features}",
                self.folder.display()
            ),
            false => format!(
                "cargo kernel build --path {}{features}",
                self.folder.display()
            ),
        }
    }

    /// Returns what was built for cells.
    ///
    /// # Errors
    /// If it was not built yet.
    pub fn built(&self) -> Result<Built> {
        if self.is_dylib {
            let name = self.library.clone().unwrap_or_default();
            let file = |end: &str| self.dependencies().join(format!("lib{name}{end}"));
            // Both files are passed to rustc, as cargo does: it reads the metadata of the rlib,
            // which is not compressed, and links the other file.
            let files = [file(".rlib"), file(std::env::consts::DLL_SUFFIX)];
            if let Some(missing) = files.iter().find(|f| !f.is_file()) {
                bail!(
                    "{} is not there; build the library: {}",
                    missing.display(),
                    self.command()
                );
            }
            return Ok(Built {
                linked: files.map(|f| (name.clone(), f)).to_vec(),
                crates: BTreeMap::new(),
                folders: vec![format!("dependency={}", self.dependencies().display())],
                versions: BTreeMap::new(),
            });
        }
        let record = self.record();
        let text = std::fs::read_to_string(&record).with_context(|| {
            format!(
                "the project was not yet built for notebooks; build it: {}",
                self.command()
            )
        })?;
        Built::from_json(&parse(&text).map_err(anyhow::Error::msg)?)
    }

    /// Builds the project for cells. Cargo prints its progress.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn build(&self) -> Result<Built> {
        if self.is_dylib {
            let mut command = cargo(&self.folder)?;
            command
                .args(["build", "--release", "--lib", "--manifest-path"])
                .arg(self.folder.join("Cargo.toml"))
                .arg("--target-dir")
                .arg(&self.target)
                .current_dir(&self.folder);
            if !self.features.is_empty() {
                command.args(["--features", &self.features.join(",")]);
            }
            if !command.status()?.success() {
                bail!("the project did not build; its messages are above");
            }
            return self.built();
        }
        let folder = self.record().with_file_name("crate");
        let direct = wrapper::write(self, &folder)?;
        let built = crate::shim::build_of(
            cargo(&self.folder)?
                // With its option below: cells are linked with the same std as the dylib. The option
                // is for the generated crate alone, so that dependencies are shared with the
                // project's own builds.
                .args(["rustc", "--release", "--lib", "--manifest-path"])
                .arg(folder.join("Cargo.toml"))
                .arg("--target-dir")
                .arg(&self.target)
                .arg("--message-format=json-render-diagnostics")
                .args(["--", "-Cprefer-dynamic"])
                // Cells catch panics.
                .env("CARGO_PROFILE_RELEASE_PANIC", "unwind")
                .current_dir(&self.folder),
            crate::shim::visible,
        )
        .map_err(anyhow::Error::msg)?
        .context("the project did not build; its messages are above")?;
        let mut done = Built {
            linked: Vec::new(),
            crates: BTreeMap::new(),
            folders: built.folders.iter().cloned().collect(),
            versions: BTreeMap::new(),
        };
        // cargo's settings may lead elsewhere than into the usual folder.
        let folders: BTreeSet<String> = built
            .artifacts
            .iter()
            .flat_map(|artifact| artifact.files.iter().filter_map(|file| file.parent()))
            .map(|folder| format!("dependency={}", folder.display()))
            .collect();
        done.folders.extend(folders);
        for artifact in &built.artifacts {
            if artifact.name == WRAPPER {
                for file in &artifact.files {
                    if [".rlib", std::env::consts::DLL_SUFFIX]
                        .iter()
                        .any(|end| file.to_string_lossy().ends_with(end))
                    {
                        done.linked.push((WRAPPER.into(), file.clone()));
                    }
                }
            } else if let Some((name, version)) = direct.get(&artifact.package) {
                let file = artifact.files.iter().find(|f| {
                    [".rlib", std::env::consts::DLL_SUFFIX]
                        .iter()
                        .any(|end| f.to_string_lossy().ends_with(end))
                });
                // A build script may need the crate too, built for the host.
                if let Some(file) = file
                    && (artifact.optimised || !done.crates.contains_key(name))
                {
                    done.crates.insert(name.clone(), file.clone());
                    done.versions.insert(name.clone(), version.clone());
                }
            }
        }
        if done.linked.is_empty() {
            bail!("cargo did not say where the built library is");
        }
        let record = self.record();
        crate::start::write_atomic(&record, &done.to_json().to_string())
            .with_context(|| record.display().to_string())?;
        Ok(done)
    }
}

/// Returns the project's package in the graph.
pub fn root_of<'a>(metadata: &'a Value, package: &str) -> Option<&'a Value> {
    let members = list_of(&metadata["workspace_members"]);
    objects(&metadata["packages"])
        .find(|p| text_of(p, "name") == package && members.contains(&text_of(p, "id").to_owned()))
}

/// Returns the IDs of the packages that rust-analyzer reads: the project with its own crates, those
/// whose types its users name, and what is near to them. Each further crate costs time when a
/// kernel starts. `named` is `types` in `[package.metadata.kernel]`: with it, no other crates are
/// added.
pub fn read_by_analyzer(
    metadata: &Value,
    package: &str,
    named: Option<&[String]>,
) -> BTreeSet<String> {
    let packages: BTreeMap<&str, &Value> = objects(&metadata["packages"])
        .map(|p| (text_of(p, "id"), p))
        .collect();
    let nodes: BTreeMap<&str, &Value> = objects(&metadata["resolve"]["nodes"])
        .map(|n| (text_of(n, "id"), n))
        .collect();
    let Some(root) = root_of(metadata, package) else {
        return BTreeSet::new();
    };
    let family = |name: &str| name.split(['-', '_']).next().unwrap_or_default().to_owned();
    let mut found = BTreeSet::new();
    let mut families = BTreeSet::new();
    let mut waiting = vec![(text_of(root, "id"), 0)];
    while let Some((id, distance)) = waiting.pop() {
        if !found.insert(id.to_owned()) {
            continue;
        }
        for edge in objects(&nodes.get(id).unwrap_or(&&Value::Null)["deps"]) {
            let next = text_of(edge, "pkg");
            let Some(package) = packages.get(next) else {
                continue;
            };
            let name = text_of(package, "name");
            let normal = objects(&edge["dep_kinds"]).any(|k| k["kind"].is_null());
            let local = package["source"].is_null();
            let near = match named {
                Some(named) => local || named.iter().any(|n| n == name),
                None => local || distance <= NEAR || families.contains(&family(name)),
            };
            if !normal || !near {
                continue;
            }
            if distance == 0 || local {
                families.insert(family(name));
            }
            // A crate of the project itself is as near as the project.
            waiting.push((next, if local { distance } else { distance + 1 }));
        }
    }
    found
}

/// What was built for cells.
#[derive(Debug, Default)]
pub struct Built {
    /// The files of the dylib, with its name.
    pub linked: Vec<(String, PathBuf)>,
    /// Other crates that cells can use.
    pub crates: BTreeMap<String, PathBuf>,
    /// Values for the option `-L` of rustc.
    pub folders: Vec<String>,
    /// The versions of `crates`.
    pub versions: BTreeMap<String, String>,
}

impl Built {
    fn to_json(&self) -> Value {
        json!({
            "linked": self.linked, "crates": self.crates, "folders": self.folders,
            "versions": self.versions,
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let map = |v: &Value| -> BTreeMap<String, String> {
            v.as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), text(v)))
                .collect()
        };
        let built = Self {
            linked: objects(&value["linked"])
                .map(|pair| (text(&pair[0]), text(&pair[1]).into()))
                .collect(),
            crates: map(&value["crates"])
                .into_iter()
                .map(|(name, path)| (name, path.into()))
                .collect(),
            folders: list_of(&value["folders"]),
            versions: map(&value["versions"]),
        };
        let files = built
            .linked
            .iter()
            .map(|(_, f)| f)
            .chain(built.crates.values());
        match files.clone().find(|file| !file.is_file()) {
            Some(missing) => bail!("{} is gone; build the project again", missing.display()),
            None => Ok(built),
        }
    }
}

/// Returns the path of the real rustc or cargo for a project, without rustup's proxy if rustup is
/// installed.
///
/// # Errors
/// If Rust is not installed.
pub fn tool(name: &str, project: &Path) -> Result<PathBuf> {
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
    which::which_global(name)
        .with_context(|| format!("{name} is not on PATH; install Rust: https://rustup.rs"))
}

/// Returns the real cargo, with the rustc of the project: by itself, cargo would start rustup's proxy
/// in the folder of each dependency, which may ask for another version.
pub fn cargo(project: &Path) -> Result<Command> {
    let mut command = Command::new(tool("cargo", project)?);
    if std::env::var_os("RUSTC").is_none() {
        command.env("RUSTC", tool("rustc", project)?);
    }
    Ok(command)
}

/// Returns the machine that rustc compiles for.
///
/// # Errors
/// If rustc cannot be started.
pub fn host(project: &Path) -> Result<String> {
    let version = text_from(Command::new(tool("rustc", project)?).arg("-vV"))?;
    version
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .map(String::from)
        .context("rustc does not say for which machine it compiles")
}

/// Returns what a program prints.
///
/// # Errors
/// Its messages, if it fails.
pub fn text_from(command: &mut Command) -> Result<String> {
    crate::shim::answers::stdout(command).map_err(anyhow::Error::msg)
}

/// Returns the JSON that a program prints.
///
/// # Errors
/// Its messages, if it fails.
pub fn json_of(command: &mut Command) -> Result<Value> {
    parse(&text_from(command)?).map_err(anyhow::Error::msg)
}
