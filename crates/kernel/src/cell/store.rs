//! The store for the variables of the cells. evcxr 0.22 writes such a store into the source of
//! every cell. This one is compiled once and linked, which halves the code of each cell.
//!
//! Unlike evcxr's store, it also detects that the type of a variable was redefined. Before a cell
//! runs, it passes the table of its definitions (see `types.rs`), which is compared with the
//! table of the previous cell. A variable is dropped if its type depends on a line that has
//! changed. The code of the cell that stored it drops it; this is possible because evcxr never
//! unloads a cell's library. So every value in the store matches the latest table.
//!
//! This file depends only on the standard library.

use std::any::{Any, TypeId, type_name};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub const VARIABLE_CHANGED_TYPE: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
pub const USER_ERROR_OCCURRED: &str = "EVCXR_ERROR_OCCURRED";

thread_local! {
    // Leaked, so that no destructor runs when the process ends, as with evcxr's own store. All
    // cells are loaded and run by one thread, so a thread-local variable is enough.
    static VARIABLES: &'static RefCell<Variables> = Box::leak(Box::default());
}

#[derive(Default)]
struct Variables {
    by_name: HashMap<String, Variable>,
    /// The table of the cell that was loaded last.
    table: String,
    /// Values to drop before the next cell runs. They cannot be dropped while a cell is loaded,
    /// because the loader is locked then.
    dropped: Vec<Box<dyn Any>>,
    /// The variables that were reported when the cell was loaded.
    reported: Vec<String>,
}

struct Variable {
    value: Box<dyn Any>,
    type_name: &'static str,
    /// The reason why the value must not be used any more.
    stale: Option<String>,
}

fn variables<R>(f: impl FnOnce(&mut Variables) -> R) -> R {
    VARIABLES.with(|variables| f(&mut variables.borrow_mut()))
}

/// Called when a cell is loaded. The arguments are the table of its definitions, the variables
/// that it makes again without using their old values, and the variables whose types no longer
/// compile, with their types.
pub fn defined(table: &str, made_again: &[&str], invalid: &[(&str, &str)]) {
    let lost = variables(|all| {
        if all.table != table {
            let (old, new) = (parse(&all.table), parse(table));
            for variable in all.by_name.values_mut().filter(|v| v.stale.is_none()) {
                variable.stale = reason(&old, &new, variable.type_name);
            }
            all.table = table.to_owned();
        }
        for (name, kind) in invalid {
            if let Some(variable) = all.by_name.get_mut(*name) {
                let why = || format!("its type `{kind}` was redefined since");
                variable.stale.get_or_insert_with(why);
            }
        }
        let mut lost: Vec<String> = all
            .by_name
            .iter()
            .filter(|(name, v)| v.stale.is_some() && !made_again.contains(&name.as_str()))
            .map(|(name, _)| name.clone())
            .collect();
        lost.sort();
        let reasons = lost.iter().map(|name| all.lose(name)).collect::<Vec<_>>();
        all.reported.clone_from(&lost);
        lost.into_iter().zip(reasons).collect::<Vec<_>>()
    });
    for (name, why) in lost {
        report(&name, &why);
    }
}

/// Informs the user, and evcxr, which then compiles the cell again without the variable.
fn report(name: &str, why: &str) {
    println!("The variable `{name}` was dropped: {why}. Run the cell that makes it again.");
    super::control(&format!("{VARIABLE_CHANGED_TYPE}{name}"));
}

impl Variables {
    /// Removes a variable from the store and returns the reason.
    fn lose(&mut self, name: &str) -> String {
        let found = self.by_name.remove(name);
        let why = found.and_then(|variable| {
            self.dropped.push(variable.value);
            variable.stale
        });
        why.unwrap_or_else(|| "its value is missing".into())
    }
}

/// Drops the values that are due. A destructor that panics must not end the process.
fn drop_due() {
    for value in variables(|all| std::mem::take(&mut all.dropped)) {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
    }
}

/// The object that evcxr passes from cell to cell.
pub struct VariableStore(());

pub fn create_variable_store() -> *mut VariableStore {
    Box::into_raw(Box::new(VariableStore(())))
}

impl VariableStore {
    pub fn put_variable<T: 'static>(&mut self, name: &str, value: T) {
        put(name, Box::new(value), type_name::<T>());
    }

    pub fn check_variable<T: 'static>(&mut self, name: &str) -> bool {
        check(name, TypeId::of::<T>())
    }

    pub fn take_variable<T: 'static>(&mut self, name: &str) -> T {
        match take(name).downcast() {
            Ok(value) => *value,
            Err(_) => panic!("Variable changed type"),
        }
    }

    /// Drops the old value of a variable that the cell makes again.
    pub fn forget_variable(&mut self, name: &str) {
        variables(|all| all.lose(name));
        drop_due();
    }

    pub fn lazy_arc<T: 'static, F: FnOnce() -> T>(&mut self, name: &str, create: F) -> Arc<T> {
        let found = variables(|all| {
            all.by_name
                .get(name)?
                .value
                .downcast_ref::<Arc<T>>()
                .cloned()
        });
        found.unwrap_or_else(|| {
            let value = Arc::new(create());
            put(name, Box::new(Arc::clone(&value)), type_name::<Arc<T>>());
            value
        })
    }
}

fn put(name: &str, value: Box<dyn Any>, type_name: &'static str) {
    let variable = Variable {
        value,
        type_name,
        stale: None,
    };
    let before = variables(|all| all.by_name.insert(name.to_owned(), variable));
    drop(before);
}

fn check(name: &str, wanted: TypeId) -> bool {
    drop_due();
    let why = variables(|all| {
        if all.reported.iter().any(|reported| reported == name) {
            return Err(None);
        }
        if let Some(variable) = all.by_name.get_mut(name) {
            if variable.stale.is_none() && (*variable.value).type_id() == wanted {
                return Ok(());
            }
            let why = || "its type has changed since".into();
            variable.stale.get_or_insert_with(why);
        }
        Err(Some(all.lose(name)))
    });
    if let Err(Some(why)) = &why {
        report(name, why);
    }
    why.is_ok()
}

fn take(name: &str) -> Box<dyn Any> {
    let found = variables(|all| {
        let usable = all.by_name.get(name).is_some_and(|v| v.stale.is_none());
        if usable {
            all.by_name.remove(name)
        } else {
            None
        }
    });
    match found {
        Some(variable) => variable.value,
        None => panic!("Variable '{name}' has gone missing"),
    }
}

/// A table by name: the hash of a definition, and the names that it refers to.
pub type Table<'a> = HashMap<&'a str, (&'a str, &'a str)>;

pub fn parse(table: &str) -> Table<'_> {
    let entry = |line| {
        let (name, rest) = str::split_once(line, ' ')?;
        Some((name, rest.split_once(' ').unwrap_or((rest, ""))))
    };
    table.lines().filter_map(entry).collect()
}

/// Returns why a variable that was stored under one table must not be used under another, or
/// `None` if it may be used.
pub fn reason(old: &Table, new: &Table, type_name: &str) -> Option<String> {
    Some(sentence(type_name, changed(old, new, type_name)?))
}

/// Returns a definition that has changed and that the type depends on.
fn changed<'a>(old: &Table<'a>, new: &Table<'a>, type_name: &'a str) -> Option<&'a str> {
    let mut seen = HashSet::new();
    let mut waiting: VecDeque<&str> = mentioned(old, type_name).into();
    while let Some(name) = waiting.pop_front() {
        if !seen.insert(name) {
            continue;
        }
        let (before, after) = (old.get(name), new.get(name));
        if before.map(|d| d.0) != after.map(|d| d.0) {
            return Some(name);
        }
        // A value behind `dyn Any` is older than the latest table, so it cannot be of a type that
        // is new there.
        let after = after.filter(|_| name != "*");
        for (_, references) in [before, after].into_iter().flatten() {
            waiting.extend(references.split_whitespace());
        }
    }
    None
}

/// Returns the names in a table that a type mentions directly, and `?` for a type without a
/// definition in the table.
fn mentioned<'a>(table: &Table<'a>, type_name: &'a str) -> Vec<&'a str> {
    let mut names = Vec::new();
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for path in type_name.split(|c| !word(c)).filter(|p| p.contains("::")) {
        let mut segments: Vec<&str> = path.split("::").collect();
        let (root, last) = (segments.remove(0), segments.pop().unwrap_or_default());
        if root == "ctx" || root.is_empty() {
            // The other segments are modules, which do not matter, or functions, which do.
            names.extend(segments.into_iter().filter(|s| table.contains_key(s)));
            names.push(if table.contains_key(last) { last } else { "?" });
            continue;
        }
        if table.contains_key(root) {
            names.push(root);
        }
        if ["Any", "Error"].contains(&last) {
            names.push("*");
        }
    }
    names
}

/// Returns the message why a variable of a type is dropped when a definition has changed.
fn sentence(type_name: &str, changed: &str) -> String {
    let short = short(type_name);
    match changed {
        "?" | "!" | "*" => {
            format!("its type `{short}` may depend on a definition that changed since")
        }
        name if name == short => format!("its type `{short}` was redefined since"),
        name => format!("its type `{short}` depends on `{name}`, which was redefined since"),
    }
}

/// Shortens a type name: `Vec<P>` for `alloc::vec::Vec<ctx::P>`.
fn short(type_name: &str) -> String {
    let mut text = String::new();
    let mut word = String::new();
    for c in type_name.chars().chain([' ']) {
        if c.is_alphanumeric() || c == '_' || c == ':' {
            word.push(c);
        } else {
            text += word.rsplit("::").next().unwrap_or_default();
            word.clear();
            text.push(c);
        }
    }
    text.pop();
    text.replace("'_ ", "")
}
