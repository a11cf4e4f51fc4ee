//! The settings of a training run and the learning-rate schedules.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Settings of a training run: number of steps, batch size, optimiser, schedule and seed.
///
/// ```
/// use invariances::train::{Decay, TrainConfig};
/// let config = TrainConfig { steps: 2500, decay: Decay::Cosine { floor: 0.0 }, ..Default::default() };
/// assert!(config.learning_rate_at(2500) < 1e-6);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Number of steps.
    pub steps: u64,
    /// Number of samples per step. The trainer does not use it; the closure that computes the
    /// loss reads it.
    pub batch: usize,
    /// Adam's learning rate, before the schedule is applied.
    pub learning_rate: f64,
    /// Adam's betas.
    pub betas: (f64, f64),
    /// Schedule of the learning rate.
    pub decay: Decay,
    /// Number of steps in which the learning rate rises linearly from 0; `decay` starts after
    /// them.
    pub warm_up: u64,
    /// Maximum norm of the gradient. A larger gradient is scaled down to this norm. `None` for no
    /// clipping.
    pub clip: Option<f64>,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor per step of an exponential moving average of the parameters (e.g. 0.999). The
    /// training ends with the averaged parameters. At the start the factor is lower, at most
    /// (1 + step) / (10 + step).
    pub ema: Option<f64>,
    /// Steps between two validations, if the trainer has a measure
    /// ([`Trainer::validate`](super::Trainer::validate)). `None` for a twentieth of all steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_every: Option<u64>,
    /// Stops the training early after this number of validations in a row without a better one.
    /// The weights are then those of the best validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    /// Updates the parameters within the backward pass
    /// ([`Adam::step_in_backward`](super::Adam::step_in_backward)), so a flow with
    /// [`Memory::Constant`](crate::flow::Memory::Constant) needs no memory for its gradients.
    /// Results do not change, so this setting is not part of the configuration that identifies a
    /// trained network. Cannot be combined with `clip`.
    #[serde(skip_serializing)]
    pub step_in_backward: bool,
    /// Seed of the random numbers that the steps draw.
    pub seed: u64,
    /// Seconds between checkpoints. The interval grows if checkpoints would take more than a
    /// twentieth of the time. Results do not change, so this setting is not written and is not
    /// part of the configuration that identifies a trained network.
    #[serde(skip_serializing)]
    pub checkpoint_seconds: f64,
}

/// Schedule of the learning rate. `floor` is the fraction of the learning rate that remains at
/// the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Decay {
    /// Constant learning rate.
    #[default]
    Constant,
    /// Linear decay.
    Linear {
        /// The share of the learning rate that remains at the end.
        floor: f64,
    },
    /// Decay along half a cosine.
    Cosine {
        /// The share of the learning rate that remains at the end.
        floor: f64,
    },
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 32,
            learning_rate: 1e-3,
            betas: (0.5, 0.9),
            decay: Decay::Constant,
            warm_up: 0,
            clip: None,
            weight_decay: 0.0,
            ema: None,
            validate_every: None,
            patience: None,
            step_in_backward: false,
            seed: 0,
            checkpoint_seconds: 10.0,
        }
    }
}

impl TrainConfig {
    /// Sets the number of steps so that each of `images` images is shown `epochs` times.
    ///
    /// ```
    /// use invariances::train::TrainConfig;
    /// let config = TrainConfig { batch: 25, ..Default::default() };
    /// assert_eq!(config.epochs(2.0, 60_000).steps, 4800);
    /// ```
    pub fn epochs(mut self, epochs: f64, images: u64) -> Self {
        let steps = (epochs.max(0.0) * images as f64 / self.batch.max(1) as f64).ceil();
        self.steps = (steps as u64).max(1);
        self
    }

    /// Returns the number of steps between two validations.
    pub(super) fn validation_steps(&self) -> u64 {
        self.validate_every.unwrap_or(self.steps / 20).max(1)
    }

    /// Returns the learning rate of a step. Steps are counted from 1.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        if step <= self.warm_up {
            return self.learning_rate * step as f64 / self.warm_up.max(1) as f64;
        }
        let length = self.steps.saturating_sub(self.warm_up).max(1) as f64;
        let done = ((step - self.warm_up) as f64 / length).min(1.0);
        let share = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear { floor } => floor + (1.0 - floor) * (1.0 - done),
            Decay::Cosine { floor } => {
                floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
        };
        self.learning_rate * share
    }

    /// Checks that every setting is in its valid range.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the first setting out of range.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::invalid(format!("TrainConfig: {what}")));
        if self.steps == 0 {
            return invalid("steps must be at least 1, found 0".into());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return invalid(format!(
                "learning_rate must be above 0, found {}",
                self.learning_rate
            ));
        }
        let (a, b) = self.betas;
        if !((0.0..1.0).contains(&a) && (0.0..1.0).contains(&b)) {
            return invalid(format!("betas must be in [0, 1), found {a} and {b}"));
        }
        if let Some(c) = self.clip.filter(|c| c.is_nan() || *c <= 0.0) {
            return invalid(format!("clip must be above 0, found {c}"));
        }
        if self.step_in_backward && self.clip.is_some() {
            return invalid(
                "step_in_backward cannot be combined with clip, which needs the complete gradient: set only one of them"
                    .into(),
            );
        }
        if let Some(e) = self.ema.filter(|e| !(0.0..1.0).contains(e)) {
            return invalid(format!("ema must be in [0, 1), found {e}"));
        }
        if self.validate_every == Some(0) {
            return invalid("validate_every must be at least 1 step, found 0".into());
        }
        if self.patience == Some(0) {
            return invalid("patience must be at least 1 validation, found 0".into());
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return invalid(format!(
                "weight_decay must be at least 0, found {}",
                self.weight_decay
            ));
        }
        if self.checkpoint_seconds.is_nan() || self.checkpoint_seconds < 0.0 {
            return invalid(format!(
                "checkpoint_seconds must be at least 0, found {}",
                self.checkpoint_seconds
            ));
        }
        if let Decay::Linear { floor } | Decay::Cosine { floor } = self.decay
            && !(0.0..=1.0).contains(&floor)
        {
            return invalid(format!(
                "the decay's floor must be in [0, 1], found {floor}"
            ));
        }
        Ok(())
    }
}
