//! The networks for the synthetic faces. They ship with the project.

use super::built::judge;
use super::recipe::{
    autoencoder_training, classifier_training, judge_of_attributes, judge_training, load_shipped,
};
use super::{Built, Recipe, SEED, cpu};
use crate::Result;
use crate::autoencoder::{ConvVae, ConvVaeConfig};
use crate::backbone::{Backbone, facenet_small};
use crate::data::{Faces, World};
use crate::metric::Judge;
use crate::ops::{Placement, Scope};
use crate::train::{Card, TrainConfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Side of the images in pixels.
const SIZE: usize = 64;
/// Number of people that the shipped recogniser distinguishes.
const PEOPLE: u32 = 200;

/// The recipes of the networks for [`Faces`] of 64 px.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FacesNetwork {
    /// The independent classifier: predicts glasses, beard, smile and other factors of variation.
    Judge,
    /// Recognises people: a small FaceNet, the network under study.
    Recogniser,
    /// The encoder E and the decoder D.
    Autoencoder,
}

impl FacesNetwork {
    /// Returns all networks in training order: the independent classifier is needed to evaluate
    /// the autoencoder.
    pub fn all() -> Vec<Self> {
        vec![Self::Judge, Self::Recogniser, Self::Autoencoder]
    }
}

fn vae() -> ConvVaeConfig {
    ConvVaeConfig {
        size: SIZE,
        code: 96,
        ..ConvVaeConfig::default()
    }
}

impl Recipe for FacesNetwork {
    fn name(&self) -> String {
        match self {
            Self::Judge => "faces-judge",
            Self::Recogniser => "faces-recogniser",
            Self::Autoencoder => "faces-autoencoder",
        }
        .into()
    }

    fn training(&self) -> TrainConfig {
        match self {
            // The factors of a face, such as lines and a smile, are hard to recognise.
            Self::Judge => judge_training(4000),
            Self::Recogniser => classifier_training(2500),
            Self::Autoencoder => autoencoder_training(12_000, 16),
        }
    }

    fn dataset(&self) -> Result<Arc<dyn World>> {
        let faces = Faces::new(SIZE, SEED)?;
        Ok(Arc::new(match self {
            Self::Recogniser => faces.people(PEOPLE)?,
            Self::Judge | Self::Autoencoder => faces,
        }))
    }

    fn architecture(&self, dataset: &dyn World) -> Value {
        match self {
            Self::Judge => judge_of_attributes(dataset),
            Self::Recogniser => json!("facenet_small"),
            Self::Autoencoder => json!(vae()),
        }
    }

    fn build(&self, dataset: &dyn World, at: &Scope) -> Result<Built> {
        Ok(match self {
            Self::Judge => Built::Judge(judge(dataset, at)?),
            Self::Recogniser => Built::Classifier(facenet_small(PEOPLE as usize, at)?),
            Self::Autoencoder => Built::Autoencoder(Box::new(ConvVae::new(&vae(), at)?)),
        })
    }

    fn judge(&self) -> Option<Box<dyn Recipe>> {
        (*self == Self::Autoencoder).then(|| Box::new(Self::Judge) as Box<dyn Recipe>)
    }
}

/// The networks for [`Faces`] of 64 px that ship with the project.
///
/// ```
/// use invariances::prelude::*;
/// let networks = FacesNetworks::load()?;
/// let batch = Faces::new(64, 0)?.batch(Split::Test, 0, 2)?;
/// let predicted = networks.judge.names(&networks.autoencoder.reconstruct(&batch.images)?)?;
/// assert_eq!(predicted["glasses"].len(), 2);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FacesNetworks {
    /// The encoder E and the decoder D.
    pub autoencoder: ConvVae,
    /// The network under study: a small FaceNet that recognises 200 people. Its layer `embedding`
    /// represents the identity.
    pub recogniser: Backbone,
    /// The independent classifier of the factors of variation.
    pub judge: Judge,
    /// The dataset of the people that the recogniser distinguishes. The recogniser was trained on
    /// the training split only.
    pub people: Faces,
    /// The cards of the weights, by network.
    pub cards: BTreeMap<String, Card>,
}

impl FacesNetworks {
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
    /// As [`FacesNetworks::load`].
    pub fn load_on(placement: &Placement) -> Result<Self> {
        let mut cards = BTreeMap::new();
        let mut load = |network: FacesNetwork| load_shipped(&network, placement, &mut cards);
        Ok(Self {
            autoencoder: load(FacesNetwork::Autoencoder)?.into_autoencoder()?,
            recogniser: load(FacesNetwork::Recogniser)?.into_classifier()?,
            judge: load(FacesNetwork::Judge)?.into_judge()?,
            people: Faces::new(SIZE, SEED)?.people(PEOPLE)?,
            cards,
        })
    }
}
