//! Training: one trainer for every network in this crate, with a fast Adam optimiser,
//! learning-rate schedules, a log that is a data frame, and checkpoints from which a killed run
//! continues. How each network is trained is in [`recipes`](crate::recipes).
//!
//! The random numbers of step n are drawn from `Rng::at(config.seed, "step", n)`, where `config` is
//! the [`TrainConfig`]. [`Trainer`] passes this generator to the closure of the step.
//!
//! [`Store`] decides whether a stored network is reused: if its name, its configuration and the
//! revisions of the code that trains ([`revision::code`](crate::revision::code)) are the same.
//! [`pretrained`] reads the weights that ship with the project; a
//! [`Recipe`](crate::recipes::Recipe) decides that they are used.

mod card;
mod checkpoint;
mod config;
mod log;
pub mod pretrained;
mod progress;
mod run;
mod slot;
mod step;
mod store;
mod trained;
mod trainer;

pub use crate::ops::{Adam, AdamConfig};
pub use card::Card;
pub use config::{Decay, TrainConfig};
pub use slot::Slot;
pub use step::Step;
pub use store::Store;
pub(crate) use store::{canonical, retrains};
pub use trained::Trained;
pub use trainer::Trainer;
