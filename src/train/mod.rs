//! Training: one trainer for every network in this crate, with a fast Adam optimiser,
//! learning-rate schedules, a log that is a data frame, and checkpoints from which a killed run
//! continues. How each network is trained is in [`recipes`](crate::recipes).

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

// The networks were in this module before.
#[doc(no_inline)]
pub use crate::recipes::{
    CreaturesNetworks, DigitsNetwork, DigitsNetworks, FacesNetworks, PhotographsNetworks, Pixels,
    VaeTraining, train_perceptual,
};
