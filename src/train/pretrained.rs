//! Weights that ship with the project: `data/pretrained/NAME.safetensors` (f16), each with a card
//! `NAME.json`.

use super::Card;
use super::card::differences;
use super::store::check_name;
use crate::ops::Params;
use crate::{Error, Result};
use candle_core::DType;
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

/// Returns the folder of the shipped weights: `pretrained/` in the folder that the variable
/// `INVARIANCES_DATA` is set to, or in the project's `data/` if the variable is not set.
pub fn folder() -> PathBuf {
    match std::env::var_os("INVARIANCES_DATA").filter(|v| !v.is_empty()) {
        Some(data) => PathBuf::from(data).join("pretrained"),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/pretrained"),
    }
}

/// Returns the error for a network whose weights are not among the shipped ones.
pub(crate) fn missing(name: &str) -> Error {
    Error::content(
        folder(),
        format!(
            "no weights of {name} for the configuration of this version: train them with `cargo run --release -- retrain {name}`"
        ),
    )
}

/// Loads the weights of `name` into `params`. Returns `None` if there are no weights, or if they
/// were trained with another configuration.
///
/// # Errors
/// [`Error::Invalid`] for a name that cannot be a file name; [`Error::Content`] if the weights do
/// not match the card, or if they belong to another network.
pub fn load(name: &str, configuration: &Value, params: &Params) -> Result<Option<Card>> {
    check_name(name)?;
    let card = folder().join(format!("{name}.json"));
    if !card.is_file() {
        return Ok(None);
    }
    let card = Card::read(&card)?;
    if !differences(&card.configuration, configuration).is_empty() {
        return Ok(None);
    }
    let path = folder().join(format!("{name}.safetensors"));
    let tensors = card.read_weights(&path)?;
    params
        .set_all(&tensors)
        .map_err(|e| Error::content(&path, e.to_string()))?;
    Ok(Some(card))
}

/// Writes the weights in f16 and their card, which gets the hash of the weights file.
pub fn save(name: &str, card: &Card, params: &Params) -> Result<Card> {
    check_name(name)?;
    let path = folder().join(format!("{name}.safetensors"));
    params.save_as(&path, DType::F16, &HashMap::new())?;
    let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let card = Card {
        name: name.into(),
        weights: blake3::hash(&bytes).to_hex().to_string(),
        ..card.clone()
    };
    card.write(&folder().join(format!("{name}.json")))?;
    Ok(card)
}
