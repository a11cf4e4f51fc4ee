//! The networks for the coloured digits. They ship with the project and can be fine-tuned on other
//! digits.

use super::built::roughen;
use super::plan::autoencoder_training;
use super::{Built, Job, Plan, Recipe, SEED, VaeTraining};
use crate::autoencoder::ConvVae;
use crate::backbone::{Backbone, squeezenet_small};
use crate::data::{Batch, Dataset, Digits, Split};
use crate::ops::Rng;
use crate::train::{Card, Step, Store};
use crate::{Error, Result};
use invariances_core::say;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Side of the images in pixels.
const SIZE: usize = 32;

/// The recipes of the networks for [`Digits`] of 32 px.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigitsNetwork {
    /// The encoder E and the decoder D: a [`ConvVae`].
    Autoencoder,
    /// The network under study: a small SqueezeNet.
    Classifier,
    /// The independent classifier. It differs from the network under study in architecture, seed
    /// and training, and takes no part in making the images that it classifies.
    IndependentClassifier,
}

impl DigitsNetwork {
    /// All networks in training order: the independent classifier is needed to evaluate the
    /// autoencoder.
    pub const ALL: [Self; 3] = [
        Self::Classifier,
        Self::IndependentClassifier,
        Self::Autoencoder,
    ];
}

impl Recipe for DigitsNetwork {
    fn plan(&self) -> Plan {
        match self {
            Self::Autoencoder => {
                let vae = VaeTraining {
                    training: autoencoder_training(14_000, 32),
                    ..VaeTraining::default()
                };
                let independent = Self::IndependentClassifier;
                Plan::autoencoder("digits-autoencoder", vae, None, independent)
            }
            Self::Classifier => Plan::classifier(
                "digits-classifier",
                4000,
                "squeezenet_small",
                squeezenet_small,
            ),
            Self::IndependentClassifier => Plan::judge_of_classes("digits-judge", 3000),
        }
    }

    fn dataset(&self) -> Result<Arc<dyn Dataset>> {
        Ok(Arc::new(Digits::strokes(SIZE, SEED)?))
    }

    fn held_out(&self) -> usize {
        5000
    }

    fn data(&self, _: &dyn Dataset) -> String {
        "digits in colour, procedural: Digits::strokes(32, 0), training split, each image once"
            .into()
    }

    /// The start is null for a training from random weights: the shipped weights have this key.
    fn configuration(&self, job: &Job) -> Value {
        let mut all = job.configuration(&self.plan());
        all["start"] = json!(job.start.as_ref().map(|start| &start.card.weights));
        all
    }

    fn step(&self, network: &Built, batch: Batch, rng: &mut Rng) -> Result<Step> {
        let images = match self {
            Self::IndependentClassifier => roughen(&batch.images, rng)?,
            _ => batch.images.clone(),
        };
        network.step(&Batch { images, ..batch }, rng)
    }
}

/// The encoder E, the decoder D, the classifier under study and the independent classifier for
/// [`Digits`] of 32 px.
#[derive(Clone, Debug)]
pub struct DigitsNetworks {
    /// The encoder E and the decoder D.
    pub autoencoder: ConvVae,
    /// The network under study, a small SqueezeNet. Its penultimate layer is `pool`.
    pub classifier: Backbone,
    /// The independent classifier, which evaluates reconstructions and samples.
    pub independent: Backbone,
    cards: BTreeMap<String, Card>,
}

impl DigitsNetworks {
    /// Loads the networks for `digits`. If `digits` are the procedural digits, these are the
    /// networks that ship with the project. For other digits (for example MNIST), the shipped
    /// networks are fine-tuned for `adapt` steps and stored in `store`. All of them are on the
    /// store's device.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images are not 32 px in size; [`Error::Content`] if the shipped
    /// weights are missing: the message contains the command that trains them.
    pub fn load(digits: &Digits, adapt: u64, store: &Store) -> Result<Self> {
        if digits.size() != SIZE {
            return Err(Error::shape(format!(
                "expected digits of {SIZE} × {SIZE} pixels, the input size of the shipped networks, found {} pixels: create the digits with size {SIZE}",
                digits.size()
            )));
        }
        let mut cards = BTreeMap::new();
        let mut load = |network: DigitsNetwork| -> Result<Built> {
            let name = network.name();
            let loaded = if digits.len(Split::Train).is_some() {
                say(&format!(
                    "{name}: fine-tuning the shipped weights for {adapt} steps on these digits"
                ));
                network.fine_tune(digits, adapt, store)?
            } else {
                network.load(&store.placement())?
            };
            cards.insert(name, loaded.card);
            Ok(loaded.network)
        };
        Ok(Self {
            classifier: load(DigitsNetwork::Classifier)?.into_classifier()?,
            independent: load(DigitsNetwork::IndependentClassifier)?.into_classifier()?,
            autoencoder: load(DigitsNetwork::Autoencoder)?.into_autoencoder()?,
            cards,
        })
    }

    /// Returns the cards of the weights, one per network: how they were trained and the measured
    /// figures.
    pub fn cards(&self) -> Vec<Card> {
        self.cards.values().cloned().collect()
    }
}
