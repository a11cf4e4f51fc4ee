//! Runs programs, and reads files, arguments and the JSON that cargo prints.

use super::Result;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

pub fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| format!("an answer of cargo cannot be read: {e}"))
}

pub fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

pub fn after<'a>(arguments: &'a [String], option: &str) -> Option<&'a str> {
    arguments.iter().enumerate().find_map(|(i, a)| {
        if a == option {
            return arguments.get(i + 1).map(String::as_str);
        }
        a.strip_prefix(option)?.strip_prefix('=')
    })
}

pub fn objects(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub fn text_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

pub fn list_of(value: &Value) -> Vec<String> {
    objects(value)
        .filter_map(|v| v.as_str().map(String::from))
        .collect()
}

pub fn stdout(command: &mut Command) -> Result<String> {
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
/// CARGO_NET_OFFLINE forbids it.
pub fn stdout_offline_first(command: &mut Command) -> Result<String> {
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
    let forbidden = std::env::var_os("CARGO_NET_OFFLINE").is_some_and(|v| v == "true");
    match stdout(&mut offline) {
        Err(_) if !forbidden => stdout(command),
        answer => answer,
    }
}
