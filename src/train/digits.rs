//! The networks for the digits in colour: what they are, how they are trained, how good they are.

use super::{Card, Decay, Slot, Step, Store, TrainConfig, Trainer, pretrained};
use crate::autoencoder::{Autoencoder, ConvVae, ConvVaeConfig};
use crate::backbone::{Backbone, Network, plain_small, squeezenet_small};
use crate::data::{Digits, Split, World};
use crate::loss::vae_loss;
use crate::metric::{agreement, psnr};
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

/// The three networks of the digits' notebooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigitsNetwork {
    /// E and D: a [`ConvVae`].
    Autoencoder,
    /// The network under study: a small SqueezeNet.
    Classifier,
    /// Another network, of another build, seed and training, that judges what a picture shows.
    Judge,
}

impl DigitsNetwork {
    /// All three, in the order in which they are trained: the judge rates the autoencoder.
    pub fn all() -> Vec<Self> {
        vec![Self::Classifier, Self::Judge, Self::Autoencoder]
    }

    /// The name of its files.
    pub fn name(self) -> String {
        match self {
            Self::Autoencoder => "digits-autoencoder",
            Self::Classifier => "digits-classifier",
            Self::Judge => "digits-judge",
        }
        .into()
    }

    /// Its full training, that of the shipped weights.
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

/// E, D, the classifier under study and the judge.
#[derive(Clone, Debug)]
pub struct DigitsNetworks {
    /// E and D.
    pub autoencoder: ConvVae,
    /// The network under study, a small SqueezeNet; its penultimate layer is `pool`.
    pub classifier: Backbone,
    /// Another network that judges what a picture shows.
    pub judge: Backbone,
    cards: BTreeMap<String, Card>,
}

/// What is being trained, with its parameters.
struct Building {
    params: Params,
    vae: Option<ConvVae>,
    chain: Option<Backbone>,
}

fn build(network: DigitsNetwork, seed: u64) -> Result<Building> {
    let params = Params::new(seed);
    let at = params.root();
    Ok(match network {
        DigitsNetwork::Autoencoder => {
            let vae = Some(ConvVae::new(&ConvVaeConfig::default(), &at)?);
            Building {
                params,
                vae,
                chain: None,
            }
        }
        DigitsNetwork::Classifier => Building {
            chain: Some(squeezenet_small(10, &at)?),
            params,
            vae: None,
        },
        DigitsNetwork::Judge => Building {
            chain: Some(plain_small(10, &at)?),
            params,
            vae: None,
        },
    })
}

/// Half of the batches as they are, the others blurred and noisy: a judge of decoded pictures must not
/// take a soft edge for another digit.
pub(super) fn roughen(images: &Tensor, rng: &mut Rng) -> Result<Tensor> {
    if rng.f32() < 0.5 {
        return Ok(images.clone());
    }
    let (blur, noise) = (f64::from(rng.f32()), f64::from(rng.range(0.0, 0.2)));
    // Edge pixels keep their value: a padded mean would draw a dark frame.
    let inner = images.dims()[2] - 2;
    let soft = avg_pool2d(images, PoolConfig::new(3, 1))?
        .pad_with_same(2, 1, 1)?
        .pad_with_same(3, 1, 1)?;
    debug_assert_eq!(soft.dims()[2], inner + 2);
    let grain = rng.normal(images.shape(), images.device())?;
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
    match (&building.vae, &building.chain) {
        (Some(vae), _) => {
            let posterior = vae.encode(&batch.images)?;
            let decoded = vae.decode(&posterior.sample(rng)?)?;
            let parts = vae_loss(&batch.images, &decoded, &posterior, &vae.gamma())?;
            Ok(Step::new(parts.loss)
                .with_tensor("mse", &parts.mse)
                .with_tensor("kl", &parts.kl))
        }
        (None, Some(chain)) => {
            let images = match network {
                DigitsNetwork::Judge => roughen(&batch.images, rng)?,
                _ => batch.images,
            };
            let logits = chain.forward(&images)?;
            let right = agreement(&logits.argmax(1)?, &batch.labels)?;
            let right = right.iter().sum::<f64>() / right.len().max(1) as f64;
            Ok(
                Step::new(candle_nn::loss::cross_entropy(&logits, &batch.labels)?)
                    .with("accuracy", right),
            )
        }
        (None, None) => Err(Error::invalid("nothing to train")),
    }
}

/// Trains one network on `digits` with `training`, from `start` where it is given, and keeps it in `slot`;
/// one that is there already is taken as it is.
fn fit(
    network: DigitsNetwork,
    digits: &Digits,
    training: &TrainConfig,
    slot: &Slot,
    start: Option<&Params>,
) -> Result<Building> {
    let building = build(network, training.seed)?;
    if let Some(start) = start {
        building.params.set_all(&start.tensors())?;
    }
    let trained = Trainer::new(training.clone()).fit_in(slot, &building.params, |n, rng| {
        step(network, &building, digits, training.batch, n, rng)
    })?;
    say(&format!("{}: {trained}", network.name()));
    Ok(building)
}

/// How good a network is on `count` held-out images: accuracy; for E and D the PSNR in dB and the share of
/// reconstructions that the judge names as it names the original.
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
        if let Some(chain) = &building.chain {
            add(
                "accuracy",
                &agreement(&chain.classify(&batch.images)?, &batch.labels)?,
            );
        }
        if let (Some(vae), Some(judge)) = (&building.vae, judge) {
            let decoded = vae.reconstruct(&batch.images)?;
            add("psnr", &psnr(&batch.images, &decoded)?);
            add(
                "judge_agrees",
                &agreement(&judge.classify(&decoded)?, &judge.classify(&batch.images)?)?,
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
    /// The networks for `digits`: those that ship with the project, where `digits` are the procedural ones;
    /// for other digits (MNIST, say) the shipped ones trained on for `adapt` steps and kept in `store`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for images of another size than 32 px, or where the shipped weights are missing:
    /// the message has the command that trains them.
    pub fn load(digits: &Digits, adapt: u64, store: &Store) -> Result<Self> {
        if digits.size() != SIZE {
            return Err(Error::invalid(format!(
                "the shipped networks take digits of {SIZE} px, found {} px: make the digits with size {SIZE}",
                digits.size()
            )));
        }
        let home = Digits::strokes(SIZE, SEED)?;
        let mut cards = BTreeMap::new();
        let mut take = |network: DigitsNetwork| -> Result<Building> {
            let training = network.training();
            let building = build(network, training.seed)?;
            let name = network.name();
            let configuration = network.configuration(&home, &training, None);
            let card = pretrained::load(&name, &configuration, &building.params)?.ok_or_else(|| {
                Error::invalid(format!(
                    "no weights of {name} for this version's configuration in {}: train them with `cargo run --release -- retrain {name}`",
                    pretrained::folder().display()
                ))
            })?;
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
                    "{name}: the shipped weights, trained on for {adapt} steps on these digits"
                ));
                let adapted = fit(network, digits, &training, &slot, Some(&building.params))?;
                cards.insert(name, slot.load(&adapted.params)?.unwrap_or(card));
                return Ok(adapted);
            }
            cards.insert(name, card);
            Ok(building)
        };
        let none = || Error::invalid("a network of another kind was built");
        Ok(Self {
            classifier: take(DigitsNetwork::Classifier)?.chain.ok_or_else(none)?,
            judge: take(DigitsNetwork::Judge)?.chain.ok_or_else(none)?,
            autoencoder: take(DigitsNetwork::Autoencoder)?.vae.ok_or_else(none)?,
            cards,
        })
    }

    /// What is known about the weights, by network: how they were made and how good they are.
    pub fn cards(&self) -> Vec<Card> {
        self.cards.values().cloned().collect()
    }

    /// Trains one of the networks on `digits` from its start for as many steps as `training` says, kept in
    /// `store`: the full training in short, to look at. Returns its log (`step`, `seconds`, `loss` …).
    pub fn train(
        network: DigitsNetwork,
        digits: &Digits,
        training: &TrainConfig,
        store: &Store,
    ) -> Result<super::Trained> {
        let building = build(network, training.seed)?;
        let slot = store.slot(
            &network.name(),
            &network.configuration(digits, training, None),
        )?;
        Trainer::new(training.clone()).fit_in(&slot, &building.params, |n, rng| {
            step(network, &building, digits, training.batch, n, rng)
        })
    }

    /// Trains a shipped network in full, rates it on 5,000 held-out images and writes weights and card to the
    /// shipped folder. An interrupted training goes on from its last checkpoint.
    pub fn retrain(network: DigitsNetwork, store: &Store) -> Result<Card> {
        let home = Digits::strokes(SIZE, SEED)?;
        let training = network.training();
        let configuration = network.configuration(&home, &training, None);
        let slot = store.slot(&network.name(), &configuration)?;
        let building = fit(network, &home, &training, &slot, None)?;
        let judge = match network {
            DigitsNetwork::Autoencoder => {
                let judge = build(DigitsNetwork::Judge, DigitsNetwork::Judge.training().seed)?;
                let training = DigitsNetwork::Judge.training();
                let configuration = DigitsNetwork::Judge.configuration(&home, &training, None);
                let found =
                    pretrained::load(&DigitsNetwork::Judge.name(), &configuration, &judge.params)?;
                found.ok_or_else(|| {
                    Error::invalid("the judge rates E and D: train it first with `cargo run --release -- retrain digits-judge`")
                })?;
                judge.chain
            }
            _ => None,
        };
        let mut card = slot
            .load(&building.params)?
            .ok_or_else(|| Error::invalid("the training did not finish"))?;
        card.configuration = configuration;
        card.data =
            "digits in colour, procedural: Digits::strokes(32, 0), training split, each image once"
                .into();
        card.figures = figures(&building, judge.as_ref(), &home, 5000)?;
        card.command = format!("cargo run --release -- retrain {}", network.name());
        pretrained::save(&network.name(), &card, &building.params)
    }
}
