//! Sets the run-time search paths (rpath) of the programs, so that they find their libraries
//! wherever they are started from. Jupyter starts the kernel without cargo, which would otherwise
//! set these paths.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The dynamic standard library of the toolchain.
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let target = std::env::var("TARGET").unwrap_or_default();
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output();
    if let Ok(sysroot) = sysroot {
        let sysroot = String::from_utf8_lossy(&sysroot.stdout);
        let lib = format!("{}/lib/rustlib/{target}/lib", sysroot.trim());
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{lib}");
    }
    // The library of this crate: where cargo builds it, and where a kernel keeps its link to it.
    let here = match std::env::var("CARGO_CFG_TARGET_VENDOR").as_deref() {
        Ok("apple") => "@loader_path",
        _ => "$ORIGIN",
    };
    for folder in ["deps", "../lib"] {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{here}/{folder}");
    }
}
