//! The networks for the synthetic creatures. They ship with the project.

use super::plan::{autoencoder_training, sharpened};
use super::recipe::load_shipped;
use super::{Plan, Recipe, SEED, VaeTraining, cpu};
use crate::Result;
use crate::autoencoder::{ConvVae, ConvVaeConfig};
use crate::backbone::Backbone;
use crate::data::{Creatures, Dataset};
use crate::metric::IndependentClassifier;
use crate::ops::Placement;
use crate::train::Card;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Side of the images in pixels.
const SIZE: usize = 64;

/// The first part of the training of E and D.
fn first() -> VaeTraining {
    VaeTraining {
        network: ConvVaeConfig {
            size: SIZE,
            code: 128,
            ..ConvVaeConfig::default()
        },
        training: autoencoder_training(9000, 16),
        ..VaeTraining::default()
    }
}

/// The recipes of the networks for [`Creatures`] of 64 px.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreaturesNetwork {
    /// The independent classifier: predicts shape, texture and facing direction.
    IndependentClassifier,
    /// Predicts the class of creatures in their natural textures: a small AlexNet, the network
    /// under study.
    Classifier,
    /// The encoder E and the decoder D of creatures in any texture.
    Autoencoder,
    /// E and D as they are before the last part of their training, with the plain loss. They do
    /// not ship.
    FirstAutoencoder,
}

impl CreaturesNetwork {
    /// All networks that ship, in training order: the independent classifier is needed to evaluate the
    /// autoencoder.
    pub const ALL: [Self; 3] = [
        Self::IndependentClassifier,
        Self::Classifier,
        Self::Autoencoder,
    ];
}

impl Recipe for CreaturesNetwork {
    fn plan(&self) -> Plan {
        match self {
            Self::IndependentClassifier => Plan::independent("creatures-judge", 1500),
            Self::Classifier => Plan::alexnet("creatures-classifier", 1500),
            Self::Autoencoder => {
                let (vae, perceptual) = sharpened(&first(), 12_000);
                let independent = Self::IndependentClassifier;
                Plan::autoencoder("creatures-autoencoder", vae, Some(perceptual), independent)
                    .after(Self::FirstAutoencoder)
            }
            Self::FirstAutoencoder => {
                let independent = Self::IndependentClassifier;
                Plan::autoencoder("creatures-autoencoder-first", first(), None, independent)
            }
        }
    }

    fn dataset(&self) -> Result<Arc<dyn Dataset>> {
        let creatures = Creatures::new(SIZE, SEED)?;
        Ok(Arc::new(match self {
            Self::Classifier => creatures,
            // The independent classifier must not infer the texture from the shape or the shape
            // from the texture, and D must not learn a fixed pairing. So both are trained on
            // stylized images.
            Self::IndependentClassifier | Self::Autoencoder | Self::FirstAutoencoder => {
                creatures.stylized()
            }
        }))
    }
}

/// The networks for [`Creatures`] of 64 px that ship with the project.
///
/// ```
/// use invariances::prelude::*;
/// let networks = CreaturesNetworks::load()?;
/// let batch = Creatures::new(64, 0)?.batch(Split::Test, 0, 2)?;
/// let predicted = networks.independent.names(&networks.autoencoder.reconstruct(&batch.images)?)?;
/// assert_eq!(predicted["shape"].len(), 2);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CreaturesNetworks {
    /// The encoder E and the decoder D, trained on any pairing of shape and texture.
    pub autoencoder: ConvVae,
    /// The network under study: a small AlexNet, trained on the natural pairing of shape and
    /// texture.
    pub classifier: Backbone,
    /// The independent classifier of the factors of variation, trained on any pairing.
    pub independent: IndependentClassifier,
    /// The cards of the weights, by network.
    pub cards: BTreeMap<String, Card>,
}

impl CreaturesNetworks {
    /// Loads the shipped weights, in f32 on the CPU.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn load() -> Result<Self> {
        Self::load_on(&cpu())
    }

    /// Loads the shipped weights on a device and in a number type, for example
    /// [`Lab::placement`](crate::notebook::Lab::placement).
    ///
    /// # Errors
    /// As [`CreaturesNetworks::load`].
    pub fn load_on(placement: &Placement) -> Result<Self> {
        let mut cards = BTreeMap::new();
        let mut load = |network: CreaturesNetwork| load_shipped(&network, placement, &mut cards);
        Ok(Self {
            autoencoder: load(CreaturesNetwork::Autoencoder)?.into_autoencoder()?,
            classifier: load(CreaturesNetwork::Classifier)?.into_classifier()?,
            independent: load(CreaturesNetwork::IndependentClassifier)?.into_independent()?,
            cards,
        })
    }
}
