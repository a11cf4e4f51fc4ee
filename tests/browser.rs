//! A real browser: a notebook opened and run in JupyterLab as a person does, by `browser/lab.py`, and the page that `run` writes, by
//! `browser/gallery.py`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn run(command: &mut Command) -> (bool, String) {
    match command.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (
                output.status.success(),
                text + &String::from_utf8_lossy(&output.stderr),
            )
        }
        Err(error) => (
            false,
            format!("{}: {error}", command.get_program().display()),
        ),
    }
}

/// What the test needs and does not find, or Python with Playwright in the project's cache.
fn python() -> Result<PathBuf, String> {
    let (there, said) =
        run(Command::new(env!("CARGO_BIN_EXE_invariances")).args(["setup", "--offline"]));
    if !there {
        return Err(format!(
            "the set-up is not done (cargo run --release -- setup): {said}"
        ));
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&path).any(|dir| names.iter().any(|name| dir.join(name).is_file())) {
        return Err("no Chromium on PATH (Debian: apt install chromium)".into());
    }
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/requirements.txt");
    let text = std::fs::read(&requirements).map_err(|e| e.to_string())?;
    let cache = invariances::files::cache_dir().map_err(|e| e.to_string())?;
    let venv = cache.join(format!("browser-{}", &blake3::hash(&text).to_hex()[..12]));
    let python = venv.join("bin/python");
    // Written last: without it, the environment is half made.
    let stamp = venv.join("complete");
    if !stamp.exists() {
        let _ = std::fs::remove_dir_all(&venv);
        let steps = [
            Command::new("python3").args(["-m", "venv"]).arg(&venv) as &mut Command,
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "-r"])
                .arg(&requirements),
        ]
        .map(run);
        if let Some((_, said)) = steps.into_iter().find(|(good, _)| !good) {
            return Err(format!("Playwright cannot be installed: {said}"));
        }
        std::fs::write(&stamp, "").map_err(|e| e.to_string())?;
    }
    Ok(python)
}

/// The Python of the tests, or none where they are skipped; in CI they must run.
fn python_or_skip(test: &str) -> Option<PathBuf> {
    // Made once, or two tests would make it at the same time.
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match PYTHON.get_or_init(python) {
        Ok(python) => Some(python.clone()),
        Err(why) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "in CI this must run: {why}"
            );
            eprintln!("skipped {test}: {why}");
            None
        }
    }
}

#[test]
fn a_notebook_runs_in_jupyterlab_in_a_browser() {
    let Some(python) = python_or_skip("a_notebook_runs_in_jupyterlab_in_a_browser") else {
        return;
    };
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let (good, said) = run(Command::new(python)
        .arg(project.join("tests/browser/lab.py"))
        .arg(env!("CARGO_BIN_EXE_invariances"))
        .arg(project.join("notebooks/01_invariances.ipynb"))
        .arg(&pictures)
        .env("INVARIANCES_SCALE", "smoke"));
    println!("{said}pictures: {}", pictures.display());
    assert!(good, "{said}");
}

/// The page of a notebook with figures, a film, claims, and a figure that a reader moves.
#[test]
fn the_gallery_is_looked_at_and_moved_in_a_browser() {
    let Some(python) = python_or_skip("the_gallery_is_looked_at_and_moved_in_a_browser") else {
        return;
    };
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().expect("a temporary folder");
    let (good, said) = run(Command::new(env!("CARGO_BIN_EXE_invariances"))
        .args(["run", "11", "--scale", "smoke", "--out"])
        .arg(out.path())
        .current_dir(project));
    assert!(good, "{said}");
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    let (good, said) = run(Command::new(python)
        .arg(project.join("tests/browser/gallery.py"))
        .arg(out.path().join("index.html"))
        .arg(&pictures));
    println!("{said}pictures: {}", pictures.display());
    assert!(good, "{said}");
}
