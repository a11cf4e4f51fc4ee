use super::adam::Adam;
use super::checkpoint::{self, Average, BEFORE, NEWEST, NEXT, Place, State};
use super::log::{Log, read_frame, write_frame};
use super::progress::{Progress, number, span};
use super::store::{CARD, LOG, WEIGHTS, differences, machine, today};
use super::{Card, Slot, TrainConfig};
use crate::ops::{Params, Rng, backward, keep_freed_memory};
use crate::say::say;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use polars::frame::DataFrame;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// The loss of one step and what else is worth a column of the log.
#[derive(Clone, Debug)]
pub struct Step {
    loss: Tensor,
    report: Vec<(String, Tensor)>,
}

impl Step {
    /// A step that lowers `loss`, a scalar.
    pub fn new(loss: Tensor) -> Self {
        Self {
            loss,
            report: Vec::new(),
        }
    }

    /// Adds a number to the log, e.g. an accuracy.
    pub fn with(mut self, name: &str, value: f64) -> Self {
        // A scalar on the CPU always has memory.
        if let Ok(value) = Tensor::new(value, &candle_core::Device::Cpu) {
            self.report.push((name.into(), value));
        }
        self
    }

    /// Adds a scalar tensor to the log, e.g. a part of the loss; it is read only where a row is written.
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
        return Err(Error::invalid(format!(
            "a loss, and what a step reports, is one number; found a tensor {:?}: take its mean_all()",
            t.dims()
        )));
    }
    Ok(t.flatten_all()?.get(0)?.to_dtype(DType::F64)?.to_scalar()?)
}

/// The parameters and buffers as they are now.
fn copies(params: &Params) -> Result<HashMap<String, Tensor>> {
    let tensors = params.tensors().into_iter();
    tensors.map(|(n, t)| Ok((n, t.detach().copy()?))).collect()
}

/// The first parameter that is not all finite numbers.
fn not_finite(params: &Params) -> Result<Option<String>> {
    for (name, var) in params.trained() {
        let sum = var.as_detached_tensor().to_dtype(DType::F64)?.sum_all()?;
        if !sum.to_scalar::<f64>()?.is_finite() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Removes what a write that was killed left; whoever calls this holds the folder's lock.
fn remove_temporary(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(".tmp") {
            // One that cannot be removed takes room and harms nothing.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What a training did.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The steps that the weights have behind them.
    pub steps: u64,
    /// How long those took, in all runs together.
    pub seconds: f64,
    /// The step of the checkpoint from which this run went on.
    pub resumed_at: Option<u64>,
    /// True where the weights were trained before and nothing was left to do.
    pub reused: bool,
    /// One row per logged step: `step`, `seconds`, `loss` (the mean since the row before), `learning_rate`,
    /// and what the steps reported.
    pub log: DataFrame,
    summary: String,
}

impl std::fmt::Display for Trained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary)
    }
}

/// Runs a training: draws each step's numbers from the seed, updates by [`Adam`], logs, prints, checkpoints.
///
/// A step's generator depends on the seed and the step alone, so a training that was killed and run again
/// ends with the same parameters, bit for bit, as one that was not.
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
#[derive(Clone, Debug)]
pub struct Trainer {
    config: TrainConfig,
    quiet: bool,
}

impl Trainer {
    /// A trainer with these settings.
    pub fn new(config: TrainConfig) -> Self {
        Self {
            config,
            quiet: false,
        }
    }

    /// Prints nothing.
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Trains `params` without keeping anything on disk. `step` gets the step's number, from 1 on, and its generator.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings that no training can have, [`Error::Diverged`] where the loss is not finite,
    /// and whatever `step` returns.
    pub fn fit(
        &self,
        params: &Params,
        step: impl FnMut(u64, &mut Rng) -> Result<Step>,
    ) -> Result<Trained> {
        self.run(None, params, step)
    }

    /// As [`Trainer::fit`], kept in `slot`: a finished training is taken up, an interrupted one goes on from its
    /// last checkpoint. Where another process trains the same network, this waits for it.
    ///
    /// # Errors
    /// Also [`Error::Io`] where the slot's folder cannot be written, [`Error::Content`] where its files are damaged.
    /// After an error the parameters are as they were before, so that the next attempt gives what a first would.
    pub fn fit_in(
        &self,
        slot: &Slot,
        params: &Params,
        step: impl FnMut(u64, &mut Rng) -> Result<Step>,
    ) -> Result<Trained> {
        self.config.check()?;
        let folder = slot.folder();
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::io(folder, e)
                .with_hint("trained networks are kept here; INVARIANCES_CACHE names another place")
        })?;
        let path = folder.join("lock");
        let lock = std::fs::File::create(&path).map_err(|e| Error::io(&path, e))?;
        // The system frees the lock when a process ends, however it ends.
        if lock.try_lock().is_err() {
            if !self.quiet {
                say(&format!(
                    "another process trains this network ({}): waiting for it",
                    folder.display()
                ));
            }
            lock.lock().map_err(|e| Error::io(&path, e))?;
        }
        remove_temporary(folder);
        if let Some(card) = slot.card()? {
            // A configuration that leaves the training out would have its weights taken for those of any other.
            let other = differences(&json!(card.training), &json!(self.config));
            if !other.is_empty() {
                return Err(Error::invalid(format!(
                    "{} holds weights that were trained with other settings ({}): name the training's settings in the slot's configuration, as in `store.slot(name, &(config, training))`",
                    folder.display(),
                    other.join("; ")
                )));
            }
        }
        if let Some(card) = slot.load(params)? {
            let log = read_frame(&slot.file(LOG)).map_err(|e| slot.advise(e))?;
            let summary = format!(
                "reused: {} steps, trained in {} on {}",
                card.steps,
                span(card.seconds),
                card.date
            );
            if !self.quiet {
                say(&summary);
            }
            return Ok(Trained {
                steps: card.steps,
                seconds: card.seconds,
                resumed_at: None,
                reused: true,
                log,
                summary,
            });
        }
        let start = copies(params)?;
        let trained = match self.run(Some(folder), params, step) {
            Ok(trained) => trained,
            Err(e) => {
                params.set_all(&start)?;
                return Err(e);
            }
        };
        drop(start);
        write_frame(&slot.file(LOG), &trained.log)?;
        let weights = slot.file(WEIGHTS);
        params.save(&weights)?;
        let bytes = std::fs::read(&weights).map_err(|e| Error::io(&weights, e))?;
        let card = Card {
            name: slot.name().into(),
            configuration: slot.configuration().clone(),
            training: self.config.clone(),
            steps: trained.steps,
            seconds: trained.seconds,
            date: today(),
            machine: machine(),
            version: crate::VERSION.into(),
            weights: blake3::hash(&bytes).to_hex().to_string(),
            ..Card::default()
        };
        // The card comes last: with it the training counts as finished.
        card.write(&slot.file(CARD))?;
        for name in [NEWEST, BEFORE, NEXT] {
            let _ = std::fs::remove_file(slot.file(name));
        }
        Ok(trained)
    }

    fn run(
        &self,
        folder: Option<&Path>,
        params: &Params,
        mut step: impl FnMut(u64, &mut Rng) -> Result<Step>,
    ) -> Result<Trained> {
        let config = &self.config;
        config.check()?;
        keep_freed_memory();
        let mut adam = Adam::new(params.trained())?
            .betas(config.betas.0, config.betas.1)
            .weight_decay(config.weight_decay)
            .clip(config.clip);
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
            adam: &mut adam,
            average: &mut average,
            log: &mut log,
        };
        let mut done = Place {
            step: 0,
            seconds: 0.0,
        };
        let mut resumed_at = None;
        if let Some(folder) = folder {
            // A kill can leave the newest one before its last move.
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
                    Err(e) if !self.quiet => say(&format!("{e}: left out")),
                    Err(_) => {}
                }
            }
        }
        let mut progress = Progress::new(config.steps, done.step, self.quiet);
        if let Some(at) = resumed_at {
            progress.say(&format!("resumed at step {at} of {}", config.steps));
        }
        let start = Instant::now();
        let (mut saved_at, mut last_saved) = (Instant::now(), resumed_at);
        let least = Duration::from_secs_f64(config.checkpoint_seconds.clamp(0.1, 1e6));
        let mut pause = least;
        for n in done.step + 1..=config.steps {
            let this = step(n, &mut Rng::at(config.seed, "step", n))?;
            let loss = scalar(&this.loss)?;
            let diverged = |what: String| {
                let kept = match last_saved {
                    Some(at) => format!("the checkpoint of step {at} is kept"),
                    None => "no checkpoint was written yet".into(),
                };
                Error::Diverged(format!(
                    "training left the numbers at step {n}: {what}; {kept}. Try a lower learning rate, a warm-up or `clip`"
                ))
            };
            if !loss.is_finite() {
                return Err(diverged(format!("the loss is {loss}")));
            }
            let learning_rate = config.learning_rate_at(n);
            let stepped = if config.step_in_backward {
                state.adam.step_in_backward(&this.loss, learning_rate)
            } else {
                let gradients = backward(&this.loss);
                gradients.and_then(|g| state.adam.step(&g, learning_rate))
            };
            match stepped {
                Err(Error::Diverged(what)) => return Err(diverged(what)),
                other => other?,
            }
            if n == done.step + 1 {
                let without = state.adam.without_gradient();
                if !without.is_empty() {
                    progress.say(&format!("no gradient reaches {}", without.join(", ")));
                }
            }
            if let (Some(average), Some(ema)) = (state.average.as_mut(), config.ema) {
                let keep = ema.min((1 + n) as f64 / (10 + n) as f64);
                for (name, var) in params.trained() {
                    if let Some(mean) = average.get_mut(&name) {
                        *mean = (mean.affine(keep, 0.0)?
                            + var.as_detached_tensor().affine(1.0 - keep, 0.0)?)?;
                    }
                }
            }
            let seconds = done.seconds + start.elapsed().as_secs_f64();
            if state.log.count(n, loss) || n == config.steps {
                state
                    .log
                    .row(n, seconds, config.learning_rate_at(n), &this.values()?)?;
            }
            if progress.is_due(n) {
                let mut values = vec![("loss".to_string(), loss)];
                values.extend(this.values()?);
                progress.line(n, &values);
            }
            let begin = Instant::now();
            let save = folder.filter(|_| n < config.steps && saved_at.elapsed() >= pause);
            // A gradient that is not finite shows in the next step's loss; what is kept must not have it.
            if (save.is_some() || n == config.steps)
                && let Some(name) = not_finite(params)?
            {
                return Err(diverged(format!("{name} has numbers that are not finite")));
            }
            if let Some(folder) = save {
                checkpoint::write(folder, &Place { step: n, seconds }, &state)?;
                last_saved = Some(n);
                saved_at = Instant::now();
                // Less than a twentieth of the time, with room for what the steps after it lose: caches, memory.
                pause = least.max(begin.elapsed() * 25);
            }
        }
        for (name, mean) in average.iter().flatten() {
            params.var(name)?.set(&mean.copy()?)?;
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
            "{} steps in {} · {}",
            config.steps,
            span(seconds),
            values.join(" · ")
        );
        progress.say(&summary);
        Ok(Trained {
            steps: config.steps,
            seconds,
            resumed_at,
            reused: false,
            log: log.frame()?,
            summary,
        })
    }
}
