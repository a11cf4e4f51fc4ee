//! [`Trainer`]: its settings, and the training of a network in a slot, which is locked, reused,
//! continued and saved here. The steps themselves are in `run.rs`.

use super::card::{differences, machine, today};
use super::checkpoint::{BEFORE, NEWEST, NEXT};
use super::log::{Log, read_frame, write_frame};
use super::progress::span;
use super::run::copies;
use super::slot::{CARD, LOG, WEIGHTS};
use super::{Card, Slot, Step, TrainConfig, Trained};
use crate::ops::{Params, Rng};
use crate::{Error, Result};
use invariances_core::say;
use serde_json::json;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

/// Runs a training: seeds the random numbers of each step, updates the parameters with
/// [`Adam`](super::Adam), logs, prints progress and writes checkpoints.
///
/// The random generator of a step depends only on the seed and the step. So a training that was
/// killed and run again ends with the same parameters, bit for bit, as one that was not
/// interrupted.
///
/// ```
/// use invariances::ops::{Init, Params};
/// use invariances::train::{Step, TrainConfig, Trainer};
/// let params = Params::new(0);
/// let w = params.root().get(1, "w", Init::FanIn)?;
/// let config = TrainConfig { steps: 200, learning_rate: 0.05, ..Default::default() };
/// let trained = Trainer::new(config).fit(&params, |_step, rng| {
///     let x = rng.normal(16, w.device())?;
///     let error = (x.broadcast_mul(&w)? - x.affine(2.0, 0.0)?)?;
///     Ok(Step::new(error.sqr()?.mean_all()?))
/// })?;
/// assert_eq!(trained.steps, 200);
/// assert!((w.to_vec1::<f32>()?[0] - 2.0).abs() < 1e-2);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone)]
pub struct Trainer {
    pub(super) config: TrainConfig,
    pub(super) quiet: bool,
    pub(super) adversary: Option<Params>,
    pub(super) measure: Option<Arc<Measure>>,
    pub(super) snapshots: Vec<u64>,
}

/// A validation measure; lower is better.
pub(super) type Measure = dyn Fn() -> Result<f64> + Send + Sync;

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("config", &self.config)
            .field("quiet", &self.quiet)
            .field("adversary", &self.adversary.is_some())
            .field("validates", &self.measure.is_some())
            .finish()
    }
}

impl Trainer {
    /// Creates a trainer with these settings.
    pub fn new(config: TrainConfig) -> Self {
        Self {
            config,
            quiet: false,
            adversary: None,
            measure: None,
            snapshots: Vec::new(),
        }
    }

    /// Saves the weights after each of these steps, in addition to the final weights; 0 is the
    /// start. [`Slot::load_snapshot`] loads them. This needs a training in a slot, and the slot's
    /// configuration should contain the steps.
    pub fn snapshots(mut self, after: impl IntoIterator<Item = u64>) -> Self {
        self.snapshots = after.into_iter().collect();
        self
    }

    /// Evaluates a measure on held-out data every [`TrainConfig::validate_every`] steps: a loss,
    /// lower is better. Its values are the log's column `validation`, and with
    /// [`TrainConfig::patience`] it stops the training early. It is evaluated with the weights
    /// that the training would end with now: the moving average of the parameters, if there is
    /// one.
    ///
    /// ```
    /// # use invariances::ops::{Init, Params};
    /// # use invariances::train::{Step, TrainConfig, Trainer};
    /// let params = Params::new(0);
    /// let w = params.root().get(1, "w", Init::FanIn)?;
    /// let config = TrainConfig { steps: 5000, learning_rate: 0.05, validate_every: Some(50), patience: Some(3), ..Default::default() };
    /// let held_out = w.clone();
    /// let trained = Trainer::new(config)
    ///     .validate(move || Ok(f64::from(held_out.to_vec1::<f32>()?[0] - 2.0).abs()))
    ///     .fit(&params, |_, _| Ok(Step::new(w.affine(1.0, -2.0)?.sqr()?.sum_all()?)))?;
    /// assert!(trained.steps < 5000);
    /// # Ok::<(), invariances::Error>(())
    /// ```
    pub fn validate(mut self, measure: impl Fn() -> Result<f64> + Send + Sync + 'static) -> Self {
        self.measure = Some(Arc::new(measure));
        self
    }

    /// Trains an adversary together with the network, such as a
    /// [`PatchDiscriminator`](crate::loss::PatchDiscriminator). It has its own optimiser with the
    /// same settings. Each step first updates the network's parameters with the network's loss,
    /// then the adversary's parameters with the loss of [`Step::with_adversary`].
    pub fn adversary(mut self, params: &Params) -> Self {
        self.adversary = Some(params.clone());
        self
    }

    /// Switches off all printed output.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Trains `params` and stores nothing on disk. `step` receives the number of the step,
    /// counted from 1, and the step's random generator.
    ///
    /// # Errors
    /// [`Error::Invalid`] for invalid settings, [`Error::Shape`] if the loss or a reported value
    /// is not a scalar, [`Error::Diverged`] if the loss is not finite, and every error that `step`
    /// returns.
    pub fn fit(
        &self,
        params: &Params,
        step: impl FnMut(u64, &mut Rng) -> Result<Step>,
    ) -> Result<Trained> {
        self.run(None, params, step)
    }

    /// Trains as [`Trainer::fit`] and stores the result in `slot`. If the slot contains a finished
    /// training, its weights are loaded; an interrupted training continues from its last
    /// checkpoint. If another process trains the same network, this call waits for it. In a slot of
    /// a store [`without reuse`](super::Store::without_reuse) the training starts from the
    /// beginning, and its result replaces the stored one.
    ///
    /// # Errors
    /// As [`Trainer::fit`]; also [`Error::Io`] if the slot's folder cannot be written, and
    /// [`Error::Content`] if its files are damaged. After an error the parameters are restored to
    /// their values before the call, so the next attempt gives the same result as a first one.
    pub fn fit_in(
        &self,
        slot: &Slot,
        params: &Params,
        step: impl FnMut(u64, &mut Rng) -> Result<Step>,
    ) -> Result<Trained> {
        self.config.check()?;
        // A finished training is only read, because its folder may be read-only.
        if !slot.must_train()
            && let Some(trained) = self.reuse(slot, params)?
        {
            return Ok(trained);
        }
        let folder = slot.folder();
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::io(folder, e).with_hint(
                "trained networks are stored here; set INVARIANCES_CACHE to use another folder",
            )
        })?;
        let _lock = self.lock(&folder.join("lock"))?;
        remove_temporary(folder);
        if slot.must_train() {
            slot.clear()?;
        } else if let Some(trained) = self.reuse(slot, params)? {
            // Another process finished the training while this one waited for the lock.
            return Ok(trained);
        }
        let all: Vec<&Params> = [params].into_iter().chain(&self.adversary).collect();
        let start: Vec<_> = all.iter().map(|p| copies(p)).collect::<Result<_>>()?;
        let mut trained = match self.run(Some(folder), params, step) {
            Ok(trained) => trained,
            Err(e) => {
                for (params, start) in all.iter().zip(&start) {
                    params.set_all(start)?;
                }
                return Err(e);
            }
        };
        drop(start);
        let saved = self.save(slot, params, &trained);
        if saved.is_ok() {
            slot.set_trained();
        }
        if let Err(e) = saved {
            trained.kept = false;
            trained.summary += " · not saved";
            if !self.quiet {
                say(&format!(
                    "{e}\nthe network is trained, but its weights could not be saved: use it in this process, or free disk space and train again, which continues from the last checkpoint"
                ));
            }
        }
        Ok(trained)
    }

    /// Locks a slot. The operating system releases the lock when the process ends, also after a
    /// crash.
    fn lock(&self, path: &Path) -> Result<std::fs::File> {
        let mut lock = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::io(path, e))?;
        if lock.try_lock().is_err() {
            if !self.quiet {
                let mut process = String::new();
                // The process ID is only for the message, so a failed read is ignored.
                let _ = lock.read_to_string(&mut process);
                let process = match process.trim().parse::<u32>() {
                    Ok(id) => format!("process {id}"),
                    Err(_) => "another process".into(),
                };
                say(&format!(
                    "waiting for {process}, which is training this network ({})",
                    path.parent().unwrap_or(path).display()
                ));
            }
            lock.lock().map_err(|e| Error::io(path, e))?;
        }
        // The process ID is for the message of a waiting process. If it cannot be written
        // (full disk), the lock is still held.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()));
        Ok(lock)
    }

    /// Loads a finished training.
    fn reuse(&self, slot: &Slot, params: &Params) -> Result<Option<Trained>> {
        let Some(card) = slot.card()? else {
            return Ok(None);
        };
        // If the slot's configuration omits the training settings, weights that were trained with
        // other settings would be loaded by mistake.
        let other = differences(&json!(card.training), &json!(self.config));
        if !other.is_empty() {
            return Err(Error::invalid(format!(
                "the weights in {} were trained with other settings ({}): include the training settings in the slot's configuration, for example `store.slot(name, &(config, training))`",
                slot.folder().display(),
                other.join("; ")
            )));
        }
        let Some(card) = slot.load(params)? else {
            return Ok(None);
        };
        let log = match read_frame(&slot.file(LOG)) {
            Ok(log) => log,
            Err(e) => {
                // The weights have their own hash and are complete.
                if !self.quiet {
                    say(&format!(
                        "{e}: the weights are complete, but their training log is lost"
                    ));
                }
                Log::empty()?
            }
        };
        let summary = format!(
            "reused: {} steps, trained in {} on {}",
            card.steps,
            span(card.seconds),
            card.date
        );
        if !self.quiet {
            say(&summary);
        }
        Ok(Some(Trained {
            steps: card.steps,
            seconds: card.seconds,
            resumed_at: None,
            reused: true,
            kept: true,
            log,
            summary,
        }))
    }

    /// Writes the files of a finished training. The card is written last, because a slot with a
    /// card counts as finished.
    fn save(&self, slot: &Slot, params: &Params, trained: &Trained) -> Result<()> {
        let weights = slot.file(WEIGHTS);
        params.save(&weights)?;
        let bytes = std::fs::read(&weights).map_err(|e| Error::io(&weights, e))?;
        write_frame(&slot.file(LOG), &trained.log)?;
        let card = Card {
            name: slot.name().into(),
            configuration: slot.configuration().clone(),
            training: self.config.clone(),
            steps: trained.steps,
            seconds: trained.seconds,
            date: today(),
            machine: machine(),
            version: crate::VERSION.into(),
            code: crate::revision::code(),
            dependencies: crate::revision::dependencies(),
            weights: blake3::hash(&bytes).to_hex().to_string(),
            device: crate::ops::device_name(params.device()),
            ..Card::default()
        };
        card.write(&slot.file(CARD))?;
        for name in [NEWEST, BEFORE, NEXT] {
            let _ = std::fs::remove_file(slot.file(name));
        }
        Ok(())
    }
}

/// Removes the temporary files of a write that was killed. The caller must hold the lock of the
/// folder.
fn remove_temporary(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            // A file that cannot be removed only takes disk space.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
