//! Training: one trainer for every network in this crate, with a fast Adam optimiser,
//! learning-rate schedules, a log that is a data frame, and checkpoints from which a killed run
//! continues. The networks that ship with the project are defined here too.

mod checkpoint;
mod config;
mod digits;
mod log;
mod photographs;
pub mod pretrained;
mod progress;
mod store;
mod trainer;
mod vae;
mod worlds;

pub use crate::ops::{Adam, AdamConfig};
pub use config::{Decay, TrainConfig};
pub use digits::{DigitsNetwork, DigitsNetworks};
pub use photographs::PhotographsNetworks;
pub use store::{Card, Slot, Store};
pub(crate) use store::{canonical, retrains};
pub use trainer::{Step, Trained, Trainer};
pub use vae::{Pixels, VaeTraining, train_perceptual};
pub use worlds::{CreaturesNetworks, FacesNetworks, WorldNetwork};

use digits::roughen;
