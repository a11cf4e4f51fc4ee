//! Storage of trained networks: a folder per network and configuration, with the weights, the log
//! and a card that describes how the weights were trained.

use super::TrainConfig;
use super::checkpoint::{BEFORE, NEWEST, NEXT};
use crate::ops::{Params, Placement};
use crate::{Error, Result, revision};
use candle_core::{DType, Device, Tensor};
use invariances_core::files::{cache_dir, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// A folder of trained networks, and the device and number type of the networks that are trained
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
type Anew = Arc<Mutex<BTreeSet<PathBuf>>>;

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (&self.placement, &other.placement);
        self.folder == other.folder
            && a.dtype == b.dtype
            && a.device.same_device(&b.device)
            && self.anew.is_some() == other.anew.is_some()
    }
}

/// The place of one trained network in a [`Store`]: a name, and the configuration that
/// distinguishes it from other networks of this name.
#[derive(Clone, Debug)]
pub struct Slot {
    name: String,
    configuration: Value,
    folder: PathBuf,
    anew: Option<Anew>,
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.folder == other.folder
            && self.name == other.name
            && self.configuration == other.configuration
    }
}

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
    /// The revisions of the code that trained the network ([`revision::code`]).
    pub code: String,
    /// The versions of the crates that decide numbers ([`revision::dependencies`]).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, String>,
    /// The hash of the weights file (BLAKE3, hexadecimal).
    pub weights: String,
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

impl Slot {
    /// Returns the network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the configuration that distinguishes this network from others of its name.
    pub fn configuration(&self) -> &Value {
        &self.configuration
    }

    /// Returns the folder of the network's files: `weights.safetensors`, `card.json`,
    /// `log.parquet`, and checkpoints while it trains.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a training run has finished in this slot.
    pub fn is_trained(&self) -> bool {
        self.file(CARD).is_file() && self.file(WEIGHTS).is_file()
    }

    /// Returns the card of the weights, or `None` if no training run has finished in this slot.
    ///
    /// # Errors
    /// [`Error::Content`] if the card is damaged.
    pub fn card(&self) -> Result<Option<Card>> {
        if !self.is_trained() {
            return Ok(None);
        }
        let card = Card::read(&self.file(CARD)).map_err(|e| self.advise(e))?;
        Ok(Some(card))
    }

    /// Loads the trained weights into `params` and returns their card, or `None` if no training
    /// run has finished in this slot.
    ///
    /// # Errors
    /// [`Error::Content`] if the files are damaged or belong to another network.
    pub fn load(&self, params: &Params) -> Result<Option<Card>> {
        let Some(card) = self.card()? else {
            return Ok(None);
        };
        let tensors = card
            .read_weights(&self.file(WEIGHTS))
            .map_err(|e| self.advise(e))?;
        params.set_all(&tensors).map_err(|e| {
            let advice = "include everything that determines the network in the slot's configuration, or delete the folder";
            Error::content(self.file(WEIGHTS), format!("{e}\n{advice}"))
        })?;
        Ok(Some(card))
    }

    /// Loads the weights as they were after `step`, one of the steps of
    /// [`Trainer::snapshots`](super::Trainer::snapshots).
    ///
    /// ```
    /// use invariances::{ops::{Init, Params}, train::{Step, Store, TrainConfig, Trainer}};
    /// # let cache = std::env::temp_dir().join("invariances-doc-snapshots");
    /// let params = Params::new(0);
    /// let w = params.root().get(1, "w", Init::Const(1.0))?;
    /// let config = TrainConfig { steps: 20, learning_rate: 0.1, ..Default::default() };
    /// let slot = Store::open(&cache).slot("example", &(&config, [0, 10]))?;
    /// Trainer::new(config).snapshots([0, 10]).fit_in(&slot, &params, |_, _| Ok(Step::new(w.sqr()?.sum_all()?)))?;
    /// let end = w.to_vec1::<f32>()?[0];
    /// slot.load_snapshot(0, &params)?;
    /// assert!(w.to_vec1::<f32>()?[0] == 1.0 && end < 0.5);
    /// # std::fs::remove_dir_all(cache).ok();
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Io`] if there is no such snapshot; [`Error::Content`] if it belongs to another
    /// network.
    pub fn load_snapshot(&self, step: u64, params: &Params) -> Result<()> {
        let path = self.file(&super::trainer::snapshot_name(step));
        params.load(&path).map_err(|e| self.advise(e))
    }

    /// Adds to an error about a file of this slot what the user can do.
    pub(super) fn advise(&self, error: Error) -> Error {
        let advice = format!("delete {} to train again", self.folder.display());
        match error {
            Error::Content { path, what } => Error::content(path, format!("{what}; {advice}")),
            other => other.with_hint(advice),
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether the network must be trained even if this slot contains its weights.
    pub(super) fn must_train(&self) -> bool {
        let trained = |anew: &Anew| {
            let folders = anew.lock().unwrap_or_else(|p| p.into_inner());
            folders.contains(&self.folder)
        };
        self.anew.as_ref().is_some_and(|anew| !trained(anew))
    }

    /// Records that the network was trained: [`Slot::must_train`] is false from now on.
    pub(super) fn set_trained(&self) {
        if let Some(anew) = &self.anew {
            let mut folders = anew.lock().unwrap_or_else(|p| p.into_inner());
            folders.insert(self.folder.clone());
        }
    }

    /// Removes the weights, the log, the snapshots and the checkpoints. The caller must hold the
    /// lock of the folder.
    pub(super) fn clear(&self) -> Result<()> {
        // The card is removed first, because a slot without a card counts as not trained.
        let mut names: Vec<String> = [CARD, WEIGHTS, LOG, NEWEST, BEFORE, NEXT]
            .map(String::from)
            .into();
        let entries = std::fs::read_dir(&self.folder).map_err(|e| Error::io(&self.folder, e))?;
        let entries = entries.flatten().map(|entry| entry.file_name());
        let entries = entries.map(|name| name.to_string_lossy().into_owned());
        names.extend(entries.filter(|name| super::trainer::is_snapshot(name)));
        for name in names {
            let path = self.file(&name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&path, e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(super) const WEIGHTS: &str = "weights.safetensors";
pub(super) const CARD: &str = "card.json";
pub(super) const LOG: &str = "log.parquet";

impl Card {
    pub(super) fn read(path: &Path) -> Result<Self> {
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
    use crate::ops::Init;
    use crate::train::{Step, Trainer};

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

    /// A card that was written before cards named a device can still be read.
    #[test]
    fn a_card_without_a_device_is_read() -> Result<()> {
        let card: Card = serde_json::from_str("{\"name\": \"net\", \"machine\": \"linux\"}")
            .map_err(|e| Error::invalid(e.to_string()))?;
        assert_eq!((card.name.as_str(), card.device.as_str()), ("net", ""));
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
