//! The crate that is generated for a project whose library is no dylib: a dylib of the library and its
//! direct dependencies.

use crate::project::{Project, WRAPPER, cargo, host, json_of, root_of};
use crate::shim::answers::{list_of, objects, text_of};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes the generated crate. Returns the name and the version of each crate that cells can
/// use, by package ID.
pub fn write(project: &Project, folder: &Path) -> Result<BTreeMap<String, (String, String)>> {
    let graph = graph(project)?;
    let manifest_text = std::fs::read_to_string(project.workspace.join("Cargo.toml"))?;
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
            let mut value = value.clone();
            absolute_paths(&mut value, &project.workspace);
            manifest.insert(key.into(), value);
        }
    }
    let mut dependencies = toml::Table::new();
    let mut code = String::from("//! Generated: what cells of a notebook are linked with.\n\n");
    let mut names = BTreeMap::new();
    if let Some(library) = &project.library {
        let mut entry = toml::Table::new();
        entry.insert("path".into(), text(&project.folder.to_string_lossy()));
        entry.insert("package".into(), text(&project.package));
        if !project.features.is_empty() {
            let features = project.features.iter().map(|f| text(f)).collect();
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
            Some(source) => {
                for (key, value) in origin(source, text_of(package, "version")) {
                    entry.insert(key.into(), text(&value));
                }
            }
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
    let lock = project.workspace.join("Cargo.lock");
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
fn graph(project: &Project) -> Result<Graph> {
    let host = host(&project.folder)?;
    let mut command = cargo(&project.folder)?;
    command
        .args(["metadata", "--format-version=1", "--filter-platform", &host])
        .arg("--manifest-path")
        .arg(project.folder.join("Cargo.toml"))
        .current_dir(&project.folder);
    if !project.features.is_empty() {
        command.args(["--features", &project.features.join(",")]);
    }
    Graph::of(&json_of(&mut command)?, &project.package)
}

/// Returns the entries of a manifest that name a crate of a registry or a repository as cargo's graph
/// does. `Cargo.lock` has the rest: the commit, the checksum.
fn origin(source: &str, version: &str) -> Vec<(&'static str, String)> {
    if let Some(git) = source.strip_prefix("git+") {
        let (address, commit) = git.split_once('#').unwrap_or((git, ""));
        let (address, query) = address.split_once('?').unwrap_or((address, ""));
        let mut entries = vec![("git", address.to_owned())];
        for key in ["branch", "tag", "rev"] {
            if let Some(value) = query.strip_prefix(key).and_then(|v| v.strip_prefix('=')) {
                entries.push((key, value.to_owned()));
            }
        }
        // Without the lock file, the commit would be lost.
        if query.is_empty() && commit.is_empty() {
            entries.push(("version", format!("={version}")));
        }
        return entries;
    }
    let mut entries = vec![("version", format!("={version}"))];
    if source != "registry+https://github.com/rust-lang/crates.io-index" {
        let index = source.strip_prefix("registry+").unwrap_or(source);
        entries.push(("registry-index", index.to_owned()));
    }
    entries
}

/// Makes every `path` in a table absolute.
fn absolute_paths(value: &mut toml::Value, folder: &Path) {
    let Some(table) = value.as_table_mut() else {
        return;
    };
    for (key, value) in table.iter_mut() {
        match value {
            toml::Value::String(path) if key == "path" => {
                *path = folder.join(&*path).to_string_lossy().into_owned();
            }
            value => absolute_paths(value, folder),
        }
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
            let of_package = || {
                objects(&root["dependencies"])
                    .filter(|d| d["kind"].is_null() && d["name"] == found["name"])
            };
            let own_name = |d: &Value| {
                let own = d["rename"].as_str().unwrap_or(text_of(d, "name"));
                own.replace('-', "_")
            };
            // The library may be named otherwise than the package.
            let asked = of_package()
                .find(|d| own_name(d) == name)
                .or_else(|| of_package().find(|d| d["rename"].is_null()));
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

/// Writes a file unless it has this content. Returns whether it wrote.
fn write_if_other(path: &Path, content: &str) -> std::io::Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    std::fs::write(path, content)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{absolute_paths, origin};
    use std::path::Path;

    #[test]
    fn crates_keep_their_origin() {
        let of = |source| origin(source, "1.2.3");
        assert_eq!(
            of("registry+https://github.com/rust-lang/crates.io-index"),
            [("version", "=1.2.3".to_owned())]
        );
        assert_eq!(
            of("sparse+https://example.com/index/")[1],
            (
                "registry-index",
                "sparse+https://example.com/index/".to_owned()
            )
        );
        assert_eq!(
            of("git+https://example.com/a.git?branch=main#0123"),
            [
                ("git", "https://example.com/a.git".to_owned()),
                ("branch", "main".to_owned())
            ]
        );
        assert_eq!(of("git+https://example.com/a.git#0123").len(), 1);
    }

    #[test]
    fn paths_of_patches_stay_where_they_lead() {
        let mut value: toml::Value =
            toml::from_str("[crates-io]\na = { path = \"../a\" }\nb = \"1\"").unwrap();
        absolute_paths(&mut value, Path::new("/w"));
        assert_eq!(value["crates-io"]["a"]["path"].as_str(), Some("/w/../a"));
        assert_eq!(value["crates-io"]["b"].as_str(), Some("1"));
    }
}
