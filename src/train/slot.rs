//! [`Slot`], the place of one trained network in a store, and the names of its files.

use super::Card;
use super::checkpoint::{BEFORE, NEWEST, NEXT};
use super::store::Anew;
use crate::ops::Params;
use crate::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

pub(super) const WEIGHTS: &str = "weights.safetensors";
pub(super) const CARD: &str = "card.json";
pub(super) const LOG: &str = "log.parquet";

/// Returns the file name of the weights after a step.
pub(super) fn snapshot_name(step: u64) -> String {
    format!("after-{step:08}.safetensors")
}

/// Whether a file name is one of [`snapshot_name`].
pub(super) fn is_snapshot(name: &str) -> bool {
    name.starts_with("after-") && name.ends_with(".safetensors")
}

/// The place of one trained network in a [`Store`](super::Store): a name, and the
/// configuration that distinguishes it from other networks of this name.
#[derive(Clone, Debug)]
pub struct Slot {
    pub(super) name: String,
    pub(super) configuration: Value,
    pub(super) folder: PathBuf,
    pub(super) anew: Option<Anew>,
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.folder == other.folder
            && self.name == other.name
            && self.configuration == other.configuration
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
        let path = self.file(&snapshot_name(step));
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
        names.extend(entries.filter(|name| is_snapshot(name)));
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
