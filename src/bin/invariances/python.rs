//! Finds the Python that runs JupyterLab, or makes a virtual environment for it.

use crate::environment::Environment;
use crate::setup::{duration, offline_error};
use invariances::files::write_atomic;
use invariances::{Error, Result};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The file that is written last into a virtual environment: without it, the environment is
/// incomplete.
const STAMP: &str = "invariances-complete.txt";

/// The Python that was found.
pub enum Python {
    /// A Python that has the packages.
    Ready(PathBuf),
    /// A Python from which a virtual environment can be created.
    Base {
        program: PathBuf,
        version: (u32, u32),
    },
}

/// Returns the folder of the virtual environment for `environment`, which need not exist yet.
fn venv(cache: &Path, environment: &Environment) -> PathBuf {
    cache.join(format!("python-{}", environment.key))
}

/// Finds a Python. In this order: the one that `INVARIANCES_PYTHON` names, an activated conda
/// environment made from `environment.yml`, the virtual environment in the cache, and a Python
/// from which that environment can be created.
///
/// # Errors
/// [`Error::Invalid`] if there is no Python, if it is too old, or if required packages are
/// missing; the message says what to do.
pub fn find_python(cache: &Path, environment: &Environment) -> Result<Python> {
    if let Some(program) = std::env::var_os("INVARIANCES_PYTHON").filter(|v| !v.is_empty()) {
        let program = PathBuf::from(program);
        check_packages(
            &program,
            environment,
            "INVARIANCES_PYTHON names it; name another, or unset it",
        )?;
        return Ok(Python::Ready(program));
    }
    let conda = (
        std::env::var_os("CONDA_PREFIX"),
        std::env::var_os("CONDA_DEFAULT_ENV"),
    );
    if let (Some(prefix), Some(name)) = conda
        && name == OsStr::new("invariances")
    {
        let program = PathBuf::from(prefix).join("bin/python");
        check_packages(
            &program,
            environment,
            "the activated conda environment; update it: conda env update -f environment.yml",
        )?;
        return Ok(Python::Ready(program));
    }
    let venv = venv(cache, environment);
    let program = venv.join("bin/python");
    if venv.join(STAMP).is_file() && program.exists() {
        return Ok(Python::Ready(program));
    }
    let names = [
        "python3",
        "python",
        "python3.14",
        "python3.13",
        "python3.12",
        "python3.11",
        "python3.10",
    ];
    let mut old = None;
    for program in names
        .iter()
        .flat_map(|name| which::which_all_global(*name).into_iter().flatten())
    {
        match version(&program) {
            Some(version) if version >= environment.python => {
                return Ok(Python::Base { program, version });
            }
            Some(version) if old.is_none() => old = Some((program, version)),
            _ => {}
        }
    }
    let (major, minor) = environment.python;
    let advice = format!(
        "install Python {major}.{minor} or newer (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python), or set INVARIANCES_PYTHON to the Python of a conda environment made from environment.yml"
    );
    Err(Error::invalid(match old {
        None => format!("no Python on PATH; {advice}"),
        Some((program, (a, b))) => {
            format!(
                "Python is too old: {} is {a}.{b}, and JupyterLab needs {major}.{minor}; {advice}",
                program.display()
            )
        }
    }))
}

fn version(python: &Path) -> Option<(u32, u32)> {
    let output = Command::new(python)
        .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().split_once('.')?;
    output
        .status
        .success()
        .then_some((major.parse().ok()?, minor.parse().ok()?))
}

/// Checks that the user's own Python has the packages. A version that differs from the pinned one
/// only gives a note.
fn check_packages(python: &Path, environment: &Environment, whose: &str) -> Result<()> {
    const CODE: &str = "import sys\nfrom importlib.metadata import version, PackageNotFoundError\n\
        print('%d.%d' % sys.version_info[:2])\n\
        for name in sys.argv[1:]:\n    try: print(name, version(name))\n    except PackageNotFoundError: print(name, '-')\n";
    let names = environment.packages.iter().map(|(name, _)| name.as_str());
    let output = Command::new(python)
        .args(["-c", CODE])
        .args(names)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io(python, e).with_hint(whose))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let found = lines
        .next()
        .and_then(|l| l.split_once('.'))
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let (major, minor) = environment.python;
    match found {
        Some(found) if found >= environment.python => {}
        Some((a, b)) => {
            return Err(Error::invalid(format!(
                "{}: Python {major}.{minor} or newer is needed, found {a}.{b} ({whose})",
                python.display()
            )));
        }
        None => {
            return Err(Error::invalid(format!(
                "{}: is no Python that runs: {} ({whose})",
                python.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
    }
    for (line, (name, wanted)) in lines.zip(&environment.packages) {
        match line.split_once(' ').map(|(_, version)| version) {
            Some(version) if version == wanted => {}
            None | Some("-") => {
                return Err(Error::invalid(format!(
                    "{}: has no {name}; requirements.txt asks for {} ({whose})",
                    python.display(),
                    environment.requirements().join(", ")
                )));
            }
            Some(version) => eprintln!(
                "note: {} has {name} {version}, requirements.txt has {wanted}",
                python.display()
            ),
        }
    }
    Ok(())
}

/// Makes the virtual environment and installs the packages into it. Returns its Python.
pub fn make_venv(
    base: &Path,
    cache: &Path,
    environment: &Environment,
    offline: bool,
) -> Result<PathBuf> {
    let venv = venv(cache, environment);
    if offline {
        return Err(offline_error("the Python environment"));
    }
    let began = Instant::now();
    let requirements = environment.requirements();
    println!(
        "Python: {} into {} …",
        requirements.join(", "),
        venv.display()
    );
    // Debian may install the module `venv` without the modules that it needs.
    let whole = Command::new(base)
        .args(["-c", "import venv, ensurepip"])
        .stdin(Stdio::null())
        .output();
    if !whole.is_ok_and(|o| o.status.success()) {
        return Err(Error::invalid(format!(
            "{} cannot make virtual environments: its modules venv or ensurepip are missing; install them (Debian, Ubuntu: apt install python3-venv), or use conda: conda env create -f environment.yml && conda activate invariances",
            base.display()
        )));
    }
    if venv.exists() {
        // The environment is incomplete: a complete one would have been used.
        std::fs::remove_dir_all(&venv).map_err(|e| Error::io(&venv, e))?;
    }
    let mut make = Command::new(base);
    make.args(["-m", "venv"])
        .arg(&venv)
        .env_remove("PYTHONHOME")
        .env_remove("PYTHONPATH");
    watch(&mut make, |_| None, "making a virtual environment")?;
    let python = venv.join("bin/python");
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
    ])
    .args(&requirements)
    .env("PIP_CACHE_DIR", cache.join("pip"))
    .env("PIP_ROOT_USER_ACTION", "ignore");
    for name in [
        "PYTHONPATH",
        "PYTHONHOME",
        "PIP_TARGET",
        "PIP_PREFIX",
        "PIP_USER",
        "PIP_REQUIREMENT",
    ] {
        pip.env_remove(name);
    }
    let mut packages = 0;
    let attempt = watch(
        &mut pip,
        |line| {
            if line.starts_with("Installing collected packages") {
                return Some(format!("installing {packages} packages"));
            }
            let name = line.strip_prefix("Collecting ")?;
            packages += 1;
            Some(format!(
                "{packages} packages: {}",
                name.split(' ').next().unwrap_or(name)
            ))
        },
        "installing the Python packages",
    );
    if let Err(error) = attempt {
        let _ = std::fs::remove_dir_all(&venv);
        return Err(error);
    }
    // JupyterLab asks new users whether it may fetch news; this setting answers no.
    write_atomic(
        venv.join("share/jupyter/lab/settings/overrides.json"),
        b"{\"@jupyterlab/apputils-extension:notification\": {\"fetchNews\": \"false\", \"checkForUpdates\": false}}\n",
    )?;
    write_atomic(
        venv.join(STAMP),
        format!("{}\n", requirements.join("\n")).as_bytes(),
    )?;
    println!("Python: ready after {}.", duration(began.elapsed()));
    Ok(python)
}

/// Runs a command and prints its progress from time to time. Its messages are shown only if it
/// fails.
fn watch(
    command: &mut Command,
    mut progress: impl FnMut(&str) -> Option<String>,
    what: &str,
) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| Error::io(command.get_program(), e).with_hint(what))?;
    let stderr = child.stderr.take();
    let messages = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    });
    let terminal = std::io::stdout().is_terminal();
    let began = Instant::now();
    let mut said = began;
    let mut last_lines = Vec::new();
    for line in BufReader::new(
        child
            .stdout
            .take()
            .ok_or_else(|| Error::invalid("no output"))?,
    )
    .lines()
    {
        let Ok(line) = line else { break };
        if let Some(text) = progress(&line)
            && (terminal || said.elapsed() > Duration::from_secs(5))
        {
            said = Instant::now();
            let text = format!("  {:>4.0} s  {text}", began.elapsed().as_secs_f64());
            if terminal {
                print!("\r\x1b[K{text}");
                let _ = std::io::stdout().flush();
            } else {
                println!("{text}");
            }
        }
        last_lines.push(line);
    }
    if terminal {
        print!("\r\x1b[K");
    }
    let status = child
        .wait()
        .map_err(|e| Error::io(command.get_program(), e))?;
    let messages = messages.join().unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    let text = if messages.trim().is_empty() {
        last_lines.join("\n")
    } else {
        messages
    };
    Err(Error::invalid(format!(
        "{what} failed ({status}):\n{}",
        text.trim()
    )))
}
