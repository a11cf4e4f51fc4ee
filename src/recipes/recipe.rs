//! [`Recipe`]: how one network is built, trained, evaluated and stored.

use super::{Architecture, Built, Plan, VaeTraining, train_perceptual};
use crate::data::{Ahead, Batch, Dataset, Split};
use crate::loss::PerceptualDistance;
use crate::ops::{Params, Placement, Rng};
use crate::train::{Card, Slot, Step, Store, TrainConfig, Trained, Trainer, pretrained};
use crate::{Error, Result};
use invariances_core::say;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How one network is trained on a dataset. [`Recipe::plan`] and [`Recipe::dataset`] state it; the
/// other methods have defaults that fit most networks. They load the shipped weights, fine-tune
/// them on other images, and train the network.
///
/// ```
/// use invariances::prelude::*;
/// use invariances::recipes::DigitsNetwork;
/// # let cache = std::env::temp_dir().join("invariances-doc-recipe");
/// let (network, digits) = (DigitsNetwork::Classifier, Digits::strokes(32, 0)?);
/// let short = TrainConfig { steps: 2, batch: 4, ..network.training() };
/// let fitted = network.train(&digits, &short, &Store::open(&cache))?;
/// assert_eq!(fitted.trained.steps, 2);
/// let classes = fitted.network.into_classifier()?.classify(&digits.batch(Split::Test, 0, 3)?.images)?;
/// assert_eq!(classes.dims(), [3]);
/// # std::fs::remove_dir_all(cache).ok();
/// # Ok::<(), invariances::Error>(())
/// ```
pub trait Recipe {
    /// Returns the network's name, architecture, training settings and independent classifier.
    fn plan(&self) -> Plan;

    /// Returns the dataset of the full training.
    ///
    /// # Errors
    /// Those of the dataset.
    fn dataset(&self) -> Result<Arc<dyn Dataset>>;

    /// Returns the network's name, the stem of its file names.
    fn name(&self) -> String {
        self.plan().name
    }

    /// Returns the settings of the full training, as used for the shipped weights.
    fn training(&self) -> TrainConfig {
        self.plan().training
    }

    /// Returns the number of held-out images of [`Recipe::evaluate`].
    fn held_out(&self) -> usize {
        2000
    }

    /// Describes the training data in words, for the card of the weights.
    fn data(&self, dataset: &dyn Dataset) -> String {
        format!("{}, training split, each image once", dataset.id())
    }

    /// Returns everything that determines the weights: the architecture, the dataset, the training
    /// settings, and the weights that the training starts from, if there are any: the hash of their
    /// file, or the configuration of the plan's first recipe. Weights are stored and found under it.
    fn configuration(&self, job: &Job) -> Value {
        job.configuration(&self.plan())
    }

    /// Computes the loss of a training step of a classifier. The images are on the network's
    /// device. An encoder E and a decoder D are trained by the [`VaeTraining`] of their plan.
    ///
    /// # Errors
    /// As [`Built::step`].
    fn step(&self, network: &Built, batch: Batch, rng: &mut Rng) -> Result<Step> {
        network.step(&batch, rng)
    }

    /// Returns the weights that the full training starts from; `None` for random weights. They are
    /// those of the plan's first recipe, which is trained in `store` for this. The network may have
    /// more parameters than there are weights.
    ///
    /// # Errors
    /// As [`Trainer::fit_in`].
    fn start(&self, store: &Store) -> Result<Option<Pretrained>> {
        let Some(first) = self.plan().first else {
            return Ok(None);
        };
        let job = Job {
            start: first.start(store)?,
            ..Job::full(&*first)?
        };
        let fitted = run(&*first, &job, store)?;
        say(&format!("{}: {}", first.name(), fitted.trained));
        let card = fitted.card()?.ok_or_else(|| fitted.unsaved())?;
        Ok(Some(Pretrained {
            network: fitted.network,
            params: fitted.params,
            card,
        }))
    }

    /// Describes the weights that the full training starts from, a part of
    /// [`Recipe::configuration`]; `None` for random weights.
    ///
    /// # Errors
    /// Those of the first recipe's dataset.
    fn describe_start(&self) -> Result<Option<Value>> {
        let Some(first) = self.plan().first else {
            return Ok(None);
        };
        Ok(Some(first.configuration(&Job::full(&*first)?)))
    }

    /// Returns the command that trains the network in full, for the card of the weights.
    fn command(&self) -> String {
        format!("cargo run --release -- retrain {}", self.name())
    }

    /// Measures a network on [`Recipe::held_out`] images of the test split. `independent` is the
    /// network of the plan's `independent`; the images are moved to `placement`, where the networks are.
    ///
    /// A classifier gets its `accuracy`, an independent classifier one per attribute. An
    /// autoencoder gets the PSNR in dB (`psnr`), the `fine structure` of reconstructions as a share
    /// of the originals' ([`fine_structure`](crate::metric::fine_structure)) and, per attribute, how often the independent
    /// classifier predicts on the reconstruction what it predicts on the original (`independent agrees`),
    /// how often this is correct (`independent right`), and how many of its correct predictions on
    /// originals stay correct on reconstructions (`independent keeps`, also over all attributes). If
    /// the independent classifier predicts classes, these are `judge_agrees` and `judge_right`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an autoencoder without an independent classifier.
    fn evaluate(
        &self,
        network: &Built,
        independent: Option<&Built>,
        dataset: &dyn Dataset,
        placement: &Placement,
    ) -> Result<BTreeMap<String, f64>> {
        let count = self.held_out();
        let size = (count / 20).max(1);
        let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        for start in (0..count).step_by(size) {
            let batch = dataset.batch(Split::Test, start as u64, size.min(count - start))?;
            for (name, values) in network.measure(independent, &placed(batch, placement)?)? {
                let sum = sums.entry(name).or_default();
                sum.0 += values.iter().sum::<f64>();
                sum.1 += values.len() as f64;
            }
        }
        let means = sums.into_iter().map(|(name, (sum, n))| (name, sum / n));
        Ok(means.collect())
    }

    /// Builds the network and loads its shipped weights.
    ///
    /// # Errors
    /// [`Error::Content`] if the shipped weights are missing: the message contains the command
    /// that trains them.
    fn load(&self, placement: &Placement) -> Result<Pretrained> {
        let plan = self.plan();
        let params = Params::with(plan.training.seed, placement.dtype, &placement.device);
        let job = Job::full(self)?;
        let network = plan.architecture.build(&*job.dataset, &params.root())?;
        let card = pretrained::load(&plan.name, &self.configuration(&job), &params)?
            .ok_or_else(|| pretrained::missing(&plan.name))?;
        Ok(Pretrained {
            network,
            params,
            card,
        })
    }

    /// Trains the network on a dataset from random weights, without a first part, and stores it in
    /// `store`. The number of steps is that of `training`, so a short version of the full training
    /// can be shown. If the plan of an autoencoder has a perceptual distance, its network is trained
    /// on the same dataset before, for the steps of the plan. A network that is already stored is
    /// loaded. The log of the result has the columns `step`,
    /// `seconds`, `loss` and others.
    ///
    /// # Errors
    /// As [`Trainer::fit_in`].
    fn train(
        &self,
        dataset: &(impl Dataset + Clone + 'static),
        training: &TrainConfig,
        store: &Store,
    ) -> Result<Fitted>
    where
        Self: Sized,
    {
        run(self, &Job::new(Arc::new(dataset.clone()), training), store)
    }

    /// Fine-tunes the shipped weights on another dataset for `steps` steps, with 0.3 times the
    /// learning rate of the full training, and stores the result in `store`. A network that is
    /// already stored is loaded.
    ///
    /// # Errors
    /// As [`Recipe::load`] and [`Trainer::fit_in`].
    fn fine_tune(
        &self,
        dataset: &(impl Dataset + Clone + 'static),
        steps: u64,
        store: &Store,
    ) -> Result<Pretrained>
    where
        Self: Sized,
    {
        let start = self.load(&store.placement())?;
        let mut job = Job::new(Arc::new(dataset.clone()), &self.training());
        job.training.steps = steps;
        job.training.learning_rate *= 0.3;
        job.start = Some(start.clone());
        let fitted = run(self, &job, store)?;
        say(&format!("{}: {}", self.name(), fitted.trained));
        Ok(Pretrained {
            card: fitted.card()?.unwrap_or(start.card),
            network: fitted.network,
            params: fitted.params,
        })
    }

    /// Trains the network in full, evaluates it on held-out images, and writes weights and card to
    /// the folder of the shipped weights ([`pretrained::folder`]). An interrupted training
    /// continues from its last checkpoint.
    ///
    /// # Errors
    /// [`Error::Content`] if the independent classifier for an autoencoder has not been trained
    /// before, or if the weights could not be saved; otherwise as [`Trainer::fit_in`].
    fn retrain(&self, store: &Store) -> Result<Card> {
        let (plan, placement) = (self.plan(), store.placement());
        let job = Job {
            start: self.start(store)?,
            ..Job::full(self)?
        };
        let fitted = run(self, &job, store)?;
        say(&format!("{}: {}", plan.name, fitted.trained));
        let independent = plan
            .independent
            .map(|independent| independent.load(&placement));
        let independent = independent
            .transpose()?
            .map(|independent| independent.network);
        let card = Card {
            configuration: fitted.slot.configuration().clone(),
            data: self.data(&*job.dataset),
            command: self.command(),
            ..fitted.card()?.ok_or_else(|| fitted.unsaved())?
        };
        let figures = self.evaluate(
            &fitted.network,
            independent.as_ref(),
            &*job.dataset,
            &placement,
        )?;
        pretrained::save(&plan.name, &Card { figures, ..card }, &fitted.params)
    }
}

/// A network with weights that were loaded, or fine-tuned from loaded ones.
#[derive(Clone, Debug)]
pub struct Pretrained {
    /// The network.
    pub network: Built,
    /// Its parameters.
    pub params: Params,
    /// How the weights were trained and the measured figures.
    pub card: Card,
}

/// A network that was trained by its recipe.
#[derive(Clone, Debug)]
pub struct Fitted {
    /// The network.
    pub network: Built,
    /// Its parameters.
    pub params: Params,
    /// The place of its weights in the store.
    pub slot: Slot,
    /// The result of the training.
    pub trained: Trained,
}

impl Fitted {
    /// Returns the card of the stored weights, or `None` if they could not be saved.
    ///
    /// # Errors
    /// As [`Slot::load`].
    pub fn card(&self) -> Result<Option<Card>> {
        self.slot.load(&self.params)
    }

    fn unsaved(&self) -> Error {
        Error::content(self.slot.folder(), "the trained weights were not saved")
    }
}

/// What a network is trained on, with which settings, and from which weights.
#[derive(Clone)]
pub struct Job {
    /// The images: the training split of this dataset.
    pub dataset: Arc<dyn Dataset>,
    /// The training settings.
    pub training: TrainConfig,
    /// The weights to start from, or `None` for random weights.
    pub start: Option<Pretrained>,
    /// The description of these weights in the configuration, if it is not the hash of their file:
    /// weights that a first part of the training makes differ from machine to machine.
    pub described: Option<Value>,
}

impl Job {
    pub(super) fn new(dataset: Arc<dyn Dataset>, training: &TrainConfig) -> Self {
        Self {
            dataset,
            training: training.clone(),
            start: None,
            described: None,
        }
    }

    /// The full training of a recipe, without the start weights themselves.
    pub(super) fn full(recipe: &(impl Recipe + ?Sized)) -> Result<Self> {
        Ok(Self {
            described: recipe.describe_start()?,
            ..Self::new(recipe.dataset()?, &recipe.training())
        })
    }

    /// Returns everything that determines the weights of a network of this architecture.
    pub(super) fn configuration(&self, plan: &Plan) -> Value {
        let architecture = &plan.architecture;
        let mut all = json!({
            "network": architecture.describe(&*self.dataset),
            "data": self.dataset.id(),
            "training": self.training,
        });
        if let Some(loss) = architecture.loss() {
            all["loss"] = loss;
        }
        if let Some(described) = &self.described {
            all["start"] = described.clone();
        } else if let Some(start) = &self.start {
            all["start"] = json!(start.card.weights);
        }
        all
    }
}

/// Trains a network, or loads it if it has been trained before. It is on the store's device.
fn run(recipe: &(impl Recipe + ?Sized), job: &Job, store: &Store) -> Result<Fitted> {
    let (plan, training) = (recipe.plan(), &job.training);
    let slot = store.slot(&plan.name, &recipe.configuration(job))?;
    let params = store.params(training.seed);
    let network = plan.architecture.build(&*job.dataset, &params.root())?;
    if let Some(start) = &job.start {
        // Parameters that the start does not have keep their initial values.
        let mut all = params.tensors();
        all.extend(start.params.tensors());
        params.set_all(&all)?;
    }
    if let (Architecture::Autoencoder(plan), Built::Autoencoder(vae)) =
        (&plan.architecture, &network)
    {
        // Weights that are only loaded need no distance.
        let perceptual = match &plan.1 {
            _ if slot.is_trained() => None,
            Some(training) => Some(train_perceptual(&job.dataset, training, store)?.0),
            None => None,
        };
        let perceptual = perceptual.as_ref().map(|p| p as &dyn PerceptualDistance);
        let vae_training = VaeTraining {
            training: training.clone(),
            ..plan.0.clone()
        };
        let pair = ((**vae).clone(), params.clone());
        let (_, trained) = vae_training.run(pair, &job.dataset, perceptual, &slot)?;
        return Ok(Fitted {
            network,
            params,
            slot,
            trained,
        });
    }
    let placement = store.placement();
    let batches = batches(&job.dataset, training.batch);
    let trained = Trainer::new(training.clone()).fit_in(&slot, &params, |n, rng| {
        recipe.step(&network, placed(batches.at(n)?, &placement)?, rng)
    })?;
    Ok(Fitted {
        network,
        params,
        slot,
        trained,
    })
}

/// Returns the batch of each training step, `size` images of the training split.
pub(super) fn batches(dataset: &(impl Dataset + Clone + 'static), size: usize) -> Ahead<Batch> {
    let dataset = dataset.clone();
    Ahead::new(move |n| dataset.batch(Split::Train, (n - 1) * size as u64, size))
}

fn placed(batch: Batch, placement: &Placement) -> Result<Batch> {
    let images = placement.take(&batch.images)?;
    Ok(Batch { images, ..batch })
}

/// Loads the shipped weights of a network and adds their card to `cards`.
pub(super) fn load_shipped(
    recipe: &impl Recipe,
    placement: &Placement,
    cards: &mut BTreeMap<String, Card>,
) -> Result<Built> {
    let loaded = recipe.load(placement)?;
    cards.insert(recipe.name(), loaded.card);
    Ok(loaded.network)
}
