//! `invariances retrain`: trains the networks that ship with the project again.

use invariances::notebook::chosen_device;
use invariances::ops::Placement;
use invariances::recipes::{Recipe, Trial, shipped};
use invariances::train::Store;
use invariances::{Error, Result};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// The networks to train (all where none is named), e.g. digits-judge, faces-autoencoder
    names: Vec<String>,

    /// Change a setting of the recipe, e.g. training.steps=20000 or edges_weight=0 (repeatable).
    /// Needs --as
    #[arg(long = "set", value_name = "NAME=VALUE", requires = "other_name")]
    set: Vec<String>,

    /// Start from the weights of a network that ships, or from `random` ones, instead of the
    /// recipe's own. Needs --as
    #[arg(long = "from", value_name = "NETWORK", requires = "other_name")]
    start: Option<String>,

    /// Write the weights under another name, so that those that ship stay as they are
    #[arg(long = "as", value_name = "NAME", id = "other_name")]
    other_name: Option<String>,
}

/// Trains shipped networks in full and writes them to the folder of the shipped weights. They are
/// trained on the device that `INVARIANCES_DEVICE` names.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let mut chosen = Vec::new();
    for name in &arguments.names {
        chosen.push(named(name)?);
    }
    if chosen.is_empty() {
        chosen = shipped();
    }
    if let Some(other_name) = &arguments.other_name {
        let [name] = &arguments.names[..] else {
            return Err(Error::invalid(format!(
                "--as is for one network, found {}: name the network to train",
                arguments.names.len()
            )));
        };
        let changes = arguments.set.iter().map(|set| {
            let (setting, value) = set.split_once('=').ok_or_else(|| {
                Error::invalid(format!("expected --set NAME=VALUE, found {set:?}"))
            })?;
            Ok((setting.to_string(), value.to_string()))
        });
        let changes: Vec<_> = changes.collect::<Result<_>>()?;
        let mut trial = Trial::new(named(name)?, other_name, &changes)?;
        if let Some(start) = &arguments.start {
            trial = match start.as_str() {
                "random" => trial.from_random(),
                start => trial.starting_from(named(start)?)?,
            };
        }
        chosen = vec![Box::new(trial)];
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

/// Returns the recipe of a network that ships.
fn named(name: &str) -> Result<Box<dyn Recipe>> {
    let found = shipped().into_iter().find(|recipe| recipe.name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = shipped().iter().map(|recipe| recipe.name()).collect();
        Error::invalid(format!(
            "no network {name:?}; there are {}",
            names.join(", ")
        ))
    })
}
