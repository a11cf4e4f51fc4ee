//! [`Card`], the description of trained weights, as it is stored beside them.

use super::TrainConfig;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_core::files::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Description of trained weights: how they were trained and the measured figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Card {
    /// The network's name.
    pub name: String,
    /// Everything that determines the weights, as JSON: the network, the data, the training.
    pub configuration: Value,
    /// The training data, in words.
    pub data: String,
    /// The training settings.
    pub training: TrainConfig,
    /// Number of training steps.
    pub steps: u64,
    /// Training time in seconds.
    pub seconds: f64,
    /// The date on which the training finished, in UTC.
    pub date: String,
    /// The system it was trained on: operating system, processor architecture, number of threads.
    pub machine: String,
    /// The device it was trained on, as [`open_device`](crate::ops::open_device) takes it. Empty
    /// in cards of versions that trained on the CPU only.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// Measured results, such as the accuracy, by name.
    pub figures: BTreeMap<String, f64>,
    /// The command that trains the network again.
    pub command: String,
    /// The version of this crate that trained the network.
    pub version: String,
    /// The revisions of the code that trained the network
    /// ([`revision::code`](crate::revision::code)).
    pub code: String,
    /// The versions of the crates that decide numbers
    /// ([`revision::dependencies`](crate::revision::dependencies)).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, String>,
    /// The hash of the weights file (BLAKE3, hexadecimal).
    pub weights: String,
}

impl Card {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_slice(&text)
            .map_err(|e| Error::content(path, format!("expected a card of trained weights: {e}")))
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::content(path, format!("cannot be written: {e}")))?;
        text.push('\n');
        write_atomic(path, text.as_bytes())
    }

    /// Reads the tensors of the weights file that this card describes, and checks its hash.
    pub(super) fn read_weights(&self, path: &Path) -> Result<HashMap<String, Tensor>> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let found = blake3::hash(&bytes).to_hex();
        if found.as_str() != self.weights {
            return Err(Error::content(
                path,
                format!(
                    "damaged file: expected the hash {} from its card, found {found}",
                    self.weights
                ),
            ));
        }
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| Error::content(path, format!("not a safetensors file: {e}")))
    }
}

/// Lists the settings in which two configurations differ, as paths. Numbers count as equal if
/// they differ only by the rounding of writing and reading them as text.
pub(super) fn differences(a: &Value, b: &Value) -> Vec<String> {
    fn walk(path: &str, a: &Value, b: &Value, out: &mut Vec<String>) {
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => {
                let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
                for key in keys {
                    let null = Value::Null;
                    let (u, v) = (x.get(key).unwrap_or(&null), y.get(key).unwrap_or(&null));
                    walk(&format!("{path}.{key}"), u, v, out);
                }
            }
            (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
                for (i, (u, v)) in x.iter().zip(y).enumerate() {
                    walk(&format!("{path}.{i}"), u, v, out);
                }
            }
            _ => {
                let close = match (a.as_f64(), b.as_f64()) {
                    (Some(x), Some(y)) => (x - y).abs() <= 1e-12 * x.abs().max(y.abs()),
                    _ => a == b,
                };
                if !close {
                    out.push(format!("{}: {a}, {b}", path.trim_start_matches('.')));
                }
            }
        }
    }
    let mut out = Vec::new();
    walk("", a, b, &mut out);
    out
}

/// Describes this machine in words.
pub(super) fn machine() -> String {
    format!(
        "{} {}, {} threads",
        std::env::consts::OS,
        std::env::consts::ARCH,
        rayon::current_num_threads()
    )
}

/// Returns today's date in UTC as YYYY-MM-DD.
pub(super) fn today() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let days = since.map_or(0, |d| d.as_secs() / 86_400) as i64;
    // Converts days to a Gregorian date: Howard Hinnant, "chrono-compatible low-level date
    // algorithms".
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card that was written before cards named a device can still be read.
    #[test]
    fn a_card_without_a_device_is_read() -> Result<()> {
        let card: Card = serde_json::from_str("{\"name\": \"net\", \"machine\": \"linux\"}")
            .map_err(|e| Error::invalid(e.to_string()))?;
        assert_eq!((card.name.as_str(), card.device.as_str()), ("net", ""));
        Ok(())
    }
}
