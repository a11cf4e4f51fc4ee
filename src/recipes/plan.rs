//! [`Plan`] and [`Architecture`]: what a recipe states about its network.

use super::{Built, Recipe, VaeTraining};
use crate::Result;
use crate::autoencoder::{ConvVae, ConvVaeConfig};
use crate::backbone::{Backbone, alexnet_small, plain_small};
use crate::data::Dataset;
use crate::metric::IndependentClassifier;
use crate::ops::Scope;
use crate::train::{Decay, TrainConfig};
use serde_json::{Value, json};

/// What a [`Recipe`] states about its network.
pub struct Plan {
    /// The network's name, the stem of its file names.
    pub name: String,
    /// What is built.
    pub architecture: Architecture,
    /// The settings of the full training, as used for the shipped weights.
    pub training: TrainConfig,
    /// The recipe of the independent classifier that evaluates an autoencoder.
    pub independent: Option<Box<dyn Recipe>>,
    /// The recipe of the weights that the training starts from, if it does not start from random
    /// ones. They need not ship: the training makes them first.
    pub first: Option<Box<dyn Recipe>>,
}

impl Plan {
    /// Creates the plan of a classifier. `build` builds it for a number of classes, and
    /// `description` identifies it.
    pub fn classifier(
        name: &str,
        steps: u64,
        description: &'static str,
        build: fn(usize, &Scope) -> Result<Backbone>,
    ) -> Self {
        Self {
            name: name.into(),
            architecture: Architecture::Classifier { description, build },
            training: TrainConfig {
                steps,
                batch: 64,
                learning_rate: 2e-3,
                clip: Some(100.0),
                ..shared()
            },
            independent: None,
            first: None,
        }
    }

    /// Creates the plan of a classifier that is the small AlexNet.
    pub(super) fn alexnet(name: &str, steps: u64) -> Self {
        Self::classifier(name, steps, "alexnet_small, width 24", |classes, at| {
            alexnet_small(24, classes, at)
        })
    }

    /// Creates the plan of an independent classifier of classes. Its seed is another than that of
    /// the network under study.
    pub(super) fn judge_of_classes(name: &str, steps: u64) -> Self {
        let mut plan = Self::classifier(name, steps, JUDGE, plain_small);
        plan.training.seed = 101;
        plan
    }

    /// Creates the plan of an independent classifier of the dataset's attributes. Its seed is
    /// another than that of the network under study.
    pub fn independent(name: &str, steps: u64) -> Self {
        Self {
            architecture: Architecture::IndependentClassifier,
            ..Self::judge_of_classes(name, steps)
        }
    }

    /// Creates the plan of an encoder E and a decoder D, which `independent` evaluates. With the
    /// settings `perceptual`, a perceptual distance is trained first, on the same dataset
    /// ([`train_perceptual`](super::train_perceptual)), and is a term of the loss.
    pub fn autoencoder(
        name: &str,
        vae: VaeTraining,
        perceptual: Option<TrainConfig>,
        independent: impl Recipe + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            training: vae.training.clone(),
            architecture: Architecture::Autoencoder(Box::new((vae, perceptual))),
            independent: Some(Box::new(independent)),
            first: None,
        }
    }

    /// Starts the training from the weights of another recipe.
    pub fn after(mut self, first: impl Recipe + 'static) -> Self {
        self.first = Some(Box::new(first));
        self
    }
}

/// The architecture of a recipe's network.
#[derive(Clone, Debug)]
pub enum Architecture {
    /// An encoder E and a decoder D, a [`ConvVae`]: its settings and the terms of its loss, and the
    /// settings of the perceptual distance that is trained for it. The training settings are those
    /// of the plan.
    Autoencoder(Box<(VaeTraining, Option<TrainConfig>)>),
    /// A classifier of the dataset's classes.
    Classifier {
        /// The description that identifies the architecture.
        description: &'static str,
        /// Builds the network for a number of classes.
        build: fn(usize, &Scope) -> Result<Backbone>,
    },
    /// An independent classifier of the dataset's attributes: [`plain_small`], trained on images
    /// of which half are blurred and noisy.
    IndependentClassifier,
}

/// The description of an independent classifier.
const JUDGE: &str = "plain_small, blurred and noisy images";

impl Architecture {
    /// Returns the description of the architecture for a dataset, a part of
    /// [`Recipe::configuration`].
    pub fn describe(&self, dataset: &dyn Dataset) -> Value {
        match self {
            Self::Autoencoder(plan) => json!(plan.0.network),
            Self::Classifier { description, .. } => json!(description),
            Self::IndependentClassifier => {
                let attributes = dataset.attributes();
                let questions: Vec<_> = attributes.iter().map(|a| (&a.name, &a.cuts)).collect();
                match questions.len() {
                    // A single attribute is the class, which the dataset's name determines.
                    1 => json!(JUDGE),
                    _ => json!({"network": JUDGE, "questions": questions}),
                }
            }
        }
    }

    /// Describes the loss, a part of [`Recipe::configuration`]; `None` for the plain loss of the
    /// kind of network.
    pub(super) fn loss(&self) -> Option<Value> {
        let Self::Autoencoder(plan) = self else {
            return None;
        };
        let (vae, perceptual) = &**plan;
        let terms = vae.terms();
        if terms.is_none() && perceptual.is_none() {
            return None;
        }
        let mut all = terms.unwrap_or_else(|| json!({}));
        all["perceptual"] = json!(perceptual);
        Some(all)
    }

    /// Builds the network for a dataset, with the initial values of its parameters.
    ///
    /// # Errors
    /// Those of the network's constructor.
    pub fn build(&self, dataset: &dyn Dataset, at: &Scope) -> Result<Built> {
        Ok(match self {
            Self::Autoencoder(plan) => {
                Built::Autoencoder(Box::new(ConvVae::new(&plan.0.network, at)?))
            }
            Self::Classifier { build, .. } => {
                Built::Classifier(build(dataset.classes().len(), at)?)
            }
            Self::IndependentClassifier => Built::IndependentClassifier(independent(dataset, at)?),
        })
    }
}

/// Builds an independent classifier of a dataset's attributes.
pub(super) fn independent(dataset: &dyn Dataset, at: &Scope) -> Result<IndependentClassifier> {
    let attributes = dataset.attributes();
    let outputs = attributes.iter().map(|a| a.answers.len()).sum();
    IndependentClassifier::new(&plain_small(outputs, at)?, &attributes)
}

/// The settings that all trainings share.
fn shared() -> TrainConfig {
    TrainConfig {
        betas: (0.9, 0.99),
        decay: Decay::Cosine { floor: 0.01 },
        warm_up: 100,
        ..TrainConfig::default()
    }
}

/// Settings to train an encoder E and a decoder D further, with a perceptual distance and edges in
/// the loss, each with a scale of its own ([`VaeTraining::own_scale`]). `first` are the settings of
/// the training before, which needs no other network: the weights of a plain loss are near enough
/// that a larger network, whose further blocks do nothing at first, goes on from there.
pub(super) fn sharpened(first: &VaeTraining, steps: u64) -> (VaeTraining, TrainConfig) {
    let vae = VaeTraining {
        network: ConvVaeConfig {
            encoder_blocks: [1, 1, 2],
            decoder_blocks: [1, 2, 2],
            modulated: true,
            ..first.network.clone()
        },
        own_scale: true,
        edges_weight: 0.3,
        training: TrainConfig {
            warm_up: 200,
            ..autoencoder_training(steps, 32)
        },
        ..VaeTraining::default()
    };
    let perceptual = TrainConfig {
        steps: 1200,
        batch: 64,
        learning_rate: 2e-3,
        ..shared()
    };
    (vae, perceptual)
}

/// Settings to train an encoder E and a decoder D.
pub(super) fn autoencoder_training(steps: u64, batch: usize) -> TrainConfig {
    TrainConfig {
        steps,
        batch,
        learning_rate: 1e-3,
        ema: Some(0.999),
        ..shared()
    }
}
