//! Checks that a change of the code that decides what a training produces or a study measures, and
//! another version of a crate that decides numbers, are recorded in `src/revisions.json`.

use invariances::{Error, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.is_file() {
        return Ok(vec![folder.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let path = entry.map_err(|e| Error::io(folder, e))?.path();
        if path.is_dir() {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn is_ident(tree: Option<&TokenTree>, name: &str) -> bool {
    matches!(tree, Some(TokenTree::Ident(i)) if i == name)
}

/// The code as words, without documentation and without items for tests.
fn words(code: TokenStream, out: &mut String) {
    let trees: Vec<TokenTree> = code.into_iter().collect();
    let mut at = 0;
    while let Some(tree) = trees.get(at) {
        let is_hash = matches!(tree, TokenTree::Punct(p) if p.as_char() == '#');
        let inner = matches!(trees.get(at + 1), Some(TokenTree::Punct(p)) if p.as_char() == '!');
        if let Some(TokenTree::Group(attribute)) = trees.get(at + 1 + usize::from(inner))
            && is_hash
            && attribute.delimiter() == Delimiter::Bracket
        {
            let attribute: Vec<TokenTree> = attribute.stream().into_iter().collect();
            let text = attribute
                .iter()
                .map(ToString::to_string)
                .collect::<String>();
            if is_ident(attribute.first(), "doc") {
                at += 2 + usize::from(inner);
                continue;
            }
            if text == "cfg(test)" {
                // An item ends with its body or a semicolon, a variant or an arm with a comma.
                let end = trees[at + 2..].iter().position(|t| match t {
                    TokenTree::Group(g) => g.delimiter() == Delimiter::Brace,
                    TokenTree::Punct(p) => matches!(p.as_char(), ';' | ','),
                    _ => false,
                });
                at = end.map_or(trees.len(), |end| at + 3 + end);
                continue;
            }
        }
        match tree {
            TokenTree::Group(group) => {
                out.push_str(&format!("{:?}(", group.delimiter()));
                words(group.stream(), out);
                out.push(')');
            }
            other => out.push_str(&other.to_string()),
        }
        out.push(' ');
        at += 1;
    }
}

/// The hash of the code in these folders, in this order.
fn hash(folders: &[PathBuf]) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    for folder in folders {
        for path in rust_files(folder)? {
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
            let code: TokenStream = text.parse().expect("Rust");
            let mut all = String::new();
            words(code, &mut all);
            let name = path
                .strip_prefix(folder)
                .expect("below")
                .display()
                .to_string();
            for part in [name, all] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
        }
    }
    Ok(hash.finalize().to_hex()[..16].to_owned())
}

#[test]
fn a_change_of_code_is_recorded() -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table: Value = serde_json::from_str(include_str!("../src/revisions.json")).expect("JSON");
    let mut changed = Vec::new();
    for (part, recorded) in table.as_object().expect("an object") {
        let folders = match part.as_str() {
            "dependencies" => continue,
            "ops" | "data" => vec![project.join("crates").join(part).join("src")],
            "subject" => ["subject.rs", "images.rs"]
                .map(|file| project.join("src/notebook").join(file))
                .to_vec(),
            "train" => vec![project.join("src/train"), project.join("src/recipes")],
            _ => vec![project.join("src").join(part)],
        };
        let found = hash(&folders)?;
        if recorded["sources"] != found.as_str() {
            changed.push(format!("{part}: \"sources\": \"{found}\""));
        }
    }
    assert!(
        changed.is_empty(),
        "the code of these parts changed. If a training can give other weights now, or a study other values, raise \
         their revision in src/revisions.json; in any case write there\n  {}",
        changed.join("\n  ")
    );
    Ok(())
}

/// The recorded versions that `lock`, the text of a `Cargo.lock`, does not have, each with those
/// that it has.
fn other_versions(recorded: &BTreeMap<String, String>, lock: &str) -> Vec<String> {
    let lock: toml::Value = toml::from_str(lock).expect("TOML");
    let packages = lock["package"].as_array().expect("a list");
    let mut others = Vec::new();
    for (name, version) in recorded {
        let found: Vec<&str> = packages
            .iter()
            .filter(|p| p["name"].as_str() == Some(name.as_str()))
            .filter_map(|p| p["version"].as_str())
            .collect();
        if !found.contains(&version.as_str()) {
            others.push(format!(
                "\"{name}\": \"{version}\", now {}",
                found.join(" or ")
            ));
        }
    }
    others
}

#[test]
fn another_version_of_a_crate_that_decides_numbers_is_recorded() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let lock = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let recorded = invariances::revision::dependencies();
    for name in ["candle-core", "gemm", "rand_chacha", "rand_distr"] {
        assert!(recorded.contains_key(name), "{name}");
    }
    let others = other_versions(&recorded, &lock);
    assert!(
        others.is_empty(),
        "Cargo.lock has other versions of crates that decide numbers. If a training or a measurement can give other \
         values now, raise the revision of `dependencies` in src/revisions.json; in any case write the version there\n  {}",
        others.join("\n  ")
    );
    // Another version of candle is found.
    let candle = &recorded["candle-core"];
    let entry = format!("name = \"candle-core\"\nversion = \"{candle}\"");
    let newer = lock.replace(&entry, "name = \"candle-core\"\nversion = \"99.0.0\"");
    let others = other_versions(&recorded, &newer);
    let expected = format!("\"candle-core\": \"{candle}\", now 99.0.0");
    assert_eq!(others, [expected]);
    Ok(())
}

#[test]
fn comments_and_tests_do_not_count_and_code_does() {
    let of = |text: &str| {
        let mut all = String::new();
        words(text.parse().expect("Rust"), &mut all);
        all
    };
    let code = "pub fn f(x: f64) -> f64 { 2.0 * x }";
    let documented = format!(
        "//! A file.\n/// Doubles.\n{} // why\n#[cfg(test)] mod tests {{ #[test] fn t() {{}} }}",
        code.replace("{ ", "{\n    // comment\n    ")
    );
    assert_eq!(of(code), of(&documented));
    assert_ne!(of(code), of(&code.replace("2.0", "3.0")));
    assert_ne!(of("a.b(c)"), of("a.b.c"));
}
