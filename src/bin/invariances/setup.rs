//! `invariances setup`: installs what a notebook needs: a Python with JupyterLab, evcxr_jupyter,
//! and the registered kernel. Everything goes into the project's cache. Parts that are present
//! and have the right version are used as they are.

use crate::environment::{Environment, blake3_hex};
use crate::kernel::{self, EVCXR};
use invariances::files::{cache_dir, write_atomic};
use invariances::{Error, Result};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

pub use invariances_core::duration;

/// The name of the kernelspec in Jupyter's list.
pub const KERNEL: &str = "invariances";
/// The crates of evcxr_jupyter that are compiled with optimisation: they infer the types of variables
/// in every cell, read the crates' sources when a kernel starts, or allocate memory.
const EVCXR_OPTIMISED: [&str; 56] = [
    "boxcar",
    "cargo_metadata",
    "countme",
    "crossbeam-channel",
    "crossbeam-deque",
    "crossbeam-epoch",
    "crossbeam-queue",
    "crossbeam-utils",
    "dashmap",
    "drop_bomb",
    "evcxr",
    "hashbrown",
    "indexmap",
    "itertools",
    "la-arena",
    "libmimalloc-sys",
    "memchr",
    "mimalloc",
    "parking_lot",
    "parking_lot_core",
    "ra-ap-rustc_hashes",
    "ra-ap-rustc_index",
    "ra-ap-rustc_lexer",
    "ra-ap-rustc_next_trait_solver",
    "ra-ap-rustc_type_ir",
    "ra_ap_base_db",
    "ra_ap_cfg",
    "ra_ap_edition",
    "ra_ap_hir",
    "ra_ap_hir_def",
    "ra_ap_hir_expand",
    "ra_ap_hir_ty",
    "ra_ap_intern",
    "ra_ap_mbe",
    "ra_ap_parser",
    "ra_ap_paths",
    "ra_ap_project_model",
    "ra_ap_span",
    "ra_ap_stdx",
    "ra_ap_syntax",
    "ra_ap_syntax-bridge",
    "ra_ap_tt",
    "ra_ap_vfs",
    "ra_ap_vfs-notify",
    "rowan",
    "rustc-hash",
    "salsa",
    "serde",
    "serde_core",
    "serde_json",
    "smallvec",
    "smol_str",
    "text-size",
    "thin-vec",
    "triomphe",
    "unicode-ident",
];

/// The file that is written last into a virtual environment: without it, the environment is
/// incomplete.
const STAMP: &str = "invariances-complete.txt";

#[derive(clap::Args)]
pub struct Arguments {
    /// Download nothing; fail where something is missing
    #[arg(long)]
    offline: bool,
}

pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let began = Instant::now();
    let ready = ready(arguments.offline)?;
    println!("Python   {}", ready.python.display());
    println!("evcxr    {}", ready.evcxr.display());
    println!("kernel   {}", ready.kernels.join(KERNEL).display());
    println!("All there ({}).", duration(began.elapsed()));
    Ok(ExitCode::SUCCESS)
}

/// Everything that is needed to execute a notebook.
pub struct Ready {
    pub project: PathBuf,
    pub cache: PathBuf,
    /// A Python with JupyterLab and nbclient.
    pub python: PathBuf,
    pub evcxr: PathBuf,
    /// Jupyter's folder `kernels`, with the kernelspec of this clone.
    pub kernels: PathBuf,
}

impl Ready {
    /// Returns a command that runs Python such that Jupyter finds this clone's kernel and writes
    /// its files into the cache.
    pub fn python(&self) -> Command {
        let mut command = Command::new(&self.python);
        // The user's search path could contain other versions than the pinned ones.
        for name in ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"] {
            command.env_remove(name);
        }
        let home = self.cache.join("jupyter");
        let ours = self.kernels.parent().unwrap_or(&self.kernels);
        let theirs = std::env::var_os("JUPYTER_PATH").unwrap_or_default();
        let path = std::iter::once(ours.to_owned()).chain(std::env::split_paths(&theirs));
        command
            .env("PYTHONNOUSERSITE", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env(
                "JUPYTER_PATH",
                std::env::join_paths(path).unwrap_or_else(|_| ours.into()),
            )
            .env("JUPYTER_CONFIG_DIR", home.join("config"))
            .env("JUPYTER_DATA_DIR", home.join("data"))
            .env("JUPYTER_RUNTIME_DIR", home.join("runtime"))
            .env("IPYTHONDIR", home.join("ipython"));
        command
    }
}

/// Installs what is missing and prints what it does. If everything is present, this takes
/// milliseconds.
///
/// # Errors
/// If something is missing and cannot be installed; the message says what the user can do.
pub fn ready(offline: bool) -> Result<Ready> {
    let project = project()?;
    let cache = cache_dir()?;
    std::fs::create_dir_all(&cache).map_err(|e| {
        Error::io(&cache, e)
            .with_hint("the project's cache; set INVARIANCES_CACHE to a folder that can be written")
    })?;
    let environment = Environment::read(&project.join("requirements.txt"))?;
    // Search for Python first: without it, nothing else is installed.
    let found = find_python(&cache, &environment)?;
    // Two commands must not install into the same folder at the same time.
    let lock = cache.join("setup.lock");
    let lock = std::fs::File::create(&lock).map_err(|e| {
        Error::io(&lock, e)
            .with_hint("the project's cache; set INVARIANCES_CACHE to a folder that can be written")
    })?;
    if lock.try_lock().is_err() {
        println!("Waiting for another set-up in {} …", cache.display());
        lock.lock().map_err(|e| Error::io(&cache, e))?;
    }
    let python = match found {
        Python::Ready(python) => python,
        Python::Base { program, .. } => {
            // Another command may have created the environment while this one waited.
            match find_python(&cache, &environment)? {
                Python::Ready(python) => python,
                Python::Base { .. } => make_venv(&program, &cache, &environment, offline)?,
            }
        }
    };
    let evcxr = match kernel::evcxr() {
        Ok(evcxr) => evcxr,
        Err(_) => {
            install_evcxr(&cache, offline)?;
            kernel::evcxr()?
        }
    };
    standard_sources(offline);
    let kernels = kernels(&cache, &project);
    kernel::write_kernelspec(&kernels)?;
    // IPython expects its folder to exist.
    let ipython = cache.join("jupyter/ipython");
    std::fs::create_dir_all(&ipython).map_err(|e| Error::io(&ipython, e))?;
    // For users who start Jupyter from this environment by hand. An environment of the user is
    // not changed.
    if python.starts_with(&cache)
        && let Some(prefix) = python.parent().and_then(Path::parent)
    {
        kernel::write_kernelspec(&prefix.join("share/jupyter/kernels"))?;
    }
    Ok(Ready {
        project,
        cache,
        python,
        evcxr,
        kernels,
    })
}

/// Returns Jupyter's folder `kernels` for the clone in `project`. Several clones share the cache,
/// and each one has its own folder in it.
pub fn kernels(cache: &Path, project: &Path) -> PathBuf {
    let clone = blake3_hex(project.as_os_str().as_encoded_bytes());
    cache.join("clones").join(clone).join("jupyter/kernels")
}

/// Returns the project's folder: the folder in which this command was built, otherwise the
/// nearest project folder above the current one.
///
/// # Errors
/// [`Error::Invalid`] if neither holds the project.
pub fn project() -> Result<PathBuf> {
    let is_project = |dir: &Path| {
        std::fs::read_to_string(dir.join("Cargo.toml"))
            .ok()
            .and_then(|text| text.parse::<toml::Table>().ok())
            .and_then(|table| Some(table.get("package")?.get("name")?.as_str()? == "invariances"))
            .unwrap_or(false)
    };
    let built = Path::new(env!("CARGO_MANIFEST_DIR"));
    if is_project(built) {
        return Ok(built.into());
    }
    let here = std::env::current_dir().map_err(|e| Error::io(".", e))?;
    here.ancestors().find(|dir| is_project(dir)).map(Path::to_owned).ok_or_else(|| {
        Error::invalid(format!(
            "the project's folder is gone: it was {} when this command was built; change to the folder where it is now and build again: cargo build --release",
            built.display()
        ))
    })
}

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
pub fn venv(cache: &Path, environment: &Environment) -> PathBuf {
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

fn offline_error(what: &str) -> Error {
    Error::invalid(format!(
        "{what} is missing, and --offline forbids downloading it; run `cargo run --release -- setup` once with a connection"
    ))
}

fn make_venv(
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

/// Returns cargo options that set how evcxr_jupyter is compiled. Most of its code is
/// rust-analyzer, and most of that (assists, diagnostics, renaming) never runs in a notebook.
/// Optimising it would cost a new user minutes. One codegen unit for what is optimised replaces
/// thin-local LTO, which cannot be set for single crates.
fn evcxr_profile() -> Vec<String> {
    let release = ["opt-level=0", "lto=\"off\""].map(|s| format!("profile.release.{s}"));
    let optimised = EVCXR_OPTIMISED.iter().flat_map(|c| {
        ["opt-level=3", "codegen-units=1"].map(|s| format!("profile.release.package.{c}.{s}"))
    });
    release
        .into_iter()
        .chain(optimised)
        .flat_map(|setting| ["--config".into(), setting])
        .collect()
}

fn install_evcxr(cache: &Path, offline: bool) -> Result<()> {
    if offline {
        return Err(offline_error(&format!("evcxr_jupyter {EVCXR}")));
    }
    let began = Instant::now();
    let root = cache.join(format!("evcxr-{EVCXR}"));
    let target = cache.join("evcxr-build");
    println!(
        "evcxr_jupyter {EVCXR}: built from source into {}, once for all projects; this takes some minutes …",
        root.display()
    );
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut install = Command::new(&cargo);
    install
        .args([
            "install",
            "evcxr_jupyter",
            "--version",
            EVCXR,
            "--locked",
            "--root",
        ])
        .arg(&root)
        .args(evcxr_profile())
        // The folder is outside the project, so the project's compiler flags do not apply.
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null());
    // Variables that cargo or the user set for this project would change the build of
    // evcxr_jupyter.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if matches!(
            &*text,
            "RUSTFLAGS" | "RUSTDOCFLAGS" | "CARGO_ENCODED_RUSTFLAGS"
        ) || [
            "CARGO_BUILD_",
            "CARGO_PKG_",
            "CARGO_PROFILE_",
            "CARGO_TARGET_",
            "CARGO_BIN_",
        ]
        .iter()
        .any(|p| text.starts_with(p))
        {
            install.env_remove(&name);
        }
    }
    install.env("CARGO_TARGET_DIR", &target);
    let status = install.status().map_err(|e| {
        Error::io(PathBuf::from(&cargo), e)
            .with_hint("cargo builds evcxr_jupyter; install Rust: https://rustup.rs")
    })?;
    if !status.success() {
        // The compiled files are kept, so that the next attempt continues from there.
        return Err(Error::invalid(format!(
            "building evcxr_jupyter {EVCXR} failed (its messages are above); try again, or install it yourself: cargo install evcxr_jupyter --version {EVCXR} --locked --root {}",
            root.display()
        )));
    }
    let _ = std::fs::remove_dir_all(&target);
    println!(
        "evcxr_jupyter {EVCXR}: ready after {}.",
        duration(began.elapsed())
    );
    Ok(())
}

/// Whether the sources of the standard library are installed. The kernel needs them to infer the
/// types of variables.
pub fn has_standard_sources() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    sysroot.is_ok_and(|o| {
        Path::new(String::from_utf8_lossy(&o.stdout).trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .is_file()
    })
}

/// Installs these sources with rustup. They are the only part outside the cache, because they
/// belong to the Rust toolchain. Without them the kernel works, but variables that later cells
/// use need explicit types.
fn standard_sources(offline: bool) {
    if has_standard_sources() {
        return;
    }
    let add = "rustup component add rust-src";
    if offline {
        println!(
            "rust-src is missing: variables in cells need their types written down. Once online: {add}"
        );
        return;
    }
    println!("rust-src: the standard library's sources, added to the Rust toolchain …");
    let added = Command::new("rustup")
        .args(["component", "add", "rust-src"])
        .stdin(Stdio::null())
        .status();
    if !added.is_ok_and(|s| s.success()) {
        println!(
            "rust-src could not be had: variables in cells need their types written down, until `{add}` works."
        );
    }
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
