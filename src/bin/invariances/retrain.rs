//! `invariances retrain`: trains the networks that ship with the project again.

use invariances::notebook::chosen_device;
use invariances::ops::Placement;
use invariances::train::{Card, DigitsNetwork, DigitsNetworks, Store, WorldNetwork};
use invariances::{Error, Result};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// The networks to train (all where none is named), e.g. digits-judge, faces-autoencoder
    names: Vec<String>,
}

/// One of the networks that ship with the project.
#[derive(Clone, Copy)]
enum Shipped {
    Digits(DigitsNetwork),
    World(WorldNetwork),
}

impl Shipped {
    fn name(self) -> String {
        match self {
            Self::Digits(network) => network.name(),
            Self::World(network) => network.name(),
        }
    }

    fn retrain(self, store: &Store) -> Result<Card> {
        match self {
            Self::Digits(network) => DigitsNetworks::retrain(network, store),
            Self::World(network) => network.retrain(store),
        }
    }
}

/// Trains shipped networks in full and writes them to the folder of the shipped weights. They are
/// trained on the device that `INVARIANCES_DEVICE` names.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let digits = DigitsNetwork::all().into_iter().map(Shipped::Digits);
    let worlds = WorldNetwork::all().into_iter().map(Shipped::World);
    let known: Vec<Shipped> = digits.chain(worlds).collect();
    let mut chosen = Vec::new();
    for name in &arguments.names {
        let network = known.iter().find(|n| &n.name() == name).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|n| n.name()).collect();
            Error::invalid(format!(
                "no network {name:?}; there are {}",
                names.join(", ")
            ))
        })?;
        chosen.push(*network);
    }
    let store = Store::cache()?;
    let placement = Placement {
        device: chosen_device()?,
        ..store.placement()
    };
    let store = store.on(&placement);
    for network in if chosen.is_empty() { known } else { chosen } {
        println!("{}", network.name());
        for (figure, value) in &network.retrain(&store)?.figures {
            println!("  {figure}: {value:.4}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
