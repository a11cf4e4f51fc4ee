//! The kernel "Rust (invariances)", driven as Jupyter drives it.
//!
//! Each test is a script of `tests/kernel/`, run by the Python of the project's environment: `INVARIANCES_PYTHON`, else
//! the one in the cache. Without it they skip and say so, but fail where `CI` is set.

use invariances::files;
use std::path::{Path, PathBuf};
use std::process::Command;

fn python() -> Option<PathBuf> {
    if let Some(python) = std::env::var_os("INVARIANCES_PYTHON") {
        return Some(python.into());
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(files::cache_dir().ok()?)
        .ok()?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("python-"))
        .map(|e| e.path().join("bin/python"))
        .filter(|p| p.is_file())
        .collect();
    found.sort();
    found.pop()
}

/// Runs a script with the path of the command and the folder that a notebook would be in.
fn script_with(name: &str, program: &Path, variables: &[(&str, &Path)]) {
    let Some(python) = python() else {
        let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
        assert!(
            !ci,
            "no Python with jupyter_client: set INVARIANCES_PYTHON, or run the command once"
        );
        eprintln!(
            "skipped: no Python with jupyter_client (INVARIANCES_PYTHON or the project's own)"
        );
        return;
    };
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python)
        .arg(project.join("tests/kernel").join(name))
        .arg(program)
        .arg(project.join("tests"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(
        output.status.success(),
        "{name}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn script(name: &str) {
    script_with(name, Path::new(env!("CARGO_BIN_EXE_invariances")), &[]);
}

#[test]
fn a_model_lives_through_three_cells() {
    script("training.py");
}

#[test]
fn what_goes_wrong_is_shown() {
    script("errors.py");
}

#[test]
fn a_further_dependency_is_linked_or_refused() {
    script("dependencies.py");
}

#[test]
fn two_kernels_at_once() {
    script("together.py");
}

#[test]
fn a_variable_of_a_redefined_type_is_dropped() {
    script("redefined.py");
}

#[test]
fn an_edited_crate_is_noticed() {
    // The build as it is, in a folder beside, where the list of its sources names one that is newer.
    let program = Path::new(env!("CARGO_BIN_EXE_invariances"));
    let release = program.parent().unwrap();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = folder.path();
    let deps = folder.join("deps");
    std::fs::create_dir_all(&deps).unwrap();
    let link = |name: &str| std::fs::hard_link(release.join(name), folder.join(name)).unwrap();
    link("invariances");
    // The library, which the program finds there, and the descriptions of its dependencies.
    for entry in std::fs::read_dir(release.join("deps")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("lib") && !name.ends_with(".rmeta") {
            link(&format!("deps/{name}"));
        }
    }
    let edited = folder.join("edited.rs");
    std::fs::write(&edited, "").unwrap();
    std::fs::write(
        deps.join("invariances.d"),
        format!("libinvariances.rlib: {}\n", edited.display()),
    )
    .unwrap();
    script_with("edited.py", &folder.join("invariances"), &[]);
}
