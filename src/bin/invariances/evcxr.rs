//! Builds evcxr_jupyter from source, and adds the sources of the standard library that it reads.

use crate::kernel::EVCXR;
use crate::setup::{duration, offline_error};
use invariances::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The crates of evcxr_jupyter that are compiled with optimisation: they infer the types of
/// variables in every cell, read the crates' sources when a kernel starts, or allocate memory.
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

/// Builds evcxr_jupyter into the cache.
pub fn install_evcxr(cache: &Path, offline: bool) -> Result<()> {
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
pub fn standard_sources(offline: bool) {
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
