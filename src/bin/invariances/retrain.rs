use invariances::train::{DigitsNetwork, DigitsNetworks, Store};
use invariances::{Error, Result};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Arguments {
    /// The networks to train (all where none is named): digits-classifier, digits-judge, digits-autoencoder
    names: Vec<String>,
}

/// Trains shipped networks in full and writes them to `data/pretrained`.
pub fn main(arguments: Arguments) -> Result<ExitCode> {
    let known = DigitsNetwork::all();
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
    for network in if chosen.is_empty() { known } else { chosen } {
        println!("{}", network.name());
        let card = DigitsNetworks::retrain(network, &store)?;
        for (figure, value) in &card.figures {
            println!("  {figure}: {value:.4}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
