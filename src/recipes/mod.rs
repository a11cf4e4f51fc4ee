//! The networks for each dataset: those that ship with the project, those that are trained on a
//! user's images, and those that the paper's authors published.
//!
//! A [`Recipe`] states how one network is trained. A bundle has all networks for one dataset, which
//! is what notebooks load:
//!
//! | dataset | recipes | bundle |
//! | --- | --- | --- |
//! | [`Digits`](crate::data::Digits), 32 px | [`DigitsNetwork`] | [`DigitsNetworks`]: shipped, fine-tuned for other digits |
//! | [`Faces`](crate::data::Faces), 64 px | [`FacesNetwork`] | [`FacesNetworks`]: shipped |
//! | [`Creatures`](crate::data::Creatures), 64 px | [`CreaturesNetwork`] | [`CreaturesNetworks`]: shipped |
//! | [`Photographs`](crate::data::Photographs) | – | [`PhotographsNetworks`]: trained on the user's images |
//! | photographs, 128 px | – | [`PublishedNetworks`]: downloaded |
//!
//! [`VaeTraining`] trains an encoder E and a decoder D for any dataset with a choice of loss terms,
//! and [`train_perceptual`] a perceptual distance for them.
//!
//! ```
//! use invariances::prelude::*;
//! let digits = Digits::strokes(32, 0)?;
//! let networks = DigitsNetworks::load(&digits, 0, &Store::cache()?)?;
//! let batch = digits.batch(Split::Test, 0, 2)?;
//! let predicted = networks.independent.classify(&networks.autoencoder.reconstruct(&batch.images)?)?;
//! assert_eq!(predicted.dims(), [2]);
//! # Ok::<(), invariances::Error>(())
//! ```

mod built;
mod creatures;
mod digits;
mod faces;
mod photographs;
mod plan;
mod published;
mod recipe;
mod trial;
mod vae;

pub use built::Built;
pub use creatures::{CreaturesNetwork, CreaturesNetworks};
pub use digits::{DigitsNetwork, DigitsNetworks};
pub use faces::{FacesNetwork, FacesNetworks};
pub use photographs::PhotographsNetworks;
pub use plan::{Architecture, Plan};
pub(crate) use published::{ALEXNET, STUDIED, to_load};
pub use published::{PublishedNetworks, Sources};
pub use recipe::{Fitted, Job, Pretrained, Recipe};
pub use trial::Trial;
pub use vae::{Pixels, VaeTraining, train_perceptual};

use crate::ops::Placement;
use candle_core::{DType, Device};

/// The seed of the data that the shipped networks are trained on.
const SEED: u64 = 0;

/// Returns the recipes of all networks that ship with the project, in training order: an
/// independent classifier is needed to evaluate the autoencoder of its dataset.
pub fn shipped() -> Vec<Box<dyn Recipe>> {
    let digits = DigitsNetwork::ALL.map(|n| Box::new(n) as Box<dyn Recipe>);
    let faces = FacesNetwork::ALL.map(|n| Box::new(n) as Box<dyn Recipe>);
    let creatures = CreaturesNetwork::ALL.map(|n| Box::new(n) as Box<dyn Recipe>);
    digits.into_iter().chain(faces).chain(creatures).collect()
}

/// f32 on the CPU.
pub(crate) fn cpu() -> Placement {
    Placement {
        device: Device::Cpu,
        dtype: DType::F32,
    }
}
