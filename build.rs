//! Lets the programs find the dynamic std of their toolchain wherever they are started from: Jupyter starts the
//! kernel without cargo, which otherwise says where it is.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let target = std::env::var("TARGET").unwrap_or_default();
    let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output();
    if let Ok(sysroot) = sysroot {
        let sysroot = String::from_utf8_lossy(&sysroot.stdout);
        let lib = format!("{}/lib/rustlib/{target}/lib", sysroot.trim());
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{lib}");
    }
}
