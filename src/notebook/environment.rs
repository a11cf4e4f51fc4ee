//! What a notebook reads from its surroundings: environment variables, the project's folder and the
//! device.

use super::lab::check_name;
use crate::ops::open_device;
use crate::{Error, Result};
use candle_core::Device;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Parses `name=value;name=value`.
pub(super) fn parse_settings(text: &str) -> Result<BTreeMap<String, String>> {
    let mut settings = BTreeMap::new();
    for part in text.split(';').filter(|p| !p.trim().is_empty()) {
        let (name, value) = part.split_once('=').ok_or_else(|| {
            Error::invalid(format!(
                "INVARIANCES_SET: expected name=value pairs separated by `;`, found “{part}”"
            ))
        })?;
        check_name("a setting", name.trim())?;
        settings.insert(name.trim().into(), value.trim().into());
    }
    Ok(settings)
}

/// Reads an environment variable. One that is empty counts as not set.
pub(super) fn setting(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(text)) => Err(Error::invalid(format!(
            "{name}: expected valid Unicode, found {}",
            text.display()
        ))),
    }
}

/// The folder that contains `notebooks/`, found from the current folder of the kernel.
pub(super) fn project_folder() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(|e| Error::io(".", e))?;
    let inside = here
        .ancestors()
        .find(|f| f.ends_with("notebooks"))
        .and_then(Path::parent);
    Ok(inside.unwrap_or(&here).to_path_buf())
}

/// Opens the device in the variable `INVARIANCES_DEVICE`: `cpu`, `cuda` (the first GPU),
/// `cuda:1`, `metal`. If the variable is not set, it is the first GPU if the crate was built for
/// one (features `cuda`, `metal`) and it can be opened, otherwise the CPU.
///
/// A device is opened once per process: tensors of two openings of one GPU could not be combined.
///
/// # Errors
/// As [`open_device`], with the name of the variable in the message.
pub fn chosen_device() -> Result<Device> {
    device_or_default(setting("INVARIANCES_DEVICE")?.as_deref())
}

fn device_or_default(name: Option<&str>) -> Result<Device> {
    static OPENED: Mutex<BTreeMap<String, Device>> = Mutex::new(BTreeMap::new());
    let mut opened = OPENED.lock().unwrap_or_else(|p| p.into_inner());
    let mut open = |name: &str| -> Result<Device> {
        let name = name.trim().to_ascii_lowercase();
        let name = match name.strip_suffix(":0") {
            Some(first) => first.to_string(),
            None => name,
        };
        if let Some(device) = opened.get(&name) {
            return Ok(device.clone());
        }
        let device = open_device(&name)?;
        opened.insert(name, device.clone());
        Ok(device)
    };
    if let Some(name) = name {
        return open(name).map_err(|e| {
            let message = format!("INVARIANCES_DEVICE: {e}");
            match e {
                Error::Unknown(_) => Error::unknown(message),
                Error::Unsupported(_) => Error::unsupported(message),
                _ => Error::invalid(message),
            }
        });
    }
    let built_for = [
        ("cuda", cfg!(feature = "cuda")),
        ("metal", cfg!(feature = "metal")),
    ];
    let mut names = built_for.into_iter().filter(|(_, built)| *built);
    let found = names.find_map(|(name, _)| open(name).ok());
    Ok(found.unwrap_or(Device::Cpu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::device_name;

    #[test]
    fn a_device_that_there_is_not_is_refused() -> Result<()> {
        let message = |name: &str| match device_or_default(Some(name)) {
            Ok(device) => panic!("{name} was opened as {}", device_name(&device)),
            Err(e) => e.to_string(),
        };
        let text = message("tpu");
        for choice in ["INVARIANCES_DEVICE", "cpu", "cuda", "metal", "tpu"] {
            assert!(text.contains(choice), "{text}");
        }
        #[cfg(not(feature = "cuda"))]
        assert!(message("cuda").contains("--features cuda"));
        #[cfg(not(feature = "metal"))]
        assert!(message("metal").contains("--features metal"));
        assert_eq!(device_name(&device_or_default(Some(" CPU "))?), "cpu");
        #[cfg(not(any(feature = "cuda", feature = "metal")))]
        assert_eq!(device_name(&device_or_default(None)?), "cpu");
        Ok(())
    }
}
