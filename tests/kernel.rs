//! The kernel "Rust (invariances)", driven as Jupyter drives it.
//!
//! Each test is a script of `tests/kernel/`, run by the Python of the project's environment:
//! `INVARIANCES_PYTHON`, else the one in the cache. Tests that need more packages run in a virtual
//! environment of `requirements-tests.txt`, made in the cache. Without a Python the tests skip and
//! say so, but fail where `CI` is set.
//!
//! Environment variables of the scripts: `KERNEL_ARGV` (another kernel: the command as a JSON list,
//! or the path of a `kernel.json`), `KERNEL_TIMEOUT` (seconds until a cell counts as one that never
//! ends, default 120), and `KERNEL_SEQUENCES` (number of random sequences, default 10).

use invariances::files;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The packages of `requirements-tests.txt`, as Python names them.
const MODULES: &str = "jupyter_kernel_test, nbclient, nbconvert, papermill, playwright";

/// Python with jupyter_client, or why there is none.
fn python() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("INVARIANCES_PYTHON") {
        return Ok(python.into());
    }
    let cache = files::cache_dir().map_err(|e| e.to_string())?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(cache)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("python-"))
        .map(|e| e.path().join("bin/python"))
        .filter(|p| p.is_file())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        "no Python with jupyter_client: set INVARIANCES_PYTHON, or run the command once".into()
    })
}

/// Python with all packages of `requirements-tests.txt`, or why there is none.
fn python_for_tests() -> Result<PathBuf, String> {
    if let Some(python) = std::env::var_os("INVARIANCES_PYTHON")
        && run(Command::new(&python).args(["-c", &format!("import {MODULES}")])).is_ok()
    {
        return Ok(python.into());
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let requirements = project.join("requirements-tests.txt");
    let mut text = String::new();
    for name in [
        "requirements-tests.txt",
        "requirements.txt",
        "tests/browser/requirements.txt",
    ] {
        text += &std::fs::read_to_string(project.join(name)).map_err(|e| format!("{name}: {e}"))?;
    }
    let cache = files::cache_dir().map_err(|e| e.to_string())?;
    let hash = blake3::hash(text.as_bytes()).to_hex();
    let venv = cache.join(format!("tests-{}", &hash[..12]));
    let python = venv.join("bin/python");
    // Written last: without it, the environment is half made.
    let stamp = venv.join("complete");
    if !stamp.exists() {
        let _ = std::fs::remove_dir_all(&venv);
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "-r"])
            .arg(&requirements))?;
        std::fs::write(&stamp, "").map_err(|e| e.to_string())?;
    }
    Ok(python)
}

/// Runs a command to its end and returns what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{}\n{text}", output.status)),
    }
}

/// The kernelspec: how Jupyter starts the kernel of this project. Builds the kernel if needed.
fn kernelspec() -> Value {
    static SPEC: OnceLock<Value> = OnceLock::new();
    let made = || {
        let output = Command::new(env!("CARGO_BIN_EXE_invariances"))
            .arg("kernel")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    SPEC.get_or_init(made).clone()
}

/// Writes a kernelspec into a file.
fn written(spec: &Value, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Tests run at the same time: none may read half of it.
    files::write_atomic(&path, spec.to_string().as_bytes()).unwrap();
    path
}

/// Runs a script with the path of a kernelspec, the folder that a notebook would be in, and further
/// arguments.
fn script_with(python: Result<PathBuf, String>, name: &str, spec: &Path, arguments: &[&Path]) {
    let python = match python {
        Ok(python) => python,
        Err(why) => {
            let ci = std::env::var_os("CI").is_some_and(|v| !v.is_empty());
            assert!(!ci, "in CI this must run: {why}");
            eprintln!("skipped: {why}");
            return;
        }
    };
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut command = Command::new(python);
    command.arg(tests.join(name)).arg(spec).arg(&tests);
    command
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // A text that Python prints before a crash is not lost.
        .env("PYTHONUNBUFFERED", "1");
    match run(&mut command) {
        Ok(said) => println!("{said}"),
        Err(said) => panic!("{name}: {said}"),
    }
}

fn script(name: &str) {
    let name = format!("kernel/{name}");
    let spec = written(&kernelspec(), "kernel.json");
    script_with(python(), &name, &spec, &[]);
}

/// Runs a script that needs the packages of `requirements-tests.txt`.
fn script_with_packages(name: &str, arguments: &[&Path]) {
    // Made once, or two tests would make it at the same time.
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = PYTHON.get_or_init(python_for_tests).clone();
    let spec = written(&kernelspec(), "kernel.json");
    script_with(python, name, &spec, arguments);
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
fn an_error_or_an_interrupt_aborts_the_queue() {
    script("queues.py");
}

#[test]
fn all_text_arrives_in_its_cell() {
    script("printing.py");
}

#[test]
fn displays_and_results_arrive_in_order() {
    script("displays.py");
}

#[test]
fn a_cell_that_reads_stdin_asks_or_fails() {
    script("asking.py");
}

#[test]
fn an_editor_is_answered() {
    script("completing.py");
}

#[test]
fn processes_end_and_say_why() {
    script("ending.py");
}

#[test]
fn random_sequences_of_cells() {
    script("sequences.py");
}

#[test]
fn a_further_dependency_is_linked_or_refused() {
    script("dependencies.py");
}

#[test]
fn several_kernels_at_once() {
    script("together.py");
}

#[test]
fn a_variable_of_a_redefined_type_is_dropped() {
    script("redefined.py");
}

#[test]
fn conformance_tests_of_jupyter() {
    script_with_packages("kernel/conformance.py", &[]);
}

#[test]
fn notebooks_are_executed_and_exported() {
    script_with_packages("kernel/exporting.py", &[]);
}

#[test]
fn figures_and_tables_of_a_notebook_are_in_its_pdf() {
    let out = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let said = run(Command::new(env!("CARGO_BIN_EXE_invariances"))
        .args(["run", "01", "--scale", "smoke", "--out"])
        .arg(out.path()));
    assert!(said.is_ok(), "{said:?}");
    script_with_packages(
        "kernel/printed.py",
        &[&out.path().join("01_invariances.ipynb")],
    );
}

#[test]
fn notebooks_are_shown_in_a_browser() {
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser");
    script_with_packages("browser/kernel.py", &[&pictures]);
    println!("pictures: {}", pictures.display());
}

#[test]
fn an_edited_crate_is_noticed() {
    // The build as it is, in another target folder, where the list of its sources names one that is
    // newer.
    let program = Path::new(env!("CARGO_BIN_EXE_invariances"));
    let built = program.parent().unwrap().join("deps");
    let target = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let deps = target.path().join("release/deps");
    std::fs::create_dir_all(&deps).unwrap();
    // The library, and the descriptions of its dependencies.
    for entry in std::fs::read_dir(&built).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("lib") && !name.ends_with(".rmeta") {
            std::fs::hard_link(entry.path(), deps.join(name)).unwrap();
        }
    }
    let edited = target.path().join("edited.rs");
    std::fs::write(&edited, "").unwrap();
    std::fs::write(
        deps.join("invariances.d"),
        format!("libinvariances.rlib: {}\n", edited.display()),
    )
    .unwrap();
    let mut spec = kernelspec();
    let argv = spec["argv"].as_array_mut().unwrap();
    let option = argv.iter().position(|a| a == "--target-dir").unwrap();
    argv[option + 1] = target.path().to_str().unwrap().into();
    let spec = written(&spec, "edited.json");
    script_with(python(), "kernel/edited.py", &spec, &[]);
}
