//! The networks for a user's own images. No weights ship for them: all of them are trained on
//! these images.

use super::plan::autoencoder_training;
use super::{Built, Plan, Recipe, VaeTraining};
use crate::autoencoder::{Autoencoder, ConvVae};
use crate::backbone::{Backbone, Network};
use crate::data::{Dataset, Photographs, Split};
use crate::metric::{IndependentClassifier, agreement};
use crate::train::{Card, Store, TrainConfig};
use crate::{Error, Result};
use invariances_core::say;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The encoder E, the decoder D, a network to study and an independent classifier for
/// [`Photographs`], all trained on these images.
///
/// ```no_run
/// use invariances::prelude::*;
/// use invariances::recipes::PhotographsNetworks;
/// let lab = Lab::open("mine")?;
/// let animals = Photographs::new(&Images::folder("animals")?, 64, 0)?; // one folder per class
/// let start = CreaturesNetworks::load_on(&lab.placement())?.autoencoder;
/// let networks = PhotographsNetworks::fit(&animals, &start, 4000, &lab.store())?;
/// println!("{:?}", networks.figures);
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PhotographsNetworks {
    /// The encoder E and the decoder D, fine-tuned from the ones that were given.
    pub autoencoder: ConvVae,
    /// The network under study: a small AlexNet that predicts the classes.
    pub classifier: Backbone,
    /// The independent classifier. It differs from the network under study in architecture, seed
    /// and training.
    pub independent: IndependentClassifier,
    /// Results on the held-out images (at most 1,000): the accuracy of the network under study
    /// (`accuracy`) and of the independent classifier (`independent`), and the share of reconstructions
    /// that the independent classifier assigns to the same class as the original (`kept`).
    pub figures: BTreeMap<String, f64>,
    /// The cards of the weights, by network.
    pub cards: BTreeMap<String, Card>,
}

/// The recipe of a classifier of the photographs' classes.
struct PhotographsNetwork<'a> {
    images: &'a Photographs,
    steps: u64,
    /// Whether it is the independent classifier instead of the network under study.
    is_judge: bool,
}

impl Recipe for PhotographsNetwork<'_> {
    fn plan(&self) -> Plan {
        let mut plan = match self.is_judge {
            true => Plan::independent("photographs-judge", self.steps),
            false => Plan::alexnet("photographs-classifier", self.steps),
        };
        plan.training = TrainConfig {
            batch: 32,
            learning_rate: 1e-3,
            warm_up: 50,
            weight_decay: 0.1,
            ..plan.training
        };
        plan
    }

    fn dataset(&self) -> Result<Arc<dyn Dataset>> {
        Ok(Arc::new(self.images.clone()))
    }
}

impl PhotographsNetworks {
    /// Trains all three networks and stores them in `store`; networks that are already stored
    /// are loaded. All are on the store's device. `start` is an encoder and a decoder of the images'
    /// size to fine-tune: a user's own images are rarely enough to train from random weights. E
    /// and D are trained for `steps` steps, the network under study and the independent classifier
    /// for a quarter of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than two classes, [`Error::Shape`] if `start` has another image
    /// size; otherwise as [`Recipe::train`].
    pub fn fit(images: &Photographs, start: &ConvVae, steps: u64, store: &Store) -> Result<Self> {
        let found = images.counts().iter().filter(|n| **n > 0).count();
        if found < 2 {
            return Err(Error::invalid(format!(
                "expected images of at least two classes, found {found}: put the images of each class in a folder of their own, or set the label column (`ImageColumns`; in INVARIANCES_IMAGES: file.parquet?label=COLUMN)"
            )));
        }
        let mut cards = BTreeMap::new();
        let mut train = |is_judge: bool, key: &str, what: &str| -> Result<Built> {
            let recipe = PhotographsNetwork {
                images,
                steps: (steps / 4).max(1),
                is_judge,
            };
            let fitted = recipe.train(images, &recipe.training(), store)?;
            say(&format!("{what}: {}", fitted.trained));
            cards.extend(fitted.card()?.map(|card| (key.to_string(), card)));
            Ok(fitted.network)
        };
        let classifier = train(false, "classifier", "network under study")?.into_classifier()?;
        let independent = train(true, "judge", "independent classifier")?.into_independent()?;
        let config = VaeTraining {
            network: start.config().clone(),
            training: TrainConfig {
                warm_up: 50,
                ..autoencoder_training(steps, 16)
            },
            ..VaeTraining::default()
        };
        let (autoencoder, trained) =
            config.refine(start, "photographs-autoencoder", images, None, store)?;
        say(&format!("encoder E and decoder D: {trained}"));

        let classifier = classifier.frozen()?;
        let test = images.batch(Split::Test, 0, images.len(Split::Test).min(1000))?;
        let mut figures = BTreeMap::new();
        let mut add = |name: &str, values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
            figures.insert(name.to_string(), mean);
        };
        add(
            "accuracy",
            agreement(&classifier.classify(&test.images)?, &test.labels)?,
        );
        let right = independent.right(&test.images, &test.factors)?;
        let decoded = autoencoder.reconstruct(&test.images)?;
        let same = independent.agreement(&test.images, &decoded)?;
        add("judge", right.into_values().flatten().collect());
        add("kept", same.into_values().flatten().collect());
        Ok(Self {
            autoencoder,
            classifier,
            independent,
            figures,
            cards,
        })
    }
}
