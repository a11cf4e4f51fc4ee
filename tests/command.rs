//! The command as a user calls it: what it says to bad input, what it leaves behind, and, where the
//! set-up is done, notebooks of its own in the real kernel.

use base64::Engine as _;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_invariances"));
    for name in [
        "INVARIANCES_SCALE",
        "INVARIANCES_SEED",
        "INVARIANCES_NETWORK_SEED",
        "INVARIANCES_OUT",
        "INVARIANCES_OFFLINE",
        "INVARIANCES_SET",
        "INVARIANCES_RETRAIN",
        "INVARIANCES_IMAGES",
        "INVARIANCES_FRAMES",
        "CONDA_PREFIX",
    ] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Writes a notebook; a cell that begins with `#` is text.
fn notebook(folder: &Path, name: &str, cells: &[&str]) -> PathBuf {
    let cell = |(i, source): (usize, &&str)| match source.starts_with('#') {
        true => {
            json!({"cell_type": "markdown", "id": format!("c{i}"), "metadata": {}, "source": source})
        }
        false => {
            json!({"cell_type": "code", "id": format!("c{i}"), "metadata": {"execution": {"iopub.status.busy": "1970-01-01T00:00:00Z"}},
            "source": source, "execution_count": 7, "outputs": [{"output_type": "stream", "name": "stdout", "text": "of an earlier run"}]})
        }
    };
    let cells: Vec<Value> = cells.iter().enumerate().map(cell).collect();
    let path = folder.join(format!("{name}.ipynb"));
    let text = json!({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5});
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => all.extend(files(&path)),
            path => all.push(path),
        }
    }
    all
}

/// Asserts that a call fails with a message that has all of `parts`, on one try, without a panic.
fn refuses(command: &mut Command, parts: &[&str]) {
    let output = command.output().unwrap();
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
}

#[test]
fn bad_settings_are_refused_before_anything_is_written() {
    let home = folder();
    let out = home.path().join("out");
    let run = || {
        let mut command = command();
        command
            .arg("run")
            .arg("--out")
            .arg(&out)
            .env("INVARIANCES_CACHE", home.path().join("cache"));
        command
    };
    let scales = "expected one of smoke, quick, real, paper, found `huge`";
    refuses(run().args(["--scale", "huge"]), &["--scale", scales]);
    refuses(
        run().env("INVARIANCES_SCALE", "huge"),
        &["INVARIANCES_SCALE", scales],
    );
    refuses(
        run().env("INVARIANCES_SEED", "-1"),
        &["INVARIANCES_SEED: expected a whole number", "found `-1`"],
    );
    let number = "INVARIANCES_NETWORK_SEED: expected a whole number";
    refuses(
        run().env("INVARIANCES_NETWORK_SEED", "x"),
        &[number, "found `x`"],
    );
    let devices = "expected a device such as cpu, cuda, cuda:1 or metal, found";
    refuses(run().args(["--device", "tpu"]), &["--device", devices]);
    refuses(
        run().env("INVARIANCES_DEVICE", "tpu"),
        &["INVARIANCES_DEVICE", devices],
    );
    #[cfg(not(feature = "cuda"))]
    refuses(
        run().args(["--device", "cuda"]),
        &["--device", "--features cuda"],
    );
    refuses(
        run().arg("77_nowhere"),
        &[
            "no notebook `77_nowhere`",
            "expected a number, a name or the path",
        ],
    );
    refuses(
        run().args(["--all", "01"]),
        &["--all", "cannot be used with"],
    );
    assert!(files(home.path()).is_empty(), "{:?}", files(home.path()));
}

#[test]
fn folders_that_cannot_be_written_are_named() {
    let home = folder();
    let page = notebook(home.path(), "90_a", &["1"]);
    let file = home.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let below = file.join("out");
    refuses(
        command().arg("run").arg(&page).arg("--out").arg(&below),
        &[below.to_str().unwrap(), "choose another one with --out"],
    );
    refuses(
        command()
            .arg("run")
            .arg(&page)
            .arg("--out")
            .arg(home.path().join("out"))
            .env("INVARIANCES_CACHE", &below),
        &[below.to_str().unwrap(), "set INVARIANCES_CACHE"],
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn records_of_an_earlier_run_that_are_none_are_not_overwritten() {
    let home = folder();
    if !set_up("records_of_an_earlier_run_that_are_none_are_not_overwritten") {
        return;
    }
    let page = notebook(home.path(), "90_a", &["1"]);
    std::fs::write(home.path().join("run.json"), "{\"mine\": true}").unwrap();
    refuses(
        command()
            .arg("run")
            .arg(&page)
            .arg("--out")
            .arg(home.path()),
        &["run.json", "choose another folder with --out"],
    );
    assert_eq!(
        std::fs::read_to_string(home.path().join("run.json")).unwrap(),
        "{\"mine\": true}"
    );
}

/// A program that a shell would run, in a folder that is all of PATH.
fn fake_python(home: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let bin = home.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let python = bin.join("python3");
    std::fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

#[test]
fn a_python_that_cannot_serve_is_said_with_what_to_do() {
    let home = folder();
    let cache = home.path().join("cache");
    let setup = |path: &Path| {
        let mut command = command();
        command
            .arg("setup")
            .env("PATH", path)
            .env("INVARIANCES_CACHE", &cache)
            .env_remove("INVARIANCES_PYTHON");
        command
    };
    let empty = home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refuses(
        &mut setup(&empty),
        &[
            "no Python on PATH",
            "install Python 3.10 or newer",
            "INVARIANCES_PYTHON",
        ],
    );
    let bin = fake_python(home.path(), "echo 3.8");
    refuses(&mut setup(&bin), &["Python is too old", "3.8", "3.10"]);
    let bin = fake_python(
        home.path(),
        "case \"$2\" in *venv*) exit 1;; *) echo 3.12;; esac",
    );
    refuses(
        &mut setup(&bin),
        &[
            "cannot make virtual environments",
            "apt install python3-venv",
            "environment.yml",
        ],
    );
    // Of a pip that fails, the message is shown and nothing half made is left.
    let bin = fake_python(
        home.path(),
        "case \"$2\" in *venv*) for last; do :; done; /bin/mkdir -p \"$last/bin\"; echo 'echo ERROR: no such index >&2; exit 3' > \"$last/bin/python\"; /bin/chmod +x \"$last/bin/python\";; *) echo 3.12;; esac",
    );
    let python = bin.join("python3");
    let text = std::fs::read_to_string(&python)
        .unwrap()
        .replace("*venv*) for", "*ensurepip*) ;; venv) for");
    std::fs::write(
        &python,
        text.replace("echo 'echo ERROR", "echo '#!/bin/sh\necho ERROR"),
    )
    .unwrap();
    refuses(
        &mut setup(&bin),
        &["installing the Python packages failed", "no such index"],
    );
    assert!(
        !files(&cache)
            .iter()
            .any(|f| f.to_string_lossy().contains("python-")),
        "{:?}",
        files(&cache)
    );
}

#[test]
fn a_python_of_the_user_s_own_is_looked_at_before_it_is_used() {
    let home = folder();
    let cache = home.path().join("cache");
    let setup = |python: &Path| {
        let mut command = command();
        command
            .arg("setup")
            .env("INVARIANCES_CACHE", &cache)
            .env("INVARIANCES_PYTHON", python);
        command
    };
    refuses(
        &mut setup(&home.path().join("nowhere")),
        &["nowhere", "INVARIANCES_PYTHON"],
    );
    let bin = fake_python(home.path(), "printf '3.12\\njupyterlab -\\nnbclient -\\n'");
    refuses(
        &mut setup(&bin.join("python3")),
        &["has no jupyterlab", "requirements.txt asks for"],
    );
    let bin = fake_python(home.path(), "echo 3.9");
    refuses(
        &mut setup(&bin.join("python3")),
        &["Python 3.10 or newer is needed, found 3.9"],
    );
}

#[test]
fn offline_nothing_is_downloaded() {
    let home = folder();
    let cache = home.path().join("cache");
    let bin = fake_python(home.path(), "echo 3.12");
    refuses(
        command()
            .args(["setup", "--offline"])
            .env("PATH", bin)
            .env("INVARIANCES_CACHE", &cache)
            .env_remove("INVARIANCES_PYTHON"),
        &["the Python environment is missing", "--offline", "setup"],
    );
}

#[test]
fn doctor_says_what_is_missing_and_fails() {
    let home = folder();
    let output = command()
        .arg("doctor")
        .env("INVARIANCES_CACHE", home.path())
        .env("INVARIANCES_SCALE", "huge")
        .output()
        .unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "Rust",
        "cargo",
        "kernel          missing",
        "mend: cargo run --release -- setup",
        "INVARIANCES_SCALE is `huge`",
    ] {
        assert!(text.contains(part), "no `{part}` in: {text}");
    }
    assert!(files(home.path()).is_empty());
}

/// Whether notebooks can be executed here; where not, says so, and fails in CI.
fn set_up(test: &str) -> bool {
    let output = command().args(["setup", "--offline"]).output().unwrap();
    if !output.status.success() {
        let why = text(&output);
        assert!(
            std::env::var_os("CI").is_none(),
            "in CI the set-up must be done before the tests: {why}"
        );
        eprintln!(
            "skipped {test}: the set-up is not done; do it by `cargo run --release -- setup`"
        );
    }
    output.status.success()
}

/// The text that a cell of an executed notebook printed.
fn printed(page: &Value, cell: usize) -> String {
    let outputs = page["cells"][cell]["outputs"].as_array().unwrap();
    let texts = outputs
        .iter()
        .filter(|o| o["output_type"] == "stream")
        .map(|o| match &o["text"] {
            Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
            text => text.as_str().unwrap_or_default().to_owned(),
        });
    texts.collect::<Vec<String>>().concat()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn notebooks_run_and_leave_claims_figures_and_a_page() {
    if !set_up("notebooks_run_and_leave_claims_figures_and_a_page") {
        return;
    }
    let home = folder();
    let out = home.path().join("out");
    let good = notebook(
        home.path(),
        "90_good",
        &[
            "# What is **good**?",
            "let out = std::path::PathBuf::from(std::env::var(\"INVARIANCES_OUT\")?);\nlet twice = 2 * 21;",
            "println!(\"{} {} {twice}\", std::env::var(\"INVARIANCES_SCALE\")?, std::env::var(\"INVARIANCES_SEED\")?);",
            "for folder in [\"figures\", \"claims\"] { std::fs::create_dir_all(out.join(folder))?; }\n\
             std::fs::write(out.join(\"figures/90_good-box.svg\"), \"<svg xmlns='http://www.w3.org/2000/svg'/>\")?;\n\
             std::fs::write(out.join(\"claims/90_good.json\"), r#\"[{\"notebook\":\"90_good\",\"name\":\"a\",\"statement\":\"It is <good>\",\"figure\":\"box\",\"value\":0.5,\"unit\":\"\",\"low\":null,\"high\":null,\"expected\":\"\",\"holds\":true,\"scale\":\"smoke\",\"seed\":0,\"version\":\"0\"}]\"#)?;",
        ],
    );
    let run = |page: &Path| {
        let mut command = command();
        command
            .args(["run", "--scale", "smoke", "--offline", "--out"])
            .arg(&out)
            .arg(page)
            .env("INVARIANCES_SEED", "3");
        command.output().unwrap()
    };
    let output = run(&good);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "scale smoke",
        "[1/3]",
        "[3/3]",
        "│ smoke 3 42",
        "3 of 3 cells",
        "Claims: 0 hold, 0 fail, 0 undecided, 1 not meaningful (smoke).",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    let executed = out.join("90_good.ipynb");
    let page = read(&executed);
    assert_eq!(page["metadata"]["kernelspec"]["name"], "invariances");
    assert_eq!(printed(&page, 2), "smoke 3 42\n");
    let claims = read(&out.join("claims.json"));
    assert_eq!(claims[0]["statement"], "It is <good>");
    assert_eq!(claims[0]["verdict"], "smoke");
    assert_eq!(claims[0]["holds"], false);
    let index = std::fs::read_to_string(out.join("index.html")).unwrap();
    assert!(index.contains("What is **good**?") && index.contains("It is &lt;good&gt;"));
    assert!(index.contains("figures/90_good-box.svg") && index.contains("90_good.ipynb"));

    // Executed again: the same file, and what another run left of it is not kept.
    let first = std::fs::read(&executed).unwrap();
    std::fs::write(out.join("figures/90_good-old.svg"), "").unwrap();
    assert!(run(&good).status.success());
    assert!(
        std::fs::read(&executed).unwrap() == first,
        "two equal runs wrote different notebooks"
    );
    assert!(!out.join("figures/90_good-old.svg").exists());

    // Claims that are none, in another notebook: said, and the first notebook stays on the page.
    let bad = notebook(
        home.path(),
        "91_claims",
        &[
            "std::fs::write(std::env::var(\"INVARIANCES_OUT\")? + \"/claims/91_claims.json\", \"[{]\")?;",
        ],
    );
    let output = run(&bad);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("91_claims.json: expected an array of claims"),
        "{said}"
    );
    assert_eq!(read(&out.join("claims.json")).as_array().unwrap().len(), 1);
    assert!(
        std::fs::read_to_string(out.join("index.html"))
            .unwrap()
            .contains("90_good.ipynb")
    );
}

#[test]
fn a_cell_that_fails_is_shown_and_the_next_notebook_runs() {
    if !set_up("a_cell_that_fails_is_shown_and_the_next_notebook_runs") {
        return;
    }
    let home = folder();
    let out = home.path().join("out");
    let never = "println!(\"never\");";
    let cases: [(&str, &str, &[&str]); 5] = [
        (
            "90_compiler",
            "let a = 1;\nlet b = a + nope;",
            &["line 2: let b = a + nope;", "cannot find value `nope`"],
        ),
        (
            "91_panic",
            "let none: Option<i32> = None;\nnone.unwrap();",
            &[
                "line 2: none.unwrap();",
                "panicked: called `Option::unwrap()`",
            ],
        ),
        (
            "92_error",
            "println!(\"before\");\nlet x: i32 = \"x\".parse()?;",
            &["line 2: let x: i32", "invalid digit found in string"],
        ),
        (
            "93_abort",
            "std::process::abort();",
            &["line 1: std::process::abort();", "SIGABRT"],
        ),
        (
            "94_dead",
            "std::process::Command::new(\"sh\").arg(\"-c\").arg(\"kill -9 $(ps -o ppid= -p $PPID)\").status()?;",
            &["The kernel died while it executed this cell"],
        ),
    ];
    let pages: Vec<PathBuf> = cases
        .iter()
        .map(|(name, cell, _)| notebook(home.path(), name, &["# A title", "1 + 1", cell, never]))
        .collect();
    let last = notebook(home.path(), "95_good", &["println!(\"good\");"]);
    let output = command()
        .args(["run", "--scale", "smoke", "--offline", "--out"])
        .arg(&out)
        .args(&pages)
        .arg(&last)
        .output()
        .unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let index = std::fs::read_to_string(out.join("index.html")).unwrap();
    for (name, _, parts) in &cases {
        let part = said
            .split("\n\n")
            .find(|p| p.starts_with(name))
            .unwrap_or_else(|| panic!("no {name} in: {said}"));
        for expected in parts
            .iter()
            .chain(&["cell 2 of 3 failed", "1 of 3 cells ran"])
        {
            assert!(
                part.contains(expected),
                "{name}: no `{expected}` in: {part}"
            );
        }
        // What ran is kept, and what did not run has no output of an earlier run.
        let page = read(&out.join(format!("{name}.ipynb")));
        assert!(
            !page["cells"][1]["outputs"].as_array().unwrap().is_empty(),
            "{name}"
        );
        assert!(
            page["cells"][3]["outputs"].as_array().unwrap().is_empty(),
            "{name}"
        );
        assert!(
            page["cells"][2]["metadata"].as_object().unwrap().is_empty(),
            "{name}"
        );
        assert!(index.contains(&format!("{name}.ipynb")));
    }
    assert!(said.contains("│ good"), "{said}");
    assert!(!said.contains("│ never"), "{said}");
}

/// Whether a process is there.
fn alive(process: i32) -> bool {
    // A process that has ended and was not waited for is listed as a zombie.
    let state = Command::new("ps")
        .args(["-o", "stat=", "-p", &process.to_string()])
        .output()
        .unwrap();
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

#[test]
fn an_interrupt_ends_the_kernel_and_leaves_nothing_half_written() {
    if !set_up("an_interrupt_ends_the_kernel_and_leaves_nothing_half_written") {
        return;
    }
    // The request to stop, and the end that nobody can answer.
    for signal in ["INT", "KILL"] {
        let home = folder();
        let out = home.path().join("out");
        let page = notebook(
            home.path(),
            "90_long",
            &[
                "for i in 0..600 { println!(\"step {i} of {}\", std::process::id()); std::thread::sleep(std::time::Duration::from_millis(200)); }",
            ],
        );
        let mut child = command()
            .args(["run", "--scale", "smoke", "--offline", "--out"])
            .arg(&out)
            .arg(&page)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let step = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|l| l.contains("step 3 of "))
            .unwrap();
        let cell: i32 = step.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(alive(cell));
        let asked = Instant::now();
        assert!(
            Command::new("kill")
                .args(["-s", signal, &child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
        let rest: Vec<String> = lines.map_while(Result::ok).collect();
        let status = child.wait().unwrap();
        while alive(cell) && asked.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(!alive(cell), "after SIG{signal} the cell's process goes on");
        assert!(!out.join("90_long.ipynb").exists());
        let left = files(&out);
        if signal == "INT" {
            assert_eq!(status.code(), Some(130), "{rest:?}");
            assert!(rest.iter().any(|l| l.contains("interrupted")), "{rest:?}");
            assert!(
                asked.elapsed() < Duration::from_secs(10),
                "{:?}",
                asked.elapsed()
            );
            assert!(out.join("index.html").exists());
        } else {
            assert!(left.is_empty(), "{left:?}");
        }
        assert!(
            !left.iter().any(|f| f.to_string_lossy().ends_with(".tmp")),
            "{left:?}"
        );
    }
}

/// A study repeats a notebook seed by seed, keeps what is done, goes on where it was, and says what it cannot use.
#[test]
fn a_study_repeats_a_notebook_over_seeds_and_goes_on_where_it_was() {
    let home = folder();
    let (out, into) = (home.path().join("out"), home.path().join("studies"));
    let dependency = format!(
        ":dep invariances = {{ path = {:?} }}\nuse invariances::prelude::*;\nlet lab = Lab::open(\"study_me\")?;",
        env!("CARGO_MANIFEST_DIR")
    );
    let cells = [
        dependency.as_str(),
        "let by: f64 = lab.setting(\"by\", 2.0)?;\nlab.claim(\"value\", by * lab.seed() as f64 + 0.25 * lab.network_seed() as f64).at_least(1.0).state()?",
        "lab.study(&(by, \"seedless\"))?",
    ];
    let path = notebook(home.path(), "study_me", &cells);
    let study = |arguments: &[&str]| {
        let mut command = command();
        command
            .arg("study")
            .arg(&path)
            .args(["--scale", "smoke"])
            .args(arguments)
            .arg("--out")
            .arg(&out)
            .arg("--into")
            .arg(&into);
        command
    };
    refuses(&mut study(&["--seeds", "0"]), &["seeds"]);
    refuses(&mut study(&["--networks", "0"]), &["networks"]);
    refuses(&mut study(&["--set", "by"]), &["NAME=VALUE", "by"]);
    refuses(&mut study(&["--confirm"]), &["study_me", "found none"]);
    assert!(!into.exists());
    if !set_up("a_study_repeats_a_notebook_over_seeds_and_goes_on_where_it_was") {
        return;
    }
    let output = study(&["--seeds", "2"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let kept = read(&into.join("study_me.json"));
    assert_eq!(kept[0]["seeds"], json!([0, 1]));
    assert_eq!(kept[0]["code"], invariances::revision::all());
    assert_eq!(kept[0]["devices"].as_array().unwrap().len(), 2);
    assert_eq!(kept[0]["claims"][0]["values"], json!([0.0, 2.0]));
    assert_eq!(kept[0]["networks"], json!([0, 0]));
    let differences = &kept[0]["claims"][0]["differences"];
    assert_eq!(*differences, json!([-1.0, 1.0]));
    // At smoke scale nothing holds.
    assert_eq!(kept[0]["claims"][0]["holds"], json!([false, false]));
    // A third seed: the first two are not measured again.
    let output = study(&["--seeds", "3"]).output().unwrap();
    let said = text(&output);
    assert_eq!(said.matches("measured before").count(), 2, "{said}");
    let kept = read(&into.join("study_me.json"));
    assert_eq!(kept[0]["claims"][0]["values"], json!([0.0, 2.0, 4.0]));
    // Where the outputs are gone, the table is enough.
    std::fs::remove_dir_all(&out).unwrap();
    let said = text(&study(&["--seeds", "3"]).output().unwrap());
    assert_eq!(said.matches("in the table").count(), 3, "{said}");
    assert_eq!(read(&into.join("study_me.json")), kept);
    // Fewer seeds than it has take none away.
    let said = text(&study(&["--seeds", "1"]).output().unwrap());
    assert_eq!(said.matches("in the table").count(), 3, "{said}");
    assert_eq!(read(&into.join("study_me.json")), kept);
    // A comment changes nothing.
    let same = cells[1].replace("let by", "// Twice.\nlet by");
    notebook(home.path(), "study_me", &[cells[0], &same, cells[2]]);
    let said = text(&study(&["--seeds", "3"]).output().unwrap());
    assert_eq!(said.matches("in the table").count(), 3, "{said}");
    assert_eq!(read(&into.join("study_me.json")), kept);
    // The shipped weights changed: one seed is measured, and the others count since the configuration is the same.
    let mut others = kept.clone();
    others[0]["key"] = json!("of other weights");
    std::fs::write(into.join("study_me.json"), others.to_string()).unwrap();
    let said = text(&study(&["--seeds", "3"]).output().unwrap());
    assert_eq!(said.matches("in the table").count(), 2, "{said}");
    std::fs::remove_dir_all(&out).unwrap();
    // Cells with other code, or values of another revision of the code, are measured again, all of them.
    let other = cells[1].replace("by * lab", "1.0 * by * lab");
    notebook(home.path(), "study_me", &[cells[0], &other, cells[2]]);
    let said = text(&study(&["--seeds", "3"]).output().unwrap());
    assert!(said.contains("code cells changed"), "{said}");
    assert_eq!(said.matches("in the table").count(), 0, "{said}");
    let again = read(&into.join("study_me.json"));
    assert_eq!(again[0]["claims"][0]["values"], json!([0.0, 2.0, 4.0]));
    assert_ne!(again[0]["cells"], kept[0]["cells"]);
    std::fs::remove_dir_all(&out).unwrap();
    let mut old = again.clone();
    old[0]["code"] = json!("flow 99");
    std::fs::write(into.join("study_me.json"), old.to_string()).unwrap();
    let said = text(&study(&["--seeds", "1"]).output().unwrap());
    assert!(said.contains("flow 99 →"), "{said}");
    assert_eq!(said.matches("in the table").count(), 0, "{said}");
    assert_eq!(read(&into.join("study_me.json"))[0]["seeds"], json!([0]));
    // Who knows that nothing could change confirms the table.
    std::fs::write(into.join("study_me.json"), old.to_string()).unwrap();
    let said = text(&study(&["--confirm"]).output().unwrap());
    assert!(said.contains("flow 99 →"), "{said}");
    assert_eq!(read(&into.join("study_me.json")), again);
    // With the flag, seeds are measured again although the table has them.
    let said = text(&study(&["--seeds", "1", "--retrain"]).output().unwrap());
    assert_eq!(said.matches("in the table").count(), 0, "{said}");
    assert!(said.contains("trained again"), "{said}");
    notebook(home.path(), "study_me", &cells);
    // Another configuration: all anew.
    let other = cells[2].replace("seedless", "other");
    notebook(home.path(), "study_me", &[cells[0], cells[1], &other]);
    let said = text(&study(&["--seeds", "3"]).output().unwrap());
    assert_eq!(said.matches("in the table").count(), 0, "{said}");
    let anew = read(&into.join("study_me.json"));
    assert_eq!(anew[0]["seeds"], json!([0, 1, 2]));
    assert_ne!(anew[0]["configuration"], kept[0]["configuration"]);
    notebook(home.path(), "study_me", &cells);
    // With a setting it is another study, beside the first.
    let output = study(&["--seeds", "1", "--set", "by=7"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let kept = read(&into.join("study_me.json"));
    assert_eq!(kept[1]["settings"], json!({"by": "7"}));
    assert_ne!(kept[0]["configuration"], kept[1]["configuration"]);
    // `run` takes settings too.
    let output = command()
        .args(["run", "--scale", "smoke", "--set", "by=9", "--out"])
        .arg(&out)
        .arg(&path)
        .env("INVARIANCES_SEED", "3")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let claims = read(&out.join("claims.json"));
    assert!(claims.to_string().contains("27.0"), "{claims}");
    // Seeds of the network under study are entries of their own, next to those of everything else.
    let networks = ["--seeds", "1", "--networks", "3", "--set", "by=3"];
    let said = text(&study(&networks).output().unwrap());
    assert!(said.contains("3 seeds of the network"), "{said}");
    let found = read(&into.join("study_me.json"))[2].clone();
    assert_eq!(found["seeds"], json!([0, 0, 0]));
    assert_eq!(found["networks"], json!([0, 1, 2]));
    assert_eq!(found["claims"][0]["values"], json!([0.0, 0.25, 0.5]));
    let networks = ["--seeds", "2", "--networks", "3", "--set", "by=3"];
    let said = text(&study(&networks).output().unwrap());
    assert_eq!(said.matches("measured before").count(), 3, "{said}");
    let kept = read(&into.join("study_me.json"));
    assert_eq!(kept[2]["seeds"], json!([0, 0, 0, 1]));
    assert_eq!(kept[2]["networks"], json!([0, 1, 2, 0]));
    // What no cell asks for is said, and costs nothing that was measured.
    let output = study(&["--seeds", "1", "--set", "off=1"]).output().unwrap();
    let said = text(&output);
    assert!(!output.status.success() && said.contains("off"), "{said}");
    assert_eq!(read(&into.join("study_me.json")), kept);
}

/// The notebooks ask other images by a setting: 05 a folder of the user's, 11 that and a film.
#[test]
fn notebooks_ask_other_images_by_a_setting() {
    let home = folder();
    let run = |notebook: &str, set: &str, variable: &str, images: &Path| {
        let mut command = command();
        command.args(["run", notebook, "--scale", "smoke", "--offline"]);
        command.args(["--set", set, "--out"]);
        command.arg(home.path().join("out"));
        command.env(variable, images);
        command
    };
    if !set_up("notebooks_ask_other_images_by_a_setting") {
        return;
    }
    let images = home.path().join("images");
    for n in 0..40u32 {
        let place = images.join(["cat", "dog"][n as usize % 2]);
        std::fs::create_dir_all(&place).unwrap();
        let shade = |x: u32, y: u32| image::Rgb([(x * 4) as u8, (y * 4) as u8, (n * 6) as u8]);
        let picture = image::RgbImage::from_fn(64, 64, shade);
        picture.save(place.join(format!("{n}.png"))).unwrap();
    }
    let output = run("05", "images=photographs", "INVARIANCES_IMAGES", &images)
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let page = read(&home.path().join("out/05_layers.ipynb")).to_string();
    assert!(page.contains("asked of: photographs"), "{said}");
    // A film of three frames, where the notebook's own would have four at this scale.
    let film = home.path().join("film");
    std::fs::create_dir(&film).unwrap();
    for n in [0, 2, 4] {
        let name = format!("{n}.png");
        std::fs::copy(images.join("cat").join(&name), film.join(&name)).unwrap();
    }
    let output = run("11", "images=photographs", "INVARIANCES_IMAGES", &images)
        .env("INVARIANCES_FRAMES", &film)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let shown = std::fs::read(home.path().join("out/figures/11_mixing-film.png")).unwrap();
    let at = shown.windows(4).position(|w| w == b"acTL").unwrap();
    assert_eq!(shown[at + 4..at + 8], [0, 0, 0, 3], "frames of the film");
    // What is not there is said by the cell that wants it.
    let nowhere = home.path().join("nowhere");
    let wrong = run("05", "images=photographs", "INVARIANCES_IMAGES", &nowhere).output();
    let said = text(&wrong.unwrap());
    assert!(said.contains("there is no file or folder"), "{said}");
    let wrong = run("05", "images=animals", "INVARIANCES_IMAGES", &images).output();
    let said = text(&wrong.unwrap());
    assert!(
        said.contains("creatures, faces, photographs, published"),
        "{said}"
    );
}

/// What a reader sees where nobody runs a notebook: a figure, a table or claims, and not the text of the value that should have shown itself.
/// (The kernel falls back to that text where a cell's last expression consumes a variable.)
#[test]
fn committed_notebooks_show_what_they_made() {
    let notebooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("notebooks");
    let mut seen = 0;
    for path in files(&notebooks) {
        if path.extension().is_none_or(|e| e != "ipynb")
            || path.to_string_lossy().contains(".ipynb_checkpoints")
        {
            continue;
        }
        for (number, cell) in read(&path)["cells"].as_array().unwrap().iter().enumerate() {
            for output in cell["outputs"].as_array().into_iter().flatten() {
                let text = match &output["data"]["text/plain"] {
                    Value::Array(lines) => lines.iter().filter_map(Value::as_str).collect(),
                    text => text.as_str().unwrap_or_default().to_string(),
                };
                let rich = ["Figure", "Table {", "Claims(", "Claim {", "shape: ("];
                let data = &output["data"];
                // Tables are HTML; figures are PNG, and large grids of images JPEG, in base64.
                let forms = ["text/html", "image/png", "image/jpeg"];
                let is_rich = forms.iter().any(|form| data.get(*form).is_some());
                assert!(
                    is_rich || !rich.iter().any(|r| text.starts_with(r)),
                    "{}, cell {number} shows {:.60}: end it with a value that consumes no variable",
                    path.display(),
                    text
                );
                let starts: [(&str, &[u8]); 2] = [
                    ("image/png", b"\x89PNG\r\n\x1a\n"),
                    ("image/jpeg", b"\xff\xd8\xff"),
                ];
                for (form, start) in starts {
                    let Some(file) = data.get(form) else {
                        continue;
                    };
                    let file = file.as_str().unwrap_or_default().trim();
                    let bytes = base64::engine::general_purpose::STANDARD.decode(file);
                    assert!(
                        bytes.is_ok_and(|b| b.starts_with(start)),
                        "{}, cell {number}: {form} is not such a file in base64",
                        path.display()
                    );
                }
                seen += usize::from(is_rich);
            }
        }
    }
    assert!(seen > 40, "only {seen} rich outputs in all notebooks");
}
