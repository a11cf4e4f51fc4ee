//! `invariances lab`: opens JupyterLab on the notebooks, with the project's kernel.

use crate::setup::{self, KERNEL};
use invariances::{Error, Result};
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// Passed on to `jupyter lab`, e.g. --no-browser --port 8899
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    jupyter: Vec<String>,
}

pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let ready = setup::ready(std::env::var("INVARIANCES_OFFLINE").is_ok_and(|v| v == "1"))?;
    let notebooks = ready.project.join("notebooks");
    let mut command = ready.python();
    command
        .args(["-m", "jupyterlab"])
        .arg(format!("--MultiKernelManager.default_kernel_name={KERNEL}"));
    let placed = [
        "--ServerApp.root_dir",
        "--notebook-dir",
        "--ServerApp.notebook_dir",
        "--ServerApp.preferred_dir",
    ];
    if !arguments
        .jupyter
        .iter()
        .any(|a| placed.iter().any(|p| a.starts_with(p)))
    {
        command.arg(format!("--ServerApp.root_dir={}", notebooks.display()));
    }
    // Jupyter replaces this process, so it gets the terminal and Ctrl-C.
    let error = command
        .args(&arguments.jupyter)
        .current_dir(&notebooks)
        .exec();
    Err(Error::io(&ready.python, error))
}
