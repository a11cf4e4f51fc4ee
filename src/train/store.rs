//! [`Store`], a folder of trained networks: a folder per network and configuration ([`Slot`]), with
//! the weights, the log and a card that describes how the weights were trained
//! ([`Card`](super::Card)).

use super::Slot;
use crate::ops::{Params, Placement};
use crate::{Error, Result, revision};
use candle_core::{DType, Device};
use invariances_core::files::cache_dir;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// or loaded with it. Each network is identified by its name and its configuration.
///
/// The files do not depend on the device: a network that was trained on one device can be loaded
/// on another.
///
/// A network that is already trained is loaded. To train it again, use a store
/// [`without_reuse`](Store::without_reuse), or set the variable `INVARIANCES_RETRAIN` to 1, which
/// the flag `--retrain` of `invariances run` and `study` does.
///
/// ```no_run
/// use invariances::{ops::Params, train::{Store, Step, TrainConfig, Trainer}};
/// let training = TrainConfig { steps: 100, ..Default::default() };
/// let slot = Store::cache()?.slot("line", &("y = 2x", 64, &training))?;
/// let params = Params::new(0);
/// let w = params.root().get(1, "w", invariances::ops::Init::FanIn)?;
/// // The first run trains; later runs load the weights that the first one stored.
/// let trained = Trainer::new(training).fit_in(&slot, &params, |_, _| {
///     Ok(Step::new(w.affine(1.0, -2.0)?.sqr()?.sum_all()?))
/// })?;
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    placement: Placement,
    anew: Option<Anew>,
}

/// The folders of the slots that were trained without reuse. Each slot is trained once; later
/// calls load what this training stored.
pub(super) type Anew = Arc<Mutex<BTreeSet<PathBuf>>>;

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.placement, &other.placement);
        self.folder == other.folder
            && a.dtype == b.dtype
            && a.device.same_device(&b.device)
            && self.anew.is_some() == other.anew.is_some()
    }
}

impl Store {
    /// Opens a folder of trained networks, which need not exist yet. Its networks are f32 on the
    /// CPU; [`Store::on`] chooses another device.
    pub fn open(folder: impl AsRef<Path>) -> Self {
        let folder = folder.as_ref().to_path_buf();
        let placement = Placement {
            device: Device::Cpu,
            dtype: DType::F32,
        };
        Self {
            folder,
            placement,
            anew: None,
        }
    }

    /// Returns the same folder with another device and number type: networks that are trained or
    /// loaded with it are created there.
    ///
    /// ```
    /// use invariances::{candle_core::{DType, Device}, ops::Placement, train::Store};
    /// let exact = Placement { device: Device::Cpu, dtype: DType::F64 };
    /// let store = Store::open("trained").on(&exact);
    /// assert_eq!(store.params(0).dtype(), DType::F64);
    /// ```
    pub fn on(&self, placement: &Placement) -> Self {
        Self {
            placement: placement.clone(),
            ..self.clone()
        }
    }

    /// Returns the same store without reuse: each of its networks is trained from the start, once,
    /// even if the folder contains its weights. The new weights replace them. Later calls with
    /// this store and its clones load the new weights.
    ///
    /// Shipped weights are not trained again; `invariances retrain` does that.
    ///
    /// ```
    /// use invariances::ops::{Init, Params};
    /// use invariances::train::{Step, Store, TrainConfig, Trainer};
    /// # let cache = std::env::temp_dir().join("invariances-doc-without-reuse");
    /// let params = Params::new(0);
    /// let w = params.root().get(1, "w", Init::Const(1.0))?;
    /// let config = TrainConfig { steps: 3, ..Default::default() };
    /// let train = |store: &Store| {
    ///     let slot = store.slot("example", &config)?;
    ///     Trainer::new(config.clone()).fit_in(&slot, &params, |_, _| Ok(Step::new(w.sqr()?.sum_all()?)))
    /// };
    /// let store = Store::open(&cache);
    /// train(&store)?;
    /// assert!(train(&store)?.reused);
    /// let store = store.without_reuse();
    /// assert!(!train(&store)?.reused);
    /// assert!(train(&store)?.reused);
    /// # std::fs::remove_dir_all(cache).ok();
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn without_reuse(&self) -> Self {
        Self {
            anew: Some(Anew::default()),
            ..self.clone()
        }
    }

    /// Same as [`Store::without_reuse`], but all stores from this function share what they have
    /// trained. So each network is trained once per process.
    pub(crate) fn without_reuse_in_process(&self) -> Self {
        static TRAINED: OnceLock<Anew> = OnceLock::new();
        Self {
            anew: Some(TRAINED.get_or_init(Anew::default).clone()),
            ..self.clone()
        }
    }

    /// Returns the device and the number type of the networks of this store.
    pub fn placement(&self) -> Placement {
        self.placement.clone()
    }

    /// Returns an empty set of parameters on the store's device and in its number type, with
    /// initial values from `seed`.
    pub fn params(&self, seed: u64) -> Params {
        Params::with(seed, self.placement.dtype, &self.placement.device)
    }

    /// Opens `trained/` in the project's cache folder ([`cache_dir`]), as [`Store::open`] does. If
    /// the variable `INVARIANCES_RETRAIN` is 1, each network is trained again once per process
    /// ([`Store::without_reuse`]).
    ///
    /// # Errors
    /// As [`cache_dir`]; [`Error::Invalid`] for another value of the variable than 0 or 1.
    pub fn cache() -> Result<Self> {
        let store = Self::open(cache_dir()?.join("trained"));
        Ok(match retrains()? {
            true => store.without_reuse_in_process(),
            false => store,
        })
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the slot of the network `name` with this configuration. The configuration must
    /// contain everything that determines the weights: the settings of the network and of the
    /// training, the data, the seed. Another configuration gives another slot, and so does another
    /// revision of the code that trains ([`revision::code`]). A number type other than f32 gives
    /// another slot; another device does not.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be a file name, or a configuration that cannot
    /// be written as JSON.
    pub fn slot(&self, name: &str, configuration: &impl Serialize) -> Result<Slot> {
        self.slot_of(name, configuration, &revision::code())
    }

    fn slot_of(&self, name: &str, configuration: &impl Serialize, code: &str) -> Result<Slot> {
        check_name(name)?;
        let configuration = serde_json::to_value(configuration).map_err(|e| {
            Error::invalid(format!(
                "the configuration of {name} cannot be written as JSON: {e}"
            ))
        })?;
        let mut hash = blake3::Hasher::new();
        for part in [name, &canonical(&configuration), code] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        if self.placement.dtype != DType::F32 {
            hash.update(self.placement.dtype.as_str().as_bytes());
        }
        let key = hash.finalize().to_hex();
        Ok(Slot {
            name: name.into(),
            configuration,
            folder: self.folder.join(format!("{name}-{}", &key[..16])),
            anew: self.anew.clone(),
        })
    }
}

/// Whether the variable `INVARIANCES_RETRAIN` requires that networks are trained again.
///
/// # Errors
/// [`Error::Invalid`] for another value than 0 or 1.
pub(crate) fn retrains() -> Result<bool> {
    let value = std::env::var_os("INVARIANCES_RETRAIN").unwrap_or_default();
    match value.to_str().map(str::trim) {
        Some("" | "0" | "false" | "no") => Ok(false),
        Some("1" | "true" | "yes") => Ok(true),
        _ => Err(Error::invalid(format!(
            "INVARIANCES_RETRAIN: expected 0 or 1, found “{}”",
            value.display()
        ))),
    }
}

pub(super) fn check_name(name: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(is_allowed) {
        return Err(Error::invalid(format!(
            "expected a network name of letters, digits, '-', '_' and '.' that does not start with '.', found {name:?}: the name becomes part of file names"
        )));
    }
    Ok(())
}

/// Returns JSON with sorted keys and without spaces, independent of the order in `value`.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let parts: Vec<_> = sorted
                .iter()
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), canonical(v)))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(list) => {
            let parts: Vec<_> = list.iter().map(canonical).collect();
            format!("[{}]", parts.join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Init;
    use crate::train::{Step, TrainConfig, Trainer};

    /// The networks of a store have its device and number type. The folder of an f32 network
    /// does not depend on how the store was made; another number type has a folder of its own.
    #[test]
    fn a_store_has_a_device_and_a_number_type() -> Result<()> {
        let store = Store::open("trained");
        assert_eq!(store.params(3).dtype(), DType::F32);
        let exact = Placement {
            device: Device::Cpu,
            dtype: DType::F64,
        };
        let exact = store.on(&exact);
        assert_eq!(exact.params(3).dtype(), DType::F64);
        assert_eq!(exact.placement().dtype, DType::F64);
        assert!(exact != store && exact.on(&store.placement()) == store);
        let slot = |store: &Store| store.slot("net", &1);
        assert_eq!(slot(&exact.on(&store.placement()))?, slot(&store)?);
        assert_ne!(slot(&exact)?, slot(&store)?);
        Ok(())
    }

    #[test]
    fn weights_of_another_revision_of_the_code_are_not_reused() -> Result<()> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
        let store = Store::open(folder.path());
        let config = TrainConfig {
            steps: 2,
            ..Default::default()
        };
        let params = Params::new(0);
        let w = params.root().get(1, "w", Init::Const(1.0))?;
        let current = store.slot("line", &config)?;
        Trainer::new(config.clone())
            .fit_in(&current, &params, |_, _| Ok(Step::new(w.sqr()?.sum_all()?)))?;
        let card = current.load(&params)?.expect("trained");
        assert_eq!(card.code, revision::code());
        let same = store.slot_of("line", &config, &card.code)?;
        assert!(same.load(&params)?.is_some());
        assert_eq!(card.dependencies, revision::dependencies());
        // A raised revision of any part that trains gives another slot. A raised revision of a
        // part that only measures does not.
        for (part, is_same) in [("flow", false), ("dependencies", false), ("metric", true)] {
            let code = revision::code_of(&revision::raised(part));
            let other = store.slot_of("line", &config, &code)?;
            assert_eq!(other.load(&params)?.is_some(), is_same, "{part}");
        }
        Ok(())
    }
}
