//! Training: one trainer for every network in this crate, with a fast Adam optimiser,
//! learning-rate schedules, a log that is a data frame, and checkpoints from which a killed run
//! continues. How each network is trained is in [`recipes`](crate::recipes).

mod checkpoint;
mod config;
mod log;
pub mod pretrained;
mod progress;
mod store;
mod trainer;

pub use crate::ops::{Adam, AdamConfig};
pub use config::{Decay, TrainConfig};
pub use store::{Card, Slot, Store};
pub(crate) use store::{canonical, retrains};
pub use trainer::{Step, Trained, Trainer};

// The networks were in this module before.
#[doc(no_inline)]
pub use crate::recipes::{
    CreaturesNetworks, DigitsNetwork, DigitsNetworks, FacesNetworks, PhotographsNetworks, Pixels,
    VaeTraining, train_perceptual,
};
