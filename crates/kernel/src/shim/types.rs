//! Finds the user's definitions that the types of a cell's variables depend on.
//!
//! evcxr compiles every cell as a crate with the same name and the same metadata, so `ctx::P` has
//! the same `TypeId` before and after the user redefines `P`. Reading an old value as the new
//! type is undefined behaviour. evcxr writes all items of the user into every cell. This module
//! parses them and makes a table with one line for each definition that can determine the layout
//! of a type:
//!
//! ```text
//! NAME HASH REFERENCE REFERENCE …
//! ```
//!
//! HASH is computed from the definition's own tokens, and each REFERENCE is a name in the table.
//! Every cell passes its table to `cell/store.rs`, which drops the variables whose types depend on a
//! line that has changed.
//!
//! References are resolved by name only, without scopes: definitions of the same name in
//! different modules count as one. Comments, white space, visibility, derives, lints, function
//! bodies in traits and inherent methods do not count, because none of them changes the layout of
//! a type or of a vtable. `impl Drop` counts, because a value has to be destroyed by the code
//! that it was made for. Associated types count for every type and trait in the header of their
//! `impl`.
//!
//! Some names are special:
//! - `*` means all types that can be the content of a `dyn Any` or a `dyn Error`, from which a
//!   value can be downcast.
//! - `!` means everything that may define or shadow any name: macro calls instead of items, and
//!   glob imports of the user's modules and crates.
//! - `?` means all items together. A type depends on it if its definition was not found (it was
//!   made by a macro, or is local to a function).
//! - The name of a crate added with `:dep` means the library that was built from it.
//!
//! Not detected:
//! - values that a library keeps behind its own type-erased pointer and returns by downcast,
//!   where the variable's type contains neither `Any` nor `Error` (for example the panic payload
//!   of a `JoinHandle`);
//! - a glob import of std or of the project that shadows a name of the standard prelude which a
//!   type uses;
//! - `unsafe` code of the user whose methods now make other assumptions about the value;
//! - a crate in a folder whose new library file has the size and modification time of the old
//!   one.

use super::tokens::{Item, References, is_punct, merge, render, text_of};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crates whose glob imports do not shadow the names which user types consist of. The project's own
/// crates are among them too.
const STABLE: [&str; 3] = ["alloc", "core", "std"];

/// The text that evcxr writes between the items and the statements of a cell.
const STATEMENTS: &str = "pub extern \"C\" fn run_user_code_";

/// Returns the table of the definitions in a cell's source.
///
/// `crates` holds the name and the [`stamp`] of every crate that the user added; `stable` the names
/// of the project's crates, which do not change as long as the kernel runs.
pub fn table(source: &str, crates: &[(String, String)], stable: &[String]) -> String {
    let items = &source[..source.find(STATEMENTS).unwrap_or(source.len())];
    let mut definitions = Definitions {
        stable: stable.to_vec(),
        ..Definitions::default()
    };
    match items.parse() {
        Ok(tokens) => definitions.items(tokens),
        // rustc rejects this source too. If it did not, every type would depend on the hash of
        // the whole text.
        Err(_) => return format!("? {}\n", hash([items])),
    }
    for (name, stamp) in crates {
        let text = format!("crate {name} {stamp}");
        definitions.all.insert(text.clone());
        let definition = definitions.get(name);
        definition.parts.insert(text);
        definition.other = true;
    }
    definitions.table(crates)
}

/// Returns a text that identifies the build of a library.
pub fn stamp(library: &Path) -> String {
    let metadata = std::fs::metadata(library).ok();
    let modified = metadata.as_ref().and_then(|m| m.modified().ok());
    let size = metadata.map(|m| m.len());
    format!("{} {size:?} {modified:?}", library.display())
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// All definitions with one name.
#[derive(Default)]
struct Definition {
    /// The tokens of each item. evcxr writes items in random order, and some of them twice.
    parts: BTreeSet<String>,
    references: References,
    /// Whether one of the items is a struct, an enum, a union or a trait.
    is_type: bool,
    /// Whether one of the items is not a function.
    other: bool,
}

#[derive(Default)]
struct Definitions {
    /// The project's crates.
    stable: Vec<String>,
    by_name: BTreeMap<String, Definition>,
    /// What `impl` blocks add to the names in their headers: the name, the tokens and the
    /// references.
    attached: Vec<(String, String, References)>,
    /// Macro calls and glob imports.
    anything: Definition,
    /// The tokens of all items.
    all: BTreeSet<String>,
}

impl Definitions {
    fn get(&mut self, name: &str) -> &mut Definition {
        self.by_name.entry(name.to_owned()).or_default()
    }

    fn items(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            let item = Item::first(rest);
            self.item(&item);
            rest = &rest[item.length..];
        }
    }

    fn item(&mut self, item: &Item) {
        let Some(keyword) = &item.keyword else { return };
        let name = item.name.as_deref().unwrap_or_default();
        match keyword.as_str() {
            "mod" => {
                // evcxr's own module is not the user's.
                if name != "evcxr_internal_runtime"
                    && let Some(content) = item.braces()
                {
                    self.items(content);
                }
                return;
            }
            _ if name == "EvcxrUserCodeError" => return,
            "use" => return self.import(&item.tokens[item.at + 1..], ""),
            "impl" => return self.implementation(item),
            _ => {}
        }
        // A type definition can only call constant functions.
        if keyword == "fn" && !item.has("const") {
            self.all.insert(text_of(item.tokens));
            return;
        }
        let (text, references) = item.render(keyword == "trait");
        self.all.insert(text.clone());
        let definition = match keyword.as_str() {
            "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" | "fn"
            | "macro_rules" | "crate" => self.get(name),
            _ => &mut self.anything,
        };
        definition.parts.insert(text);
        merge(&mut definition.references, references);
        definition.is_type |= ["struct", "enum", "union", "trait"].contains(&keyword.as_str());
        definition.other |= keyword != "fn";
    }

    /// Adds the tree of a `use`, of which `path` was already read.
    fn import(&mut self, tree: &[TokenTree], path: &str) {
        for branch in tree.split(|t| is_punct(t, ',') || is_punct(t, ';')) {
            let (text, references) = render(branch, false);
            let whole = format!("{path}{text}");
            if let Some(TokenTree::Group(group)) = branch.last() {
                let before = text_of(&branch[..branch.len() - 1]);
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                self.import(&inner, &format!("{path}{before}"));
                continue;
            }
            let words: Vec<&str> = whole.split_whitespace().filter(|w| *w != ":").collect();
            let (Some(root), Some(last)) = (words.first(), words.last()) else {
                continue;
            };
            self.all.insert(format!("use {whole}"));
            let leaf = match *last {
                "*" if STABLE.contains(root) || self.stable.iter().any(|s| s == root) => continue,
                "*" => &mut self.anything,
                "_" => continue,
                "self" => match words.iter().rev().nth(1) {
                    Some(name) => self.by_name.entry((*name).to_owned()).or_default(),
                    None => continue,
                },
                name => self.by_name.entry(name.to_owned()).or_default(),
            };
            leaf.parts.insert(format!("use {whole}"));
            leaf.other = true;
            // An imported function may be called under this name.
            merge(
                &mut leaf.references,
                words.iter().map(|w| ((*w).to_owned(), true)).collect(),
            );
            merge(&mut leaf.references, references);
        }
    }

    /// Adds associated types, constants and constant functions, and the whole of an `impl Drop`.
    fn implementation(&mut self, item: &Item) {
        let Some(content) = item.braces() else { return };
        let (header, subjects) = render(&item.tokens[..item.length_of_header()], false);
        self.all.insert(text_of(item.tokens));
        let mut attached = Vec::new();
        if subjects.contains_key("Drop") {
            attached.push(item.render(false));
        }
        let members: Vec<TokenTree> = content.into_iter().collect();
        let mut rest = &members[..];
        while !rest.is_empty() {
            let member = Item::first(rest);
            rest = &rest[member.length..];
            let keyword = member.keyword.as_deref().unwrap_or_default();
            let constant = keyword == "const" || keyword == "fn" && member.has("const");
            let Some(name) = member
                .name
                .as_deref()
                .filter(|_| constant || keyword == "type")
            else {
                // A macro call may expand to an associated type.
                if !["fn", "const", "type"].contains(&keyword) && member.keyword.is_some() {
                    attached.push(member.render(false));
                }
                continue;
            };
            let (text, references) = member.render(false);
            let text = format!("{header}{text}");
            if keyword == "type" {
                attached.push((text.clone(), references.clone()));
            }
            let definition = self.get(name);
            definition.parts.insert(text);
            definition.other |= keyword != "fn";
            merge(&mut definition.references, references);
        }
        for (text, references) in attached {
            for subject in subjects.keys() {
                self.attached
                    .push((subject.clone(), text.clone(), references.clone()));
            }
        }
    }

    fn table(mut self, crates: &[(String, String)]) -> String {
        for (name, text, references) in std::mem::take(&mut self.attached) {
            if let Some(definition) = self.by_name.get_mut(&name).filter(|d| d.is_type) {
                definition.parts.insert(text);
                merge(&mut definition.references, references);
            }
        }
        let types: Vec<String> = self
            .by_name
            .iter()
            .filter(|(_, d)| d.is_type)
            .map(|(name, _)| name.clone())
            .chain(crates.iter().map(|(name, _)| name.clone()))
            .collect();
        let mut lines = BTreeMap::new();
        let whole = hash(self.all.iter().map(String::as_str));
        lines.insert("?".to_owned(), whole + "\n");
        lines.insert("*".to_owned(), format!("- {}\n", types.join(" ")));
        let mut waiting = types;
        if !self.anything.parts.is_empty() {
            self.by_name
                .insert("!".to_owned(), std::mem::take(&mut self.anything));
            waiting.push("!".to_owned());
        }
        let anything = self.by_name.contains_key("!");
        // A function counts only if a type definition can call it.
        while let Some(name) = waiting.pop() {
            let Some(definition) = self.by_name.get(&name) else {
                continue;
            };
            if lines.contains_key(&name) {
                continue;
            }
            let mut line = hash(definition.parts.iter().map(String::as_str));
            let mut add = |reference: &str| {
                line += " ";
                line += reference;
            };
            for (reference, called) in &definition.references {
                if reference == "Any" || reference == "Error" {
                    add("*");
                }
                if let Some(found) = self.by_name.get(reference)
                    && (found.other || *called)
                {
                    add(reference);
                    waiting.push(reference.clone());
                }
            }
            if anything && name != "!" {
                add("!");
            }
            lines.insert(name, line + "\n");
        }
        lines.iter().map(|(k, v)| format!("{k} {v}")).collect()
    }
}

#[cfg(test)]
#[path = "../cell/store.rs"]
#[expect(dead_code, reason = "the cells call the rest")]
mod store;

/// The store sends lines to evcxr through this function of its parent module.
#[cfg(test)]
fn control(_line: &str) {}

#[cfg(test)]
mod tests;
