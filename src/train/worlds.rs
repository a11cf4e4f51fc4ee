//! The networks for the synthetic datasets of faces and creatures: their architectures, their
//! training settings, and their results on held-out images.

use super::{Card, Decay, Step, Store, TrainConfig, Trainer, pretrained};
use crate::autoencoder::{Autoencoder, ConvVae, ConvVaeConfig};
use crate::backbone::{Backbone, Mode, Network, alexnet_small, facenet_small, plain_small};
use crate::data::{Ahead, Creatures, Faces, Split, World};
use crate::loss::vae_loss;
use crate::metric::{Judge, agreement, psnr};
use crate::ops::widened as wide;
use crate::ops::{Params, Placement, Rng};
use crate::{Error, Result};
use candle_core::{DType, Device};
use invariances_core::say;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Side of the images in pixels.
const SIZE: usize = 64;
/// The seed of the data that the shipped networks are trained on.
const SEED: u64 = 0;
/// Number of people that the shipped recogniser distinguishes.
const PEOPLE: u32 = 200;

/// The networks that ship for faces and creatures of 64 px.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorldNetwork {
    /// The independent classifier of faces: predicts glasses, beard, smile and other factors of
    /// variation.
    FacesJudge,
    /// Recognises people: a small FaceNet, the network under study.
    FacesRecogniser,
    /// The encoder E and the decoder D of faces.
    FacesAutoencoder,
    /// The independent classifier of creatures: predicts shape, texture and facing direction.
    CreaturesJudge,
    /// Predicts the class of creatures in their natural textures: a small AlexNet, the network
    /// under study.
    CreaturesClassifier,
    /// The encoder E and the decoder D of creatures in any texture.
    CreaturesAutoencoder,
}

/// A network under construction, with its parameters.
struct Building {
    params: Params,
    network: Built,
}

enum Built {
    Vae(Box<ConvVae>),
    Classifier(Backbone),
    Judge(Judge),
}

impl WorldNetwork {
    /// Returns all networks in training order: the independent classifiers are needed to evaluate
    /// the autoencoders.
    pub fn all() -> Vec<Self> {
        vec![
            Self::FacesJudge,
            Self::FacesRecogniser,
            Self::FacesAutoencoder,
            Self::CreaturesJudge,
            Self::CreaturesClassifier,
            Self::CreaturesAutoencoder,
        ]
    }

    /// Returns the stem of the network's file names.
    pub fn name(self) -> String {
        match self {
            Self::FacesJudge => "faces-judge",
            Self::FacesRecogniser => "faces-recogniser",
            Self::FacesAutoencoder => "faces-autoencoder",
            Self::CreaturesJudge => "creatures-judge",
            Self::CreaturesClassifier => "creatures-classifier",
            Self::CreaturesAutoencoder => "creatures-autoencoder",
        }
        .into()
    }

    /// Returns the settings of the full training, as used for the shipped weights.
    pub fn training(self) -> TrainConfig {
        let training = TrainConfig {
            betas: (0.9, 0.99),
            decay: Decay::Cosine { floor: 0.01 },
            warm_up: 100,
            ..TrainConfig::default()
        };
        match self {
            Self::FacesAutoencoder | Self::CreaturesAutoencoder => TrainConfig {
                steps: if self == Self::FacesAutoencoder {
                    12_000
                } else {
                    9000
                },
                batch: 16,
                learning_rate: 1e-3,
                ema: Some(0.999),
                ..training
            },
            Self::FacesJudge | Self::CreaturesJudge => TrainConfig {
                // The factors of a face, such as lines and a smile, are harder to recognise.
                steps: if self == Self::FacesJudge { 4000 } else { 1500 },
                batch: 64,
                learning_rate: 2e-3,
                clip: Some(100.0),
                seed: 101,
                ..training
            },
            Self::FacesRecogniser | Self::CreaturesClassifier => TrainConfig {
                steps: if self == Self::FacesRecogniser {
                    2500
                } else {
                    1500
                },
                batch: 64,
                learning_rate: 2e-3,
                clip: Some(100.0),
                ..training
            },
        }
    }

    /// Returns the training dataset.
    fn world(self) -> Result<Arc<dyn World>> {
        Ok(match self {
            Self::FacesJudge | Self::FacesAutoencoder => Arc::new(Faces::new(SIZE, SEED)?),
            Self::FacesRecogniser => Arc::new(Faces::new(SIZE, SEED)?.people(PEOPLE)?),
            Self::CreaturesClassifier => Arc::new(Creatures::new(SIZE, SEED)?),
            // The independent classifier must not infer the texture from the shape or the shape
            // from the texture, and D must not learn a fixed pairing. So both are trained on
            // stylized images.
            Self::CreaturesJudge | Self::CreaturesAutoencoder => {
                Arc::new(Creatures::new(SIZE, SEED)?.stylized())
            }
        })
    }

    fn vae(self) -> ConvVaeConfig {
        ConvVaeConfig {
            size: SIZE,
            code: if self == Self::FacesAutoencoder {
                96
            } else {
                128
            },
            ..ConvVaeConfig::default()
        }
    }

    fn configuration(self) -> Result<Value> {
        let network = match self {
            Self::FacesAutoencoder | Self::CreaturesAutoencoder => json!(self.vae()),
            Self::FacesJudge | Self::CreaturesJudge => {
                let attributes = self.world()?.attributes();
                let questions: Vec<_> = attributes.iter().map(|a| (&a.name, &a.cuts)).collect();
                json!({"network": "plain_small, blurred and noisy images", "questions": questions})
            }
            Self::FacesRecogniser => json!("facenet_small"),
            Self::CreaturesClassifier => json!("alexnet_small, width 24"),
        };
        Ok(json!({
            "network": network,
            "data": self.world()?.id(),
            "training": self.training(),
        }))
    }

    fn build(self, placement: &Placement) -> Result<Building> {
        let params = Params::with(self.training().seed, placement.dtype, &placement.device);
        let at = params.root();
        let network = match self {
            Self::FacesAutoencoder | Self::CreaturesAutoencoder => {
                Built::Vae(Box::new(ConvVae::new(&self.vae(), &at)?))
            }
            Self::FacesJudge | Self::CreaturesJudge => {
                let attributes = self.world()?.attributes();
                let outputs = attributes.iter().map(|a| a.answers.len()).sum();
                Built::Judge(Judge::new(&plain_small(outputs, &at)?, &attributes)?)
            }
            Self::FacesRecogniser => Built::Classifier(facenet_small(PEOPLE as usize, &at)?),
            Self::CreaturesClassifier => Built::Classifier(alexnet_small(24, 10, &at)?),
        };
        Ok(Building { params, network })
    }

    /// Builds the network on a device and loads the shipped weights.
    fn shipped(self, placement: &Placement, cards: &mut BTreeMap<String, Card>) -> Result<Built> {
        let building = self.build(placement)?;
        let name = self.name();
        let card = pretrained::load(&name, &self.configuration()?, &building.params)?;
        let card = card.ok_or_else(|| pretrained::missing(&name))?;
        cards.insert(name, card);
        Ok(building.network)
    }

    /// Trains the network in full, evaluates it on 2,000 held-out images, and writes weights and
    /// card to the folder of the shipped weights. An interrupted training continues from its last
    /// checkpoint.
    ///
    /// # Errors
    /// [`Error::Content`] if the independent classifier for an autoencoder has not been trained
    /// before, or if the weights could not be saved; otherwise as [`Trainer::fit_in`].
    pub fn retrain(self, store: &Store) -> Result<Card> {
        let (training, configuration) = (self.training(), self.configuration()?);
        let slot = store.slot(&self.name(), &configuration)?;
        let placement = store.placement();
        let building = self.build(&placement)?;
        let world = self.world()?;
        let size = training.batch;
        let batches = Ahead::new({
            let world = world.clone();
            move |n| world.batch(Split::Train, (n - 1) * size as u64, size)
        });
        let trained = Trainer::new(training).fit_in(&slot, &building.params, |n, rng| {
            let batch = batches.at(n)?;
            building.network.step(&batch, &placement, rng)
        })?;
        say(&format!("{}: {trained}", self.name()));
        let mut cards = BTreeMap::new();
        let judge = match self {
            Self::FacesAutoencoder => Some(Self::FacesJudge.shipped(&placement, &mut cards)?),
            Self::CreaturesAutoencoder => {
                Some(Self::CreaturesJudge.shipped(&placement, &mut cards)?)
            }
            _ => None,
        };
        let mut card = slot
            .load(&building.params)?
            .ok_or_else(|| Error::content(slot.folder(), "the trained weights were not saved"))?;
        card.configuration = configuration;
        card.data = format!("{}, training split, each image once", world.id());
        let count = 2000;
        card.figures = building
            .network
            .figures(judge.as_ref(), &*world, count, &placement)?;
        card.command = format!("cargo run --release -- retrain {}", self.name());
        pretrained::save(&self.name(), &card, &building.params)
    }
}

impl Built {
    fn step(
        &self,
        batch: &crate::data::Batch,
        placement: &Placement,
        rng: &mut Rng,
    ) -> Result<Step> {
        let images = placement.take(&batch.images)?;
        match self {
            Self::Vae(vae) => {
                let posterior = vae.encode(&images)?;
                let decoded = vae.decode(&posterior.sample(rng)?)?;
                let parts = vae_loss(&images, &decoded, &posterior, &vae.gamma())?;
                Ok(Step::new(parts.loss)
                    .with_tensor("mse", &parts.mse)
                    .with_tensor("kl", &parts.kl))
            }
            Self::Judge(judge) => Ok(Step::new(
                judge.loss(&super::roughen(&images, rng)?, &batch.factors)?,
            )),
            Self::Classifier(network) => {
                let logits = network.with_mode(Mode::Training).forward(&images)?;
                let right = agreement(&logits.argmax(1)?, &batch.labels)?;
                let right = right.iter().sum::<f64>() / right.len().max(1) as f64;
                let labels = batch.labels.to_device(logits.device())?;
                let loss = candle_nn::loss::cross_entropy(&wide(&logits)?, &labels)?;
                Ok(Step::new(loss).with("accuracy", right))
            }
        }
    }

    /// Measures the network on `count` held-out images. A classifier gets its accuracy, the
    /// independent classifier one accuracy per attribute. E and D get the PSNR in dB and, per
    /// attribute, how often the independent classifier predicts on the reconstruction what it
    /// predicts on the original (`agrees`), how often this is correct (`right`), and how many of
    /// its correct predictions on originals stay correct on reconstructions (`keeps`).
    fn figures(
        &self,
        judge: Option<&Built>,
        world: &dyn World,
        count: usize,
        placement: &Placement,
    ) -> Result<BTreeMap<String, f64>> {
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        let mut add = |name: &str, values: &[f64]| {
            let sum = sums.entry(name.into()).or_default();
            sum.0 += values.iter().sum::<f64>();
            sum.1 += values.len() as f64;
        };
        for start in (0..count).step_by(100) {
            let batch = world.batch(Split::Test, start as u64, 100.min(count - start))?;
            let images = placement.take(&batch.images)?;
            match (self, judge) {
                (Self::Classifier(network), _) => {
                    let predicted = network.classify(&images)?;
                    add("accuracy", &agreement(&predicted, &batch.labels)?);
                }
                (Self::Judge(judge), _) => {
                    for (name, right) in judge.right(&images, &batch.factors)? {
                        add(&format!("accuracy {name}"), &right);
                    }
                }
                (Self::Vae(vae), Some(Self::Judge(judge))) => {
                    let decoded = vae.reconstruct(&images)?;
                    add("psnr", &psnr(&images, &decoded)?);
                    for (name, same) in judge.agreement(&images, &decoded)? {
                        add(&format!("judge agrees {name}"), &same);
                    }
                    let before = judge.right(&images, &batch.factors)?;
                    for (name, after) in judge.right(&decoded, &batch.factors)? {
                        add(&format!("judge right {name}"), &after);
                        // Only images whose original is classified correctly count, so attributes
                        // that the classifier cannot recognise at all have no influence.
                        let pairs = before[&name].iter().zip(&after);
                        let still_right: Vec<f64> =
                            pairs.filter(|(b, _)| **b > 0.0).map(|(_, a)| *a).collect();
                        add(&format!("judge keeps {name}"), &still_right);
                        add("judge keeps", &still_right);
                    }
                }
                (Self::Vae(_), _) => return Err(internal()),
            }
        }
        let means = sums.into_iter().map(|(name, (sum, n))| (name, sum / n));
        Ok(means.collect())
    }
}

/// f32 on the CPU.
fn cpu() -> Placement {
    Placement {
        device: Device::Cpu,
        dtype: DType::F32,
    }
}

/// An error that is impossible unless this module has a bug.
fn internal() -> Error {
    Error::invalid("internal error: unexpected type of network; please report this bug")
}

fn vae(built: Built) -> Result<ConvVae> {
    match built {
        Built::Vae(vae) => Ok(*vae),
        _ => Err(internal()),
    }
}

fn classifier(built: Built) -> Result<Backbone> {
    match built {
        Built::Classifier(network) => Ok(network),
        _ => Err(internal()),
    }
}

fn judge(built: Built) -> Result<Judge> {
    match built {
        Built::Judge(judge) => Ok(judge),
        _ => Err(internal()),
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
    /// [`Error::Content`] if they are missing: the message contains the command that trains them.
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
        let mut load = |network: WorldNetwork| network.shipped(placement, &mut cards);
        Ok(Self {
            autoencoder: vae(load(WorldNetwork::FacesAutoencoder)?)?,
            recogniser: classifier(load(WorldNetwork::FacesRecogniser)?)?,
            judge: judge(load(WorldNetwork::FacesJudge)?)?,
            people: Faces::new(SIZE, SEED)?.people(PEOPLE)?,
            cards,
        })
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
    /// [`Error::Content`] if they are missing: the message contains the command that trains them.
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
        let mut load = |network: WorldNetwork| network.shipped(placement, &mut cards);
        Ok(Self {
            autoencoder: vae(load(WorldNetwork::CreaturesAutoencoder)?)?,
            classifier: classifier(load(WorldNetwork::CreaturesClassifier)?)?,
            judge: judge(load(WorldNetwork::CreaturesJudge)?)?,
            cards,
        })
    }
}
