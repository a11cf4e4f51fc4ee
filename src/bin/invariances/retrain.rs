//! `invariances retrain`: trains the networks that ship with the project again.

use invariances::notebook::chosen_device;
use invariances::ops::Placement;
use invariances::recipes::shipped;
use invariances::train::Store;
use invariances::{Error, Result};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// The networks to train (all where none is named), e.g. digits-judge, faces-autoencoder
    names: Vec<String>,
}

/// Trains shipped networks in full and writes them to the folder of the shipped weights. They are
/// trained on the device that `INVARIANCES_DEVICE` names.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let known = shipped();
    let mut chosen = Vec::new();
    for name in &arguments.names {
        let recipe = known.iter().find(|r| &r.name() == name).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|r| r.name()).collect();
            Error::invalid(format!(
                "no network {name:?}; there are {}",
                names.join(", ")
            ))
        })?;
        chosen.push(recipe);
    }
    if chosen.is_empty() {
        chosen = known.iter().collect();
    }
    let store = Store::cache()?;
    let placement = Placement {
        device: chosen_device()?,
        ..store.placement()
    };
    let store = store.on(&placement);
    for recipe in chosen {
        println!("{}", recipe.name());
        for (figure, value) in &recipe.retrain(&store)?.figures {
            println!("  {figure}: {value:.4}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
