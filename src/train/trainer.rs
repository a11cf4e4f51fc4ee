//! The trainer: runs the steps of a training, logs, prints progress, validates, and stores the
//! result in a slot, with checkpoints from which an interrupted training continues.

use super::checkpoint::{self, Average, BEFORE, Best, NEWEST, NEXT, Place, State};
use super::log::{Log, read_frame, write_frame};
use super::progress::{Progress, number, span};
use super::store::{CARD, LOG, WEIGHTS, differences, machine, today};
use super::{Adam, Card, Slot, TrainConfig};
use crate::ops::gradients::collected;
use crate::ops::{Params, Rng, backward, keep_freed_memory, widened};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use invariances_core::say;
use polars::frame::DataFrame;
use serde_json::json;
use std::collections::HashMap;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The loss of one step, and values for the log.
#[derive(Clone, Debug)]
pub struct Step {
    loss: Tensor,
    adversary: Option<Tensor>,
    report: Vec<(String, Tensor)>,
}

impl Step {
    /// Creates a step that minimises `loss`, a scalar.
    pub fn new(loss: Tensor) -> Self {
        Self {
            loss,
            adversary: None,
            report: Vec::new(),
        }
    }

    /// Adds the loss of the adversary of [`Trainer::adversary`], a scalar. It should depend on
    /// the adversary's parameters only, so compute it from detached images. A step without this
    /// loss does not change the adversary.
    pub fn with_adversary(mut self, loss: &Tensor) -> Self {
        self.adversary = Some(loss.clone());
        self
    }

    /// Adds a number to the log, e.g. an accuracy.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        // Creating a scalar on the CPU does not fail, so no value is lost here.
        if let Ok(value) = Tensor::new(value, &candle_core::Device::Cpu) {
            self.report.push((name.into(), value));
        }
        self
    }

    /// Adds a scalar tensor to the log, e.g. a term of the loss. Its value is only read when a
    /// row or a progress line is written.
    pub fn with_tensor(mut self, name: &str, value: &Tensor) -> Self {
        self.report.push((name.into(), value.detach()));
        self
    }

    fn values(&self) -> Result<Vec<(String, f64)>> {
        let value = |(name, t): &(String, Tensor)| Ok((name.clone(), scalar(t)?));
        self.report.iter().map(value).collect()
    }
}

fn scalar(t: &Tensor) -> Result<f64> {
    if t.elem_count() != 1 {
        return Err(Error::shape(format!(
            "expected a scalar as the loss or reported value of a step, found a tensor of shape {:?}: reduce it with `mean_all()`",
            t.dims()
        )));
    }
    crate::ops::scalar(t)
}

/// Losses of steps that were not read back yet. On the CPU each is read at once; reading one from
/// another device waits for the device, so many are read together.
#[derive(Default)]
struct Pending(Vec<(u64, Tensor)>);

/// The largest number of losses that are read together.
const MAX_PENDING: usize = 50;

impl Pending {
    fn push(&mut self, step: u64, loss: &Tensor) -> Result<()> {
        if loss.elem_count() != 1 {
            scalar(loss)?;
        }
        self.0.push((step, loss.detach().flatten_all()?));
        Ok(())
    }

    /// Whether the losses can wait longer.
    fn can_wait(&self) -> bool {
        let on_cpu = self.0.iter().any(|(_, loss)| loss.device().is_cpu());
        self.0.len() < MAX_PENDING && !on_cpu
    }

    fn read(&mut self) -> Result<Vec<(u64, f64)>> {
        let (steps, losses): (Vec<u64>, Vec<Tensor>) = self.0.drain(..).unzip();
        if losses.is_empty() {
            return Ok(Vec::new());
        }
        let values = crate::ops::values(&Tensor::cat(&losses, 0)?)?;
        Ok(steps.into_iter().zip(values).collect())
    }
}

/// Returns copies of the current parameters and buffers.
fn copies(params: &Params) -> Result<HashMap<String, Tensor>> {
    let tensors = params.tensors().into_iter();
    tensors.map(|(n, t)| Ok((n, t.detach().copy()?))).collect()
}

/// Returns the name of the first parameter that contains NaN or infinite values.
fn not_finite(params: &Params) -> Result<Option<String>> {
    for (name, var) in params.trained() {
        let value = var.as_detached_tensor();
        // On the CPU the sum is in f64; other devices may not have it.
        let value = match var.device().is_cpu() {
            true => value.to_dtype(DType::F64)?,
            false => (widened(&value)? * 0.0)?,
        };
        if !crate::ops::scalar(&value.sum_all()?)?.is_finite() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Evaluates `measure` with the averaged parameters, if there are any, and restores the
/// parameters.
fn with_average(
    params: &Params,
    average: &Option<Average>,
    measure: impl FnOnce() -> Result<f64>,
) -> Result<f64> {
    let mut before = Vec::new();
    for (name, mean) in average.iter().flatten() {
        let var = params.var(name)?;
        before.push((var.clone(), var.as_detached_tensor().copy()?));
        var.set(&mean.copy()?)?;
    }
    let value = measure();
    for (var, value) in before {
        var.set(&value)?;
    }
    value
}

/// Stores the weights if this validation is better than the best one. Returns the number of
/// validations in a row that were not better.
fn better_or_stale(
    best: &mut Option<Best>,
    step: u64,
    value: f64,
    params: &Params,
    average: &Option<Average>,
) -> Result<u32> {
    // NaN is never better.
    let better = |best: &Best| value < best.value;
    if let Some(best) = best
        && !better(best)
    {
        best.stale += 1;
        return Ok(best.stale);
    }
    let mut weights = copies(params)?;
    for (name, mean) in average.iter().flatten() {
        weights.insert(name.clone(), mean.copy()?);
    }
    *best = Some(Best {
        step,
        value,
        stale: 0,
        weights,
    });
    Ok(0)
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

/// Returns the file name of the weights after a step.
pub(super) fn snapshot_name(step: u64) -> String {
    format!("after-{step:08}.safetensors")
}

/// Whether a file name is one of [`snapshot_name`].
pub(super) fn is_snapshot(name: &str) -> bool {
    name.starts_with("after-") && name.ends_with(".safetensors")
}

/// The result of a training run.
#[derive(Clone, Debug)]
pub struct Trained {
    /// Number of steps taken, in all runs together. With early stopping, the weights can be from
    /// an earlier step.
    pub steps: u64,
    /// Training time in seconds, in all runs together.
    pub seconds: f64,
    /// The step of the checkpoint from which this run continued.
    pub resumed_at: Option<u64>,
    /// True if the weights had been trained before, so this run only loaded them.
    pub reused: bool,
    /// False if the weights could not be written to the slot (for example because the disk is
    /// full). The parameters then have the trained values, and the printed message states what to
    /// do.
    pub kept: bool,
    /// One row per logged step, with the columns `step`, `seconds`, `loss` (the mean since the
    /// previous row), `learning_rate`, the values that the steps reported, and `validation` where
    /// it was measured. Empty if the log file was damaged.
    pub log: DataFrame,
    summary: String,
}

impl std::fmt::Display for Trained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary)
    }
}

/// Runs a training: seeds the random numbers of each step, updates the parameters with [`Adam`],
/// logs, prints progress and writes checkpoints.
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
    config: TrainConfig,
    quiet: bool,
    adversary: Option<Params>,
    measure: Option<Arc<Measure>>,
    snapshots: Vec<u64>,
}

/// A validation measure; lower is better.
type Measure = dyn Fn() -> Result<f64> + Send + Sync;

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

    fn run(
        &self,
        folder: Option<&Path>,
        params: &Params,
        mut step: impl FnMut(u64, &mut Rng) -> Result<Step>,
    ) -> Result<Trained> {
        let config = &self.config;
        config.check()?;
        if !self.snapshots.is_empty() && folder.is_none() {
            return Err(Error::invalid(
                "snapshots are saved in a slot: train with `fit_in` instead of `fit`",
            ));
        }
        if let Some(late) = self.snapshots.iter().find(|s| **s > config.steps) {
            return Err(Error::invalid(format!(
                "expected snapshots after at most {} steps, the length of the training, found a snapshot after step {late}",
                config.steps
            )));
        }
        let snapshot = |step: u64| match folder.filter(|_| self.snapshots.contains(&step)) {
            Some(folder) => params.save(folder.join(snapshot_name(step))),
            None => Ok(()),
        };
        keep_freed_memory();
        let adam = |params: &Params| -> Result<Adam> {
            Ok(Adam::named(params.trained())?
                .betas(config.betas.0, config.betas.1)
                .weight_decay(config.weight_decay)
                .clip(config.clip))
        };
        let mut optimiser = adam(params)?;
        let adversary = self.adversary.as_ref();
        let adversary = adversary.map(|p| Ok::<_, Error>((p, adam(p)?)));
        let mut adversary = adversary.transpose()?;
        let mut best: Option<Best> = None;
        let mut log = Log::new(config.steps);
        let mut average = config.ema.map(|_| -> Result<Average> {
            let copies = params
                .trained()
                .into_iter()
                .map(|(n, v)| Ok((n, v.as_detached_tensor().copy()?)));
            copies.collect()
        });
        let mut average = average.take().transpose()?;
        let mut state = State {
            params,
            adam: &mut optimiser,
            average: &mut average,
            adversary: adversary.as_mut().map(|(p, adam)| (*p, adam)),
            best: &mut best,
            log: &mut log,
        };
        let mut done = Place {
            step: 0,
            seconds: 0.0,
        };
        let mut resumed_at = None;
        if let Some(folder) = folder {
            // A kill can leave the newest checkpoint under its temporary name, before it is
            // renamed.
            for name in [NEXT, NEWEST, BEFORE] {
                let path = folder.join(name);
                if !path.exists() {
                    continue;
                }
                match checkpoint::read(&path, config.steps, &mut state) {
                    Ok(place) => {
                        resumed_at = Some(place.step);
                        done = place;
                        break;
                    }
                    Err(e) if !self.quiet => say(&format!("{e}: this checkpoint is skipped")),
                    Err(_) => {}
                }
            }
        }
        let mut progress = Progress::new(config.steps, done.step, self.quiet);
        if let Some(at) = resumed_at {
            progress.say(&format!("resumed at step {at} of {}", config.steps));
        }
        if done.step == 0 {
            snapshot(0)?;
        }
        let start = Instant::now();
        let (mut saved_at, mut last_saved) = (Instant::now(), resumed_at);
        let min_pause = Duration::from_secs_f64(config.checkpoint_seconds.clamp(0.1, 1e6));
        let mut pause = min_pause;
        let mut steps = done.step;
        let mut pending = Pending::default();
        for n in done.step + 1..=config.steps {
            steps = n;
            let this = collected(|| step(n, &mut Rng::at(config.seed, "step", n)))?;
            let diverged = |n: u64, what: String| {
                let saved = match last_saved {
                    Some(at) => format!("the checkpoint of step {at} is kept"),
                    None => "no checkpoint was written yet".into(),
                };
                Error::Diverged(format!(
                    "training diverged at step {n}: {what}; {saved}. Try a lower learning rate, a warm-up or gradient clipping (`clip`)"
                ))
            };
            // A loss that is not finite changes no parameter on the CPU, where it is read first.
            let mut losses = Vec::new();
            pending.push(n, &this.loss)?;
            let mut stop = n == config.steps;
            let is_validation =
                self.measure.is_some() && (stop || n.is_multiple_of(config.validation_steps()));
            let save_is_due = folder.is_some() && saved_at.elapsed() >= pause;
            let progress_is_due = progress.is_due(n);
            let row_is_due = state.log.is_due(n);
            let losses_are_due =
                stop || is_validation || save_is_due || progress_is_due || row_is_due;
            if losses_are_due || !pending.can_wait() {
                losses = pending.read()?;
            }
            if let Some((n, loss)) = losses.iter().find(|(_, loss)| !loss.is_finite()) {
                return Err(diverged(*n, format!("the loss is {loss}")));
            }
            let learning_rate = config.learning_rate_at(n);
            let stepped = if config.step_in_backward {
                state.adam.step_in_backward(&this.loss, learning_rate)
            } else {
                let gradients = backward(&this.loss);
                gradients.and_then(|g| state.adam.step_at(&g, learning_rate))
            };
            match stepped {
                Err(Error::Diverged(what)) => return Err(diverged(n, what)),
                other => other?,
            }
            if let Some(loss) = &this.adversary {
                let Some((_, adam)) = &mut state.adversary else {
                    return Err(Error::invalid(
                        "a step has a loss for an adversary, but the trainer has no adversary: set its parameters with `Trainer::adversary`",
                    ));
                };
                if loss.device().is_cpu() || !losses.is_empty() {
                    let value = scalar(loss)?;
                    if !value.is_finite() {
                        return Err(diverged(n, format!("the adversary's loss is {value}")));
                    }
                }
                match backward(loss).and_then(|g| adam.step_at(&g, learning_rate)) {
                    Err(Error::Diverged(what)) => return Err(diverged(n, what)),
                    other => other?,
                }
            }
            if !losses.is_empty() {
                let adversary = state.adversary.as_ref();
                let of_adversary = adversary.map(|(_, adam)| adam.has_diverged()).transpose()?;
                if state.adam.has_diverged()? || of_adversary == Some(true) {
                    let what = "the norm of a gradient is not finite".into();
                    return Err(diverged(n, what));
                }
            }
            if n == done.step + 1 {
                let without = state.adam.without_gradient();
                if !without.is_empty() {
                    progress.say(&format!(
                        "no gradient reaches these parameters: {}",
                        without.join(", ")
                    ));
                }
            }
            if let (Some(average), Some(ema)) = (state.average.as_mut(), config.ema) {
                let factor = ema.min((1 + n) as f64 / (10 + n) as f64);
                for (name, var) in params.trained() {
                    if let Some(mean) = average.get_mut(&name) {
                        *mean = (mean.affine(factor, 0.0)?
                            + var.as_detached_tensor().affine(1.0 - factor, 0.0)?)?;
                    }
                }
            }
            snapshot(n)?;
            let mut validation = None;
            if let Some(measure) = &self.measure
                && is_validation
            {
                let value = with_average(params, state.average, || measure())?;
                if let Some(patience) = config.patience {
                    stop |=
                        better_or_stale(state.best, n, value, params, state.average)? >= patience;
                }
                validation = Some(("validation".to_string(), value));
            }
            let seconds = done.seconds + start.elapsed().as_secs_f64();
            for (_, loss) in &losses {
                state.log.count(*loss);
            }
            if row_is_due || stop || validation.is_some() {
                let mut values = this.values()?;
                values.extend(validation);
                state
                    .log
                    .row(n, seconds, config.learning_rate_at(n), &values)?;
            }
            if progress_is_due && let Some((_, loss)) = losses.last() {
                let mut values = vec![("loss".to_string(), *loss)];
                values.extend(this.values()?);
                progress.line(n, &values);
            }
            let begin = Instant::now();
            let save = folder.filter(|_| !stop && save_is_due);
            // A gradient that is not finite shows only in the loss of the next step, so the
            // parameters are checked before they are written.
            if save.is_some() || stop {
                let of_adversary = self.adversary.as_ref().map(not_finite).transpose()?;
                if let Some(name) = not_finite(params)?.or(of_adversary.flatten()) {
                    let what = format!("{name} contains NaN or infinite values");
                    return Err(diverged(n, what));
                }
            }
            if let Some(folder) = save {
                match checkpoint::write(folder, &Place { step: n, seconds }, &state) {
                    Ok(()) => last_saved = Some(n),
                    // A full disk prevents this checkpoint, but the training continues and the
                    // previous one is kept.
                    Err(e) => progress.say(&format!(
                        "{e}: the checkpoint of step {n} was not written; training continues, {}",
                        match last_saved {
                            Some(at) => format!("and the checkpoint of step {at} is kept"),
                            None => "but no checkpoint was written yet".into(),
                        }
                    )),
                }
                saved_at = Instant::now();
                // Keeps checkpoints below a twentieth of the time. The factor has a margin,
                // because the steps after a checkpoint are slower (caches, memory).
                pause = min_pause.max(begin.elapsed() * 25);
            }
            if stop {
                break;
            }
        }
        for (name, mean) in average.iter().flatten() {
            params.var(name)?.set(&mean.copy()?)?;
        }
        let mut best_note = String::new();
        if let Some(best) = &best {
            params.set_all(&best.weights)?;
            best_note = format!(" · weights of step {}, the best validation", best.step);
        }
        let seconds = done.seconds + start.elapsed().as_secs_f64();
        let last = log.last();
        let mut values = last
            .iter()
            .filter(|(n, _)| !["step", "seconds", "learning_rate"].contains(&n.as_str()));
        let values = values
            .by_ref()
            .map(|(n, v)| format!("{n} {}", number(*v)))
            .collect::<Vec<_>>();
        let summary = format!(
            "{steps} steps in {} · {}{best_note}",
            span(seconds),
            values.join(" · ")
        );
        progress.say(&summary);
        Ok(Trained {
            steps,
            seconds,
            resumed_at,
            reused: false,
            kept: true,
            log: log.frame()?,
            summary,
        })
    }
}
