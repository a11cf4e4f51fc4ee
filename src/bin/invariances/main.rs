//! The `invariances` command: parses the arguments and runs the subcommand.

#![forbid(unsafe_code)]

mod doctor;
mod environment;
mod execute;
mod gallery;
mod interrupt;
mod kernel;
mod lab;
mod page;
mod python;
mod retrain;
mod run;
mod setup;
mod study;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Ask a vision network what it has learned, and what it has learned to ignore.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set up what is missing, execute notebooks, write figures, claims and an index page
    Run(run::Arguments),
    /// Measure a notebook's claims again with other seeds, resumable
    Study(study::Arguments),
    /// Open JupyterLab on the notebooks
    Lab(lab::Arguments),
    /// Show what is present, missing or outdated, and how to fix it
    Doctor(doctor::Arguments),
    /// Set up what notebooks need, without running one
    Setup(setup::Arguments),
    /// Train the networks that ship with the project, again and in full
    Retrain(retrain::Arguments),
    /// Print how Jupyter starts the kernel "Rust (invariances)"
    #[command(hide = true)]
    Kernel,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(a) => run::main(a),
        Command::Study(a) => study::main(a),
        Command::Lab(a) => lab::main(a),
        Command::Doctor(a) => doctor::main(a),
        Command::Setup(a) => setup::main(a),
        Command::Retrain(a) => retrain::main(a),
        Command::Kernel => kernel::main(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("invariances: {error}");
            ExitCode::FAILURE
        }
    }
}
