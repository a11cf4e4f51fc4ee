//! [`Trained`], the result of a training.

use polars::frame::DataFrame;

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
    pub(super) summary: String,
}

impl std::fmt::Display for Trained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary)
    }
}
