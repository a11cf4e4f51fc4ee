//! The networks for a user's own images. No weights ship for them: all of them are trained on
//! these images.

use super::{Card, Decay, Step, Store, TrainConfig, Trainer, VaeTraining};
use crate::autoencoder::ConvVae;
use crate::backbone::{Backbone, Mode, Network, alexnet_small, plain_small};
use crate::data::{Ahead, Photographs, Split, World};
use crate::metric::{Judge, agreement};
use crate::ops::widened as wide;
use crate::{Error, Result};
use invariances_core::say;
use serde_json::json;
use std::collections::BTreeMap;

/// The encoder E, the decoder D, a network to study and an independent classifier for
/// [`Photographs`], all trained on these images.
///
/// ```no_run
/// use invariances::prelude::*;
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
    pub judge: Judge,
    /// Results on the held-out images (at most 1,000): the accuracy of the network under study
    /// (`accuracy`) and of the independent classifier (`judge`), and the share of reconstructions
    /// that the independent classifier assigns to the same class as the original (`kept`).
    pub figures: BTreeMap<String, f64>,
    /// The cards of the weights, by network.
    pub cards: BTreeMap<String, Card>,
}

fn training(steps: u64, batch: usize, seed: u64) -> TrainConfig {
    TrainConfig {
        steps,
        batch,
        learning_rate: 1e-3,
        betas: (0.9, 0.99),
        decay: Decay::Cosine { floor: 0.01 },
        warm_up: 50,
        clip: Some(100.0),
        weight_decay: 0.1,
        seed,
        ..TrainConfig::default()
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
    /// size; otherwise as [`Trainer::fit_in`].
    pub fn fit(images: &Photographs, start: &ConvVae, steps: u64, store: &Store) -> Result<Self> {
        let classes = images.classes().len();
        let found = images.counts().iter().filter(|n| **n > 0).count();
        if found < 2 {
            return Err(Error::invalid(format!(
                "expected images of at least two classes, found {found}: put the images of each class in a folder of their own, or set the label column (`ImageColumns`; in INVARIANCES_IMAGES: file.parquet?label=COLUMN)"
            )));
        }
        let quarter = (steps / 4).max(1);
        let mut cards = BTreeMap::new();

        let config = training(quarter, 32, 0);
        let params = store.params(config.seed);
        let classifier = alexnet_small(24, classes, &params.root())?;
        let slot = store.slot(
            "photographs-classifier",
            &json!({"network": "alexnet_small, width 24", "data": images.id(), "training": config}),
        )?;
        let batches = ahead(images, config.batch);
        let trained = Trainer::new(config).fit_in(&slot, &params, |n, _| {
            let batch = batches.at(n)?;
            let logits = classifier
                .with_mode(Mode::Training)
                .forward(&batch.images)?;
            let labels = batch.labels.to_device(logits.device())?;
            let loss = candle_nn::loss::cross_entropy(&wide(&logits)?, &labels)?;
            Ok(Step::new(loss))
        })?;
        say(&format!("network under study: {trained}"));
        cards.extend(slot.load(&params)?.map(|c| ("classifier".to_string(), c)));

        let config = training(quarter, 32, 101);
        let params = store.params(config.seed);
        let judge = Judge::new(&plain_small(classes, &params.root())?, &images.attributes())?;
        let slot = store.slot(
            "photographs-judge",
            &json!({"network": "plain_small, blurred and noisy images", "data": images.id(), "training": config}),
        )?;
        let batches = ahead(images, config.batch);
        let trained = Trainer::new(config).fit_in(&slot, &params, |n, rng| {
            let batch = batches.at(n)?;
            let images = super::roughen(&params.placement().take(&batch.images)?, rng)?;
            Ok(Step::new(judge.loss(&images, &batch.factors)?))
        })?;
        say(&format!("independent classifier: {trained}"));
        cards.extend(slot.load(&params)?.map(|c| ("judge".to_string(), c)));

        let config = VaeTraining {
            network: start.config().clone(),
            training: TrainConfig {
                clip: None,
                ema: Some(0.999),
                weight_decay: 0.0,
                ..training(steps, 16, 0)
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
        let right = judge.right(&test.images, &test.factors)?;
        let decoded = crate::autoencoder::Autoencoder::reconstruct(&autoencoder, &test.images)?;
        let same = judge.agreement(&test.images, &decoded)?;
        add("judge", right.into_values().flatten().collect());
        add("kept", same.into_values().flatten().collect());
        Ok(Self {
            autoencoder,
            classifier,
            judge,
            figures,
            cards,
        })
    }
}

fn ahead(images: &Photographs, size: usize) -> Ahead<crate::data::Batch> {
    let images = images.clone();
    Ahead::new(move |n| images.batch(Split::Train, (n - 1) * size as u64, size))
}
