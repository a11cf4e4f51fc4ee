//! A Cargo project that notebooks use: what it provides to cells, and how it is built for them.
//!
//! Cells are linked with one dylib. If the project's library is a dylib (`crate-type = ["dylib",
//! "rlib"]`), it is that one, as `cargo build --release` leaves it. Otherwise a small crate is
//! generated, a dylib made of the project's library and its direct dependencies, and built in the
//! project's target folder. Cells can use the project's library and its direct dependencies under
//! the names that the project's own code has for them.

use crate::shim::answers::{list_of, objects, parse, text_of};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

    fn record(&self) -> PathBuf {
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
        let direct = self.write_wrapper(&folder)?;
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
                .stderr(Stdio::inherit())
                .current_dir(&self.folder),
        )
        .map_err(anyhow::Error::msg)?
        .context("the project did not build; its messages are above")?;
        let mut done = Built {
            linked: Vec::new(),
            crates: BTreeMap::new(),
            folders: vec![format!("dependency={}", self.dependencies().display())],
            versions: BTreeMap::new(),
        };
        done.folders.extend(built.folders.iter().cloned());
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
                if let Some(file) = file {
                    done.crates.insert(name.clone(), file.clone());
                    done.versions.insert(name.clone(), version.clone());
                }
            }
        }
        if done.linked.is_empty() {
            bail!("cargo did not say where the built library is");
        }
        let record = self.record();
        let mut file = tempfile::NamedTempFile::new_in(record.parent().unwrap_or(&folder))?;
        std::io::Write::write_all(&mut file, done.to_json().to_string().as_bytes())?;
        file.persist(&record)?;
        Ok(done)
    }

    /// Writes the generated crate. Returns the name and the version of each crate that cells can
    /// use, by package ID.
    fn write_wrapper(&self, folder: &Path) -> Result<BTreeMap<String, (String, String)>> {
        let graph = self.graph()?;
        let manifest_text = std::fs::read_to_string(self.workspace.join("Cargo.toml"))?;
        let workspace: toml::Table = manifest_text.parse()?;
        let mut manifest = toml::Table::new();
        let table = |entries: &[(&str, toml::Value)]| {
            toml::Value::Table(
                entries
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), v.clone()))
                    .collect(),
            )
        };
        let text = |t: &str| toml::Value::String(t.into());
        manifest.insert(
            "package".into(),
            table(&[
                ("name", text("cargo-kernel-project")),
                ("version", text("1.0.0")),
                ("edition", text("2024")),
                ("publish", toml::Value::Boolean(false)),
            ]),
        );
        manifest.insert(
            "lib".into(),
            table(&[
                ("name", text(WRAPPER)),
                ("path", text("lib.rs")),
                (
                    "crate-type",
                    toml::Value::Array(vec![text("dylib"), text("rlib")]),
                ),
            ]),
        );
        manifest.insert("workspace".into(), table(&[]));
        for key in ["profile", "patch", "replace"] {
            if let Some(value) = workspace.get(key) {
                manifest.insert(key.into(), value.clone());
            }
        }
        let mut dependencies = toml::Table::new();
        let mut code = String::from("//! Generated: what cells of a notebook are linked with.\n\n");
        let mut names = BTreeMap::new();
        if let Some(library) = &self.library {
            let mut entry = toml::Table::new();
            entry.insert("path".into(), text(&self.folder.to_string_lossy()));
            entry.insert("package".into(), text(&self.package));
            if !self.features.is_empty() {
                let features = self.features.iter().map(|f| text(f)).collect();
                entry.insert("features".into(), toml::Value::Array(features));
            }
            // A dependency of its own may have the name.
            dependencies.insert(library.clone(), toml::Value::Table(entry));
            code += &format!("pub extern crate {library};\n");
            names.insert(
                text_of(&graph.root, "id").to_owned(),
                (library.clone(), text_of(&graph.root, "version").to_owned()),
            );
        }
        for one in &graph.direct {
            if dependencies.contains_key(&one.name) {
                continue;
            }
            let mut entry = toml::Table::new();
            let package = &one.package;
            entry.insert("package".into(), text(text_of(package, "name")));
            match package["source"].as_str() {
                None => {
                    let path = Path::new(text_of(package, "manifest_path"));
                    let path = path.parent().unwrap_or(path);
                    entry.insert("path".into(), text(&path.to_string_lossy()));
                }
                Some(source) => match source.strip_prefix("git+") {
                    Some(git) => {
                        let (address, revision) = git.split_once('#').unwrap_or((git, ""));
                        let address = address.split('?').next().unwrap_or(address);
                        entry.insert("git".into(), text(address));
                        entry.insert("rev".into(), text(revision));
                    }
                    None => {
                        let version = format!("={}", text_of(package, "version"));
                        entry.insert("version".into(), text(&version));
                    }
                },
            }
            entry.insert(
                "default-features".into(),
                toml::Value::Boolean(one.default_features),
            );
            let features = one.features.iter().map(|f| text(f)).collect();
            entry.insert("features".into(), toml::Value::Array(features));
            dependencies.insert(one.name.clone(), toml::Value::Table(entry));
            if !one.is_macro {
                code += &format!("pub extern crate {};\n", one.name);
            }
            names.insert(
                text_of(package, "id").to_owned(),
                (one.name.clone(), text_of(package, "version").to_owned()),
            );
        }
        manifest.insert("dependencies".into(), toml::Value::Table(dependencies));
        std::fs::create_dir_all(folder)?;
        write_if_other(&folder.join("lib.rs"), &code)?;
        write_if_other(&folder.join("Cargo.toml"), &toml::to_string(&manifest)?)?;
        let lock = self.workspace.join("Cargo.lock");
        if let Ok(text) = std::fs::read_to_string(lock) {
            // cargo adds the generated crate to it; the project's own versions stay.
            write_if_other(&folder.join("project.lock"), &text).and_then(|new| {
                match new || !folder.join("Cargo.lock").exists() {
                    true => std::fs::write(folder.join("Cargo.lock"), text),
                    false => Ok(()),
                }
            })?;
        }
        Ok(names)
    }

    /// Returns the graph of the project's crates from `cargo metadata`.
    fn graph(&self) -> Result<Graph> {
        let host = host(&self.folder)?;
        let mut command = cargo(&self.folder)?;
        command
            .args(["metadata", "--format-version=1", "--filter-platform", &host])
            .arg("--manifest-path")
            .arg(self.folder.join("Cargo.toml"))
            .current_dir(&self.folder);
        if !self.features.is_empty() {
            command.args(["--features", &self.features.join(",")]);
        }
        Graph::of(&json_of(&mut command)?, &self.package)
    }
}

/// A direct dependency of the project.
struct Direct {
    /// Its name in the project's code.
    name: String,
    package: Value,
    features: Vec<String>,
    default_features: bool,
    is_macro: bool,
}

struct Graph {
    root: Value,
    direct: Vec<Direct>,
}

impl Graph {
    fn of(metadata: &Value, package: &str) -> Result<Self> {
        let packages: BTreeMap<&str, &Value> = objects(&metadata["packages"])
            .map(|p| (text_of(p, "id"), p))
            .collect();
        let root = root_of(metadata, package).context("cargo does not list the project")?;
        let node = objects(&metadata["resolve"]["nodes"])
            .find(|n| n["id"] == root["id"])
            .context("cargo does not list the project's dependencies")?;
        let mut direct = Vec::new();
        for edge in objects(&node["deps"]) {
            let normal = objects(&edge["dep_kinds"]).any(|k| k["kind"].is_null());
            let Some(found) = packages.get(text_of(edge, "pkg")).filter(|_| normal) else {
                continue;
            };
            let name = text_of(edge, "name").to_owned();
            let asked = objects(&root["dependencies"]).find(|d| {
                let own = d["rename"].as_str().unwrap_or(text_of(d, "name"));
                d["kind"].is_null() && d["name"] == found["name"] && {
                    let own = own.replace('-', "_");
                    own == name || d["rename"].is_null()
                }
            });
            let is_macro = objects(&found["targets"])
                .any(|t| list_of(&t["kind"]).contains(&"proc-macro".to_owned()));
            direct.push(Direct {
                name,
                package: (*found).clone(),
                features: asked.map(|d| list_of(&d["features"])).unwrap_or_default(),
                default_features: asked
                    .and_then(|d| d["uses_default_features"].as_bool())
                    .unwrap_or(true),
                is_macro,
            });
        }
        Ok(Self {
            root: root.clone(),
            direct,
        })
    }
}

fn root_of<'a>(metadata: &'a Value, package: &str) -> Option<&'a Value> {
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

/// Writes a file unless it has this content. Returns whether it wrote.
fn write_if_other(path: &Path, content: &str) -> std::io::Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    std::fs::write(path, content)?;
    Ok(true)
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
fn cargo(project: &Path) -> Result<Command> {
    let mut command = Command::new(tool("cargo", project)?);
    if std::env::var_os("RUSTC").is_none() {
        command.env("RUSTC", tool("rustc", project)?);
    }
    Ok(command)
}

fn host(project: &Path) -> Result<String> {
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

fn json_of(command: &mut Command) -> Result<Value> {
    parse(&text_from(command)?).map_err(anyhow::Error::msg)
}
