//! The networks for the coloured digits: their architectures, their training settings, and their
//! accuracy on held-out images. They ship with the project, can be fine-tuned on other digits,
//! and can be retrained.

use super::{Card, Decay, Slot, Step, Store, TrainConfig, Trainer, pretrained};
use crate::autoencoder::{Autoencoder, ConvVae, ConvVaeConfig};
use crate::backbone::{Backbone, Network, plain_small, squeezenet_small};
use crate::data::{Digits, Split, World};
use crate::loss::vae_loss;
use crate::metric::{agreement, psnr};
use crate::ops::widened as wide;
use crate::ops::{Params, PoolConfig, Rng, avg_pool2d};
use crate::{Error, Result};
use candle_core::Tensor;
use invariances_core::say;
use serde_json::json;
use std::collections::BTreeMap;

/// Side of the images in pixels.
const SIZE: usize = 32;
/// The seed of the data that the shipped networks are trained on.
const SEED: u64 = 0;

/// The three networks of the notebooks on digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigitsNetwork {
    /// The encoder E and the decoder D: a [`ConvVae`].
    Autoencoder,
    /// The network under study: a small SqueezeNet.
    Classifier,
    /// The independent classifier. It differs from the network under study in architecture, seed
    /// and training, and takes no part in making the images that it classifies.
    Judge,
}

impl DigitsNetwork {
    /// Returns all three networks in training order: the independent classifier is needed to
    /// evaluate the autoencoder.
    pub fn all() -> Vec<Self> {
        vec![Self::Classifier, Self::Judge, Self::Autoencoder]
    }

    /// Returns the stem of the network's file names.
    pub fn name(self) -> String {
        match self {
            Self::Autoencoder => "digits-autoencoder",
            Self::Classifier => "digits-classifier",
            Self::Judge => "digits-judge",
        }
        .into()
    }

    /// Returns the settings of the full training, as used for the shipped weights.
    pub fn training(self) -> TrainConfig {
        let training = TrainConfig {
            betas: (0.9, 0.99),
            clip: Some(100.0),
            decay: Decay::Cosine { floor: 0.01 },
            warm_up: 100,
            ..TrainConfig::default()
        };
        match self {
            Self::Autoencoder => TrainConfig {
                steps: 14_000,
                batch: 32,
                learning_rate: 1e-3,
                clip: None,
                ema: Some(0.999),
                ..training
            },
            Self::Classifier => TrainConfig {
                steps: 4000,
                batch: 64,
                learning_rate: 2e-3,
                ..training
            },
            Self::Judge => TrainConfig {
                steps: 3000,
                batch: 64,
                learning_rate: 2e-3,
                seed: 101,
                ..training
            },
        }
    }

    fn configuration(
        self,
        digits: &Digits,
        training: &TrainConfig,
        start: Option<&Card>,
    ) -> serde_json::Value {
        let network = match self {
            Self::Autoencoder => json!(ConvVaeConfig::default()),
            Self::Classifier => json!("squeezenet_small"),
            Self::Judge => json!("plain_small, blurred and noisy images"),
        };
        json!({
            "network": network,
            "data": digits.id(),
            "training": training,
            "start": start.map(|card| card.weights.clone()),
        })
    }
}

/// The encoder E, the decoder D, the classifier under study and the independent classifier.
#[derive(Clone, Debug)]
pub struct DigitsNetworks {
    /// The encoder E and the decoder D.
    pub autoencoder: ConvVae,
    /// The network under study, a small SqueezeNet. Its penultimate layer is `pool`.
    pub classifier: Backbone,
    /// The independent classifier, which evaluates reconstructions and samples.
    pub judge: Backbone,
    cards: BTreeMap<String, Card>,
}

/// A network under construction, with its parameters.
struct Building {
    params: Params,
    vae: Option<ConvVae>,
    backbone: Option<Backbone>,
}

/// An error that is impossible unless this module has a bug.
fn internal() -> Error {
    Error::invalid("internal error: unexpected type of network; please report this bug")
}

fn build(network: DigitsNetwork, seed: u64, store: &Store) -> Result<Building> {
    let params = store.params(seed);
    let at = params.root();
    Ok(match network {
        DigitsNetwork::Autoencoder => {
            let vae = Some(ConvVae::new(&ConvVaeConfig::default(), &at)?);
            Building {
                params,
                vae,
                backbone: None,
            }
        }
        DigitsNetwork::Classifier => Building {
            backbone: Some(squeezenet_small(10, &at)?),
            params,
            vae: None,
        },
        DigitsNetwork::Judge => Building {
            backbone: Some(plain_small(10, &at)?),
            params,
            vae: None,
        },
    })
}

/// Returns half of the batches unchanged and makes the other half blurred and noisy. The
/// independent classifier is applied to reconstructions, so it must not confuse a blurred edge
/// with another digit.
pub(super) fn roughen(images: &Tensor, rng: &mut Rng) -> Result<Tensor> {
    if rng.f32() < 0.5 {
        return Ok(images.clone());
    }
    let (blur, noise) = (f64::from(rng.f32()), f64::from(rng.range(0.0, 0.2)));
    // Edge pixels keep their value: a mean with zero padding would draw a dark frame.
    let inner = images.dims()[2] - 2;
    let soft = avg_pool2d(images, PoolConfig::new(3, 1))?
        .pad_with_same(2, 1, 1)?
        .pad_with_same(3, 1, 1)?;
    debug_assert_eq!(soft.dims()[2], inner + 2);
    let grain = rng
        .normal(images.shape(), images.device())?
        .to_dtype(images.dtype())?;
    Ok(((images * (1.0 - blur))? + (soft * blur)? + (grain * noise)?)?)
}

fn step(
    network: DigitsNetwork,
    building: &Building,
    digits: &Digits,
    batch: usize,
    step: u64,
    rng: &mut Rng,
) -> Result<Step> {
    let batch = digits.batch(Split::Train, (step - 1) * batch as u64, batch)?;
    let images = building.params.placement().take(&batch.images)?;
    match (&building.vae, &building.backbone) {
        (Some(vae), _) => {
            let posterior = vae.encode(&images)?;
            let decoded = vae.decode(&posterior.sample(rng)?)?;
            let parts = vae_loss(&images, &decoded, &posterior, &vae.gamma())?;
            Ok(Step::new(parts.loss)
                .with_tensor("mse", &parts.mse)
                .with_tensor("kl", &parts.kl))
        }
        (None, Some(backbone)) => {
            let images = match network {
                DigitsNetwork::Judge => roughen(&images, rng)?,
                _ => images,
            };
            let logits = backbone.forward(&images)?;
            let right = agreement(&logits.argmax(1)?, &batch.labels)?;
            let right = right.iter().sum::<f64>() / right.len().max(1) as f64;
            let labels = batch.labels.to_device(logits.device())?;
            let loss = candle_nn::loss::cross_entropy(&wide(&logits)?, &labels)?;
            Ok(Step::new(loss).with("accuracy", right))
        }
        (None, None) => Err(internal()),
    }
}

/// Trains one network on `digits` with the settings `training` and stores it in `slot`. Training
/// starts from `start` if it is given. A network that is already in the slot is loaded and not
/// trained again. The network is on the device of `store`.
fn fit(
    network: DigitsNetwork,
    digits: &Digits,
    training: &TrainConfig,
    (store, slot): (&Store, &Slot),
    start: Option<&Params>,
) -> Result<Building> {
    let building = build(network, training.seed, store)?;
    if let Some(start) = start {
        building.params.set_all(&start.tensors())?;
    }
    let trained = Trainer::new(training.clone()).fit_in(slot, &building.params, |n, rng| {
        step(network, &building, digits, training.batch, n, rng)
    })?;
    say(&format!("{}: {trained}", network.name()));
    Ok(building)
}

/// Measures a network on `count` held-out images. A classifier gets its accuracy. E and D get the
/// PSNR in dB, the share of reconstructions that the independent classifier assigns to the same
/// class as the original (`judge_agrees`), and the share that it assigns to the true class
/// (`judge_right`).
fn figures(
    building: &Building,
    judge: Option<&Backbone>,
    digits: &Digits,
    count: usize,
) -> Result<BTreeMap<String, f64>> {
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    let mut add = |name: &str, values: &[f64]| {
        let sum = sums.entry(name.into()).or_default();
        sum.0 += values.iter().sum::<f64>();
        sum.1 += values.len() as f64;
    };
    for start in (0..count).step_by(250) {
        let batch = digits.batch(Split::Test, start as u64, 250.min(count - start))?;
        let images = building.params.placement().take(&batch.images)?;
        if let Some(backbone) = &building.backbone {
            add(
                "accuracy",
                &agreement(&backbone.classify(&images)?, &batch.labels)?,
            );
        }
        if let (Some(vae), Some(judge)) = (&building.vae, judge) {
            let decoded = vae.reconstruct(&images)?;
            add("psnr", &psnr(&images, &decoded)?);
            add(
                "judge_agrees",
                &agreement(&judge.classify(&decoded)?, &judge.classify(&images)?)?,
            );
            add(
                "judge_right",
                &agreement(&judge.classify(&decoded)?, &batch.labels)?,
            );
        }
    }
    Ok(sums
        .into_iter()
        .map(|(name, (sum, n))| (name, sum / n))
        .collect())
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
        let strokes = Digits::strokes(SIZE, SEED)?;
        let mut cards = BTreeMap::new();
        let mut load = |network: DigitsNetwork| -> Result<Building> {
            let training = network.training();
            let building = build(network, training.seed, store)?;
            let name = network.name();
            let configuration = network.configuration(&strokes, &training, None);
            let card = pretrained::load(&name, &configuration, &building.params)?
                .ok_or_else(|| pretrained::missing(&name))?;
            if digits.len(Split::Train).is_some() {
                let training = TrainConfig {
                    steps: adapt,
                    learning_rate: training.learning_rate * 0.3,
                    ..training
                };
                let slot = store.slot(
                    &name,
                    &network.configuration(digits, &training, Some(&card)),
                )?;
                say(&format!(
                    "{name}: fine-tuning the shipped weights for {adapt} steps on these digits"
                ));
                let adapted = fit(
                    network,
                    digits,
                    &training,
                    (store, &slot),
                    Some(&building.params),
                )?;
                cards.insert(name, slot.load(&adapted.params)?.unwrap_or(card));
                return Ok(adapted);
            }
            cards.insert(name, card);
            Ok(building)
        };
        Ok(Self {
            classifier: load(DigitsNetwork::Classifier)?
                .backbone
                .ok_or_else(internal)?,
            judge: load(DigitsNetwork::Judge)?.backbone.ok_or_else(internal)?,
            autoencoder: load(DigitsNetwork::Autoencoder)?.vae.ok_or_else(internal)?,
            cards,
        })
    }

    /// Returns the cards of the weights, one per network: how they were trained and the measured
    /// figures.
    pub fn cards(&self) -> Vec<Card> {
        self.cards.values().cloned().collect()
    }

    /// Trains one of the networks on `digits` from random weights and stores it in `store`. The
    /// number of steps is that of `training`, so a short version of the full training can be
    /// shown. The log of the result has the columns `step`, `seconds`, `loss` and others.
    ///
    /// # Errors
    /// As [`Trainer::fit_in`].
    pub fn train(
        network: DigitsNetwork,
        digits: &Digits,
        training: &TrainConfig,
        store: &Store,
    ) -> Result<super::Trained> {
        let building = build(network, training.seed, store)?;
        let slot = store.slot(
            &network.name(),
            &network.configuration(digits, training, None),
        )?;
        Trainer::new(training.clone()).fit_in(&slot, &building.params, |n, rng| {
            step(network, &building, digits, training.batch, n, rng)
        })
    }

    /// Trains a shipped network in full, evaluates it on 5,000 held-out images, and writes
    /// weights and card to the folder of the shipped weights. An interrupted training continues
    /// from its last checkpoint.
    ///
    /// # Errors
    /// [`Error::Content`] if the independent classifier for the autoencoder has not been trained
    /// before, or if the weights could not be saved; otherwise as [`Trainer::fit_in`].
    pub fn retrain(network: DigitsNetwork, store: &Store) -> Result<Card> {
        let strokes = Digits::strokes(SIZE, SEED)?;
        let training = network.training();
        let configuration = network.configuration(&strokes, &training, None);
        let slot = store.slot(&network.name(), &configuration)?;
        let building = fit(network, &strokes, &training, (store, &slot), None)?;
        let judge = match network {
            DigitsNetwork::Autoencoder => {
                let training = DigitsNetwork::Judge.training();
                let judge = build(DigitsNetwork::Judge, training.seed, store)?;
                let configuration = DigitsNetwork::Judge.configuration(&strokes, &training, None);
                let found =
                    pretrained::load(&DigitsNetwork::Judge.name(), &configuration, &judge.params)?;
                found.ok_or_else(|| pretrained::missing(&DigitsNetwork::Judge.name()))?;
                judge.backbone
            }
            _ => None,
        };
        let mut card = slot
            .load(&building.params)?
            .ok_or_else(|| Error::content(slot.folder(), "the trained weights were not saved"))?;
        card.configuration = configuration;
        card.data =
            "digits in colour, procedural: Digits::strokes(32, 0), training split, each image once"
                .into();
        card.figures = figures(&building, judge.as_ref(), &strokes, 5000)?;
        card.command = format!("cargo run --release -- retrain {}", network.name());
        pretrained::save(&network.name(), &card, &building.params)
    }
}
