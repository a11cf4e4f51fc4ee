//! The networks for the synthetic creatures. They ship with the project.

use super::built::judge;
use super::recipe::{
    autoencoder_training, classifier_training, judge_of_attributes, judge_training, load_shipped,
};
use super::{Built, Recipe, SEED, cpu};
use crate::Result;
use crate::autoencoder::{ConvVae, ConvVaeConfig};
use crate::backbone::{Backbone, alexnet_small};
use crate::data::{Creatures, World};
use crate::metric::Judge;
use crate::ops::{Placement, Scope};
use crate::train::{Card, TrainConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Side of the images in pixels.
const SIZE: usize = 64;

/// The recipes of the networks for [`Creatures`] of 64 px.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreaturesNetwork {
    /// The independent classifier: predicts shape, texture and facing direction.
    Judge,
    /// Predicts the class of creatures in their natural textures: a small AlexNet, the network
    /// under study.
    Classifier,
    /// The encoder E and the decoder D of creatures in any texture.
    Autoencoder,
}

impl CreaturesNetwork {
    /// Returns all networks in training order: the independent classifier is needed to evaluate
    /// the autoencoder.
    pub fn all() -> Vec<Self> {
        vec![Self::Judge, Self::Classifier, Self::Autoencoder]
    }
}

fn vae() -> ConvVaeConfig {
    ConvVaeConfig {
        size: SIZE,
        code: 128,
        ..ConvVaeConfig::default()
    }
}

impl Recipe for CreaturesNetwork {
    fn name(&self) -> String {
        match self {
            Self::Judge => "creatures-judge",
            Self::Classifier => "creatures-classifier",
            Self::Autoencoder => "creatures-autoencoder",
        }
        .into()
    }

    fn training(&self) -> TrainConfig {
        match self {
            Self::Judge => judge_training(1500),
            Self::Classifier => classifier_training(1500),
            Self::Autoencoder => autoencoder_training(9000, 16),
        }
    }

    fn dataset(&self) -> Result<Arc<dyn World>> {
        let creatures = Creatures::new(SIZE, SEED)?;
        Ok(Arc::new(match self {
            Self::Classifier => creatures,
            // The independent classifier must not infer the texture from the shape or the shape
            // from the texture, and D must not learn a fixed pairing. So both are trained on
            // stylized images.
            Self::Judge | Self::Autoencoder => creatures.stylized(),
        }))
    }

    fn architecture(&self, dataset: &dyn World) -> Value {
        match self {
            Self::Judge => judge_of_attributes(dataset),
            Self::Classifier => json!("alexnet_small, width 24"),
            Self::Autoencoder => json!(vae()),
        }
    }

    fn build(&self, dataset: &dyn World, at: &Scope) -> Result<Built> {
        Ok(match self {
            Self::Judge => Built::Judge(judge(dataset, at)?),
            Self::Classifier => Built::Classifier(alexnet_small(24, 10, at)?),
            Self::Autoencoder => Built::Autoencoder(Box::new(ConvVae::new(&vae(), at)?)),
        })
    }

    fn judge(&self) -> Option<Box<dyn Recipe>> {
        (*self == Self::Autoencoder).then(|| Box::new(Self::Judge) as Box<dyn Recipe>)
    }
}

/// The networks for [`Creatures`] of 64 px that ship with the project.
///
/// ```
/// use invariances::prelude::*;
/// let networks = CreaturesNetworks::load()?;
/// let batch = Creatures::new(64, 0)?.batch(Split::Test, 0, 2)?;
/// let predicted = networks.judge.names(&networks.autoencoder.reconstruct(&batch.images)?)?;
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
    pub judge: Judge,
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
            judge: load(CreaturesNetwork::Judge)?.into_judge()?,
            cards,
        })
    }
}
