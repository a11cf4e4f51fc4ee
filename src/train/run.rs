//! The loop over the steps of a training: updates, moving averages, validation, the log, progress
//! and checkpoints.

use super::checkpoint::{self, Average, BEFORE, Best, NEWEST, NEXT, Place, State};
use super::log::Log;
use super::progress::{Progress, number, span};
use super::slot::snapshot_name;
use super::step::scalar;
use super::{Adam, Step, Trained, Trainer};
use crate::ops::gradients::collected;
use crate::ops::{Params, Rng, backward, keep_freed_memory, widened};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use invariances_core::say;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

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
pub(super) fn copies(params: &Params) -> Result<HashMap<String, Tensor>> {
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

impl Trainer {
    /// Runs the steps, from the last checkpoint in `folder` if there is one. Without a folder,
    /// nothing is written.
    pub(super) fn run(
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
        progress.finish(&summary);
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
