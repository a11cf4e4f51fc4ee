//! The graph of crates with which `cargo metadata` is answered: for a cell, and for the standard
//! library. rust-analyzer reads the types of variables from it.

use super::additions::Additions;
use super::answers::{
    list_of, objects, parse, read, same_file, stdout, stdout_offline_first, text_of,
};
use super::manifest::Cell;
use super::{Kernel, Result, STANDARD};
use crate::project::read_by_analyzer;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

impl Kernel {
    /// Returns the graph of the standard library's crates.
    pub(super) fn standard_library(&self, manifest: &Path) -> Result<String> {
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
    pub(super) fn metadata(&self, alone: bool) -> Result<ExitCode> {
        let folder = self.cell_folder();
        let manifest = folder.join("Cargo.toml");
        let cell = Cell::read(&manifest)?;
        let others = self.added(&cell)?;
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
        // evcxr checks a new dependency in a crate of another name.
        if !alone && cell.name == "ctx" {
            let graph = parse(&self.our_graph()?)?;
            for package in objects(&graph["packages"]) {
                packages.insert(text_of(package, "id").into(), package.clone());
            }
            for one in objects(&graph["nodes"]) {
                nodes.insert(text_of(one, "id").into(), one.clone());
            }
            for (name, id) in graph["edges"].as_object().into_iter().flatten() {
                edges.insert(name.clone(), id.as_str().unwrap_or_default().into());
            }
        }
        // An added crate can also be in our graph. Only edges to packages in the combined graph
        // are kept.
        for one in nodes.values_mut() {
            if let Some(deps) = one["deps"].as_array_mut() {
                deps.retain(|d| packages.contains_key(text_of(d, "pkg")));
            }
        }
        let id = format!("path+file://{}#{}@1.0.0", folder.display(), cell.name);
        let provided = self.provided();
        let names: BTreeSet<&String> = cell.dependencies.keys().chain(provided.keys()).collect();
        let dependencies: Vec<Value> = names
            .into_iter()
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

    /// Returns the crates that the user added to those of the project. A specification of a crate
    /// that the project has is only checked.
    ///
    /// # Errors
    /// If the user asks for another version of a crate that the project has.
    pub(super) fn added<'a>(&self, cell: &'a Cell) -> Result<BTreeMap<&'a str, &'a toml::Value>> {
        let provided = self.provided();
        let mut added = BTreeMap::new();
        for (name, specification) in &cell.dependencies {
            let rust_name = name.replace('-', "_");
            match provided.get(&rust_name) {
                Some(_) if rust_name == self.setting("library") => self.accept(specification)?,
                Some(version) => self.accept_version(name, version, specification)?,
                None => {
                    added.insert(name.as_str(), specification);
                }
            }
        }
        Ok(added)
    }

    /// Returns an error unless the specification allows the version that the project has.
    fn accept_version(&self, name: &str, version: &str, specification: &toml::Value) -> Result<()> {
        let wanted = match specification {
            toml::Value::String(wanted) => Some(wanted.as_str()),
            table => table.get("version").and_then(toml::Value::as_str),
        };
        let fits = match (
            wanted.map(semver::VersionReq::parse),
            semver::Version::parse(version),
        ) {
            (Some(Ok(wanted)), Ok(version)) => wanted.matches(&version),
            _ => true,
        };
        match fits {
            true => Ok(()),
            false => Err(format!(
                "{} has {name} {version}, which cells use too; leave the line `:dep {name}` out, or ask for that version",
                self.setting("package")
            )),
        }
    }

    /// Returns an error unless the specification is the crate that the kernel was built with.
    fn accept(&self, specification: &toml::Value) -> Result<()> {
        let project = Path::new(self.setting("project"));
        let library = self.setting("library");
        let path = specification.get("path").and_then(toml::Value::as_str);
        let wanted = path.ok_or_else(|| {
            format!(
                "this kernel has the crate that was built in {}; name it by its folder, or leave the line out: :dep {library} = {{ path = \"{}\" }}",
                project.display(),
                project.display()
            )
        })?;
        if !same_file(Path::new(wanted), project) {
            return Err(format!(
                "this kernel has the crate that was built in {}, not the one in {wanted}; \
                 use the kernel of that one, or the kernel \"Rust\" of evcxr",
                project.display()
            ));
        }
        let built = list_of(&self.settings["features"]);
        let features = specification.get("features");
        let features = features.and_then(toml::Value::as_array);
        for feature in features
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_str)
        {
            if feature != "default" && !built.iter().any(|b| b == feature) {
                return Err(format!(
                    "the crate was built without the feature {feature}; build it with it and start the kernel with `--features {feature}`"
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
        let lock = Path::new(self.setting("workspace")).join("Cargo.lock");
        let named = self.settings["types"].is_array();
        let named = named.then(|| list_of(&self.settings["types"]));
        let key = [
            "graph",
            &manifest.to_string_lossy(),
            &read(&manifest)?,
            &read(&lock).unwrap_or_default(),
            &self.settings["features"].to_string(),
            self.setting("cargo_version"),
            &format!("{named:?}"),
            &self.settings["versions"].to_string(),
        ];
        self.kept(&key, || {
            let mut command = self.real("cargo");
            command
                .args(["metadata", "--format-version=1", "--filter-platform"])
                .arg(self.setting("host"))
                .arg("--manifest-path")
                .arg(&manifest);
            let features = list_of(&self.settings["features"]).join(",");
            if !features.is_empty() {
                command.args(["--features", &features]);
            }
            let whole = parse(&stdout_offline_first(&mut command)?)?;
            let package = self.setting("package");
            let ids = read_by_analyzer(&whole, package, named.as_deref());
            let mut root = &Value::Null;
            let mut packages = Vec::new();
            for one in objects(&whole["packages"]) {
                if !ids.contains(text_of(one, "id")) {
                    continue;
                }
                if text_of(one, "name") == package && one["source"].is_null() {
                    root = one;
                }
                let mut one = libraries_only(one);
                one["dependencies"] = json!([]);
                packages.push(one);
            }
            // What cells can name: the project's library, and its direct dependencies unless cells
            // reach them through it.
            let mut edges = BTreeMap::new();
            let provided = self.provided();
            for node in objects(&whole["resolve"]["nodes"]).filter(|n| n["id"] == root["id"]) {
                for edge in objects(&node["deps"]) {
                    let (name, id) = (text_of(edge, "name"), text_of(edge, "pkg"));
                    if provided.contains_key(name) && ids.contains(id) {
                        edges.insert(name.to_owned(), id.to_owned());
                    }
                }
            }
            if !self.setting("library").is_empty() {
                edges.insert(self.setting("library").into(), text_of(root, "id").into());
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
                "edges": edges, "packages": packages, "nodes": nodes, "hashbrown": hashbrown,
            })
            .to_string())
        })
    }
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
