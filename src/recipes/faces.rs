//! The networks for the synthetic faces. They ship with the project.

use super::plan::{autoencoder_training, sharpened};
use super::recipe::load_shipped;
use super::{Plan, Recipe, SEED, VaeTraining, cpu};
use crate::Result;
use crate::autoencoder::{ConvVae, ConvVaeConfig};
use crate::backbone::{Backbone, facenet_small};
use crate::data::{Dataset, Faces};
use crate::metric::IndependentClassifier;
use crate::ops::Placement;
use crate::train::Card;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Side of the images in pixels.
const SIZE: usize = 64;
/// Number of people that the shipped recogniser distinguishes.
const PEOPLE: u32 = 200;

/// The first part of the training of E and D.
fn first() -> VaeTraining {
    VaeTraining {
        network: ConvVaeConfig {
            size: SIZE,
            code: 96,
            ..ConvVaeConfig::default()
        },
        training: autoencoder_training(12_000, 16),
        ..VaeTraining::default()
    }
}

/// The recipes of the networks for [`Faces`] of 64 px.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FacesNetwork {
    /// The independent classifier: predicts glasses, beard, smile and other factors of variation.
    IndependentClassifier,
    /// Recognises people: a small FaceNet, the network under study.
    Recogniser,
    /// The encoder E and the decoder D.
    Autoencoder,
    /// E and D as they are before the last part of their training, with the plain loss. They do
    /// not ship.
    FirstAutoencoder,
}

impl FacesNetwork {
    /// All networks that ship, in training order: the independent classifier is needed to evaluate the
    /// autoencoder.
    pub const ALL: [Self; 3] = [
        Self::IndependentClassifier,
        Self::Recogniser,
        Self::Autoencoder,
    ];
}

impl Recipe for FacesNetwork {
    fn plan(&self) -> Plan {
        match self {
            // The factors of a face, such as lines and a smile, are hard to recognise.
            Self::IndependentClassifier => Plan::independent("faces-judge", 4000),
            Self::Recogniser => {
                Plan::classifier("faces-recogniser", 2500, "facenet_small", |_, at| {
                    facenet_small(PEOPLE as usize, at)
                })
            }
            Self::Autoencoder => {
                let (vae, perceptual) = sharpened(&first(), 10_500);
                let independent = Self::IndependentClassifier;
                Plan::autoencoder("faces-autoencoder", vae, Some(perceptual), independent)
                    .after(Self::FirstAutoencoder)
            }
            Self::FirstAutoencoder => {
                let independent = Self::IndependentClassifier;
                Plan::autoencoder("faces-autoencoder-first", first(), None, independent)
            }
        }
    }

    fn dataset(&self) -> Result<Arc<dyn Dataset>> {
        let faces = Faces::new(SIZE, SEED)?;
        Ok(Arc::new(match self {
            Self::Recogniser => faces.people(PEOPLE)?,
            Self::IndependentClassifier | Self::Autoencoder | Self::FirstAutoencoder => faces,
        }))
    }
}

/// The networks for [`Faces`] of 64 px that ship with the project.
///
/// ```
/// use invariances::prelude::*;
/// let networks = FacesNetworks::load()?;
/// let batch = Faces::new(64, 0)?.batch(Split::Test, 0, 2)?;
/// let predicted = networks.independent.names(&networks.autoencoder.reconstruct(&batch.images)?)?;
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
    pub independent: IndependentClassifier,
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
            independent: load(FacesNetwork::IndependentClassifier)?.into_independent()?,
            people: Faces::new(SIZE, SEED)?.people(PEOPLE)?,
            cards,
        })
    }
}
