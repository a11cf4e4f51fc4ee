use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What a training is told: length, batch, optimiser, schedule, seed.
///
/// ```
/// use invariances::train::{Decay, TrainConfig};
/// let config = TrainConfig { steps: 2500, decay: Decay::Cosine { floor: 0.0 }, ..Default::default() };
/// assert!(config.learning_rate_at(2500) < 1e-6);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// How many steps.
    pub steps: u64,
    /// How many samples make a step; the closure that computes the loss reads it.
    pub batch: usize,
    /// Adam's learning rate, before the schedule.
    pub learning_rate: f64,
    /// Adam's betas.
    pub betas: (f64, f64),
    /// What becomes of the learning rate over the steps.
    pub decay: Decay,
    /// Steps in which the learning rate rises from 0 at first; `decay` begins after them.
    pub warm_up: u64,
    /// The largest norm of the gradient; longer ones are shortened to it.
    pub clip: Option<f64>,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Keeps a running mean of the parameters with this factor per step (e.g. 0.999), which the training
    /// ends with. At the start the factor is lower, (1 + step) / (10 + step).
    pub ema: Option<f64>,
    /// Steps between two validations, where the trainer has a measure ([`Trainer::validate`](super::Trainer::validate));
    /// a twentieth of all steps where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validate_every: Option<u64>,
    /// Ends the training after so many validations in a row without a better one; the weights are then those of the best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u32>,
    /// Changes the parameters within the backward pass ([`Adam::step_in_backward`](super::Adam::step_in_backward)): a flow with
    /// [`Memory::Constant`](crate::flow::Memory::Constant) then needs no memory for its gradients. It changes no result, so it is not
    /// part of what tells one training from another. Not with `clip`.
    #[serde(skip_serializing)]
    pub step_in_backward: bool,
    /// Decides what the steps draw.
    pub seed: u64,
    /// Seconds between checkpoints; longer where they would take more than a twentieth of the time.
    /// It changes no result, so it is not written and not part of what tells one training from another.
    #[serde(skip_serializing)]
    pub checkpoint_seconds: f64,
}

/// What becomes of the learning rate over the steps. `floor` is the share of it that is left at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Decay {
    /// It stays.
    #[default]
    Constant,
    /// It falls along a line.
    Linear { floor: f64 },
    /// It falls along half a cosine.
    Cosine { floor: f64 },
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
    /// The same training with as many steps as show each of `images` images `epochs` times.
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

    /// Steps between two validations.
    pub(super) fn validation_steps(&self) -> u64 {
        self.validate_every.unwrap_or(self.steps / 20).max(1)
    }

    /// The learning rate of a step; the first is 1.
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

    /// Refuses numbers that no training can have.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first such setting.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::invalid(format!("TrainConfig: {what}")));
        if self.steps == 0 {
            return refuse("steps must be at least 1, found 0".into());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return refuse(format!(
                "learning_rate must be above 0, found {}",
                self.learning_rate
            ));
        }
        let (a, b) = self.betas;
        if !((0.0..1.0).contains(&a) && (0.0..1.0).contains(&b)) {
            return refuse(format!("betas must lie in [0, 1), found {a} and {b}"));
        }
        if let Some(c) = self.clip.filter(|c| c.is_nan() || *c <= 0.0) {
            return refuse(format!("clip must be above 0, found {c}"));
        }
        if self.step_in_backward && self.clip.is_some() {
            return refuse(
                "step_in_backward cannot be had with clip, which needs the whole gradient first"
                    .into(),
            );
        }
        if let Some(e) = self.ema.filter(|e| !(0.0..1.0).contains(e)) {
            return refuse(format!("ema must lie in [0, 1), found {e}"));
        }
        if self.validate_every == Some(0) {
            return refuse("validate_every must be at least 1 step, found 0".into());
        }
        if self.patience == Some(0) {
            return refuse("patience must be at least 1 validation, found 0".into());
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return refuse(format!(
                "weight_decay must be at least 0, found {}",
                self.weight_decay
            ));
        }
        if self.checkpoint_seconds.is_nan() || self.checkpoint_seconds < 0.0 {
            return refuse(format!(
                "checkpoint_seconds must be at least 0, found {}",
                self.checkpoint_seconds
            ));
        }
        if let Decay::Linear { floor } | Decay::Cosine { floor } = self.decay
            && !(0.0..=1.0).contains(&floor)
        {
            return refuse(format!(
                "the decay's floor must lie in [0, 1], found {floor}"
            ));
        }
        Ok(())
    }
}
