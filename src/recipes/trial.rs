//! [`Trial`]: a recipe with other settings, under another name.

use super::{Architecture, Built, Job, Plan, Pretrained, Recipe, shipped};
use crate::data::{Batch, Dataset};
use crate::ops::{Params, Rng};
use crate::train::{Card, Step, Store, TrainConfig, pretrained};
use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// A recipe with other settings, whose weights have another name. So a change can be tried in the
/// full training and compared with the weights that ship, which stay as they are.
///
/// The settings are those of the recipe's [`TrainConfig`](crate::train::TrainConfig) that decide
/// results, at `training`. An encoder E and a decoder D have those of
/// [`VaeTraining`](super::VaeTraining) too, and at `perceptual` the `TrainConfig` of the perceptual
/// distance, or null for none.
///
/// ```
/// use invariances::recipes::{FacesNetwork, Recipe, Trial};
/// let changes = [("edges_weight".to_string(), "0".to_string())];
/// let trial = Trial::new(Box::new(FacesNetwork::Autoencoder), "faces-no-edges", &changes)?;
/// assert_eq!(trial.name(), "faces-no-edges");
/// let unknown = [("edge_weight".to_string(), "0".to_string())];
/// let error = Trial::new(Box::new(FacesNetwork::Autoencoder), "faces-no-edges", &unknown).err();
/// assert!(error.unwrap().to_string().contains("edges_weight"));
/// # Ok::<(), invariances::Error>(())
/// ```
pub struct Trial {
    recipe: Box<dyn Recipe>,
    name: String,
    settings: Value,
    changes: Vec<(String, String)>,
    start: Start,
}

/// The weights that a trial starts from.
enum Start {
    /// Those of the recipe.
    Own,
    /// Random ones.
    Random,
    /// Those of a network that ships, and the hash of their file.
    Shipped(Box<dyn Recipe>, String),
}

impl Trial {
    /// Creates the recipe from another one and from changes: pairs of a setting, such as
    /// `training.steps`, and a value in JSON.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown setting, with the known ones; [`Error::Invalid`] for a
    /// value that the setting cannot have, and for the name of a network that ships.
    pub fn new(recipe: Box<dyn Recipe>, name: &str, changes: &[(String, String)]) -> Result<Self> {
        if shipped().iter().any(|shipped| shipped.name() == name) {
            return Err(Error::invalid(format!(
                "{name} is the name of a network that ships: choose another name for the trial"
            )));
        }
        let known = known(&recipe.plan());
        let mut settings = settings(&recipe.plan());
        for (place, value) in changes {
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            let steps: Vec<&str> = place.split('.').collect();
            if steps
                .iter()
                .try_fold(&known, |at, step| at.get(*step))
                .is_none()
            {
                return Err(unknown(place, &known));
            }
            set(&mut settings, &steps, value.clone()).ok_or_else(|| {
                Error::invalid(format!(
                    "{place}: {} is null, so it has no settings: set it to {{}} first",
                    steps[0]
                ))
            })?;
            let mut plan = recipe.plan();
            apply(&mut plan, &settings)
                .map_err(|e| Error::invalid(format!("{place}={value}: {e}")))?;
        }
        Ok(Self {
            recipe,
            name: name.into(),
            settings,
            changes: changes.to_vec(),
            start: Start::Own,
        })
    }

    /// Starts from the shipped weights of `start`, whose parameters the network must have. Further
    /// residual blocks and the modulation of an encoder E and a decoder D do nothing at first, so a
    /// larger network starts as the same function.
    ///
    /// # Errors
    /// [`Error::Content`] if these weights do not ship.
    pub fn starting_from(mut self, start: Box<dyn Recipe>) -> Result<Self> {
        let path = pretrained::folder().join(format!("{}.json", start.name()));
        let hash = Card::read(&path)?.weights;
        self.start = Start::Shipped(start, hash);
        Ok(self)
    }

    /// Starts from random weights, also if the recipe has a first part.
    pub fn from_random(mut self) -> Self {
        self.start = Start::Random;
        self
    }

    /// Checks whether the network has every parameter of the recipe's first part, before that is
    /// trained.
    fn check_first(&self) -> Result<()> {
        let plan = self.plan();
        let Some(first) = &plan.first else {
            return Ok(());
        };
        let (own, before) = (Params::new(0), Params::new(0));
        plan.architecture.build(&*self.dataset()?, &own.root())?;
        let architecture = first.plan().architecture;
        architecture.build(&*first.dataset()?, &before.root())?;
        let own = own.tensors();
        for (name, tensor) in before.tensors() {
            let dims = own.get(&name).map(|own| own.dims());
            if dims != Some(tensor.dims()) {
                return Err(Error::invalid(format!(
                    "expected the parameter {name} {:?} of {}, with which the training starts, \
                     found {dims:?}: keep the sizes, or start from random weights \
                     (`Trial::from_random`, `--from random`)",
                    tensor.dims(),
                    first.name()
                )));
            }
        }
        Ok(())
    }
}

fn unknown(place: &str, settings: &Value) -> Error {
    let mut known = Vec::new();
    for (name, value) in settings.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(inner) => known.extend(inner.keys().map(|key| format!("{name}.{key}"))),
            None => known.push(name.clone()),
        }
    }
    Error::unknown(format!(
        "no setting {place:?}; there are {}",
        known.join(", ")
    ))
}

/// Returns the settings of a plan with everything that can be left out, so that all names are there.
fn known(plan: &Plan) -> Value {
    let every = |training: &TrainConfig| TrainConfig {
        validate_every: Some(1),
        patience: Some(1),
        ..training.clone()
    };
    let mut all = match &plan.architecture {
        Architecture::Autoencoder(of) => {
            let mut vae = of.0.clone();
            (vae.own_scale, vae.edges_weight) = (true, 1.0);
            vae.network.modulated = true;
            let mut all = json!(vae);
            all["perceptual"] = json!(every(&plan.training));
            all
        }
        _ => json!({}),
    };
    all["training"] = json!(every(&plan.training));
    all
}

/// Returns the settings of a plan.
fn settings(plan: &Plan) -> Value {
    let mut all = match &plan.architecture {
        Architecture::Autoencoder(of) => {
            let mut all = json!(of.0);
            all["perceptual"] = json!(of.1);
            all
        }
        _ => json!({}),
    };
    all["training"] = json!(plan.training);
    all
}

/// Changes a plan to these settings.
fn apply(plan: &mut Plan, settings: &Value) -> Result<()> {
    plan.training = read(&settings["training"])?;
    if let Architecture::Autoencoder(of) = &mut plan.architecture {
        of.0 = read(settings)?;
        of.1 = read(&settings["perceptual"])?;
    }
    Ok(())
}

fn read<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T> {
    serde_json::from_value(value.clone()).map_err(|e| Error::invalid(e.to_string()))
}

/// Sets a value; `None` if there is no place for it.
fn set(settings: &mut Value, steps: &[&str], value: Value) -> Option<()> {
    let (last, parents) = steps.split_last()?;
    let mut at = settings;
    for step in parents {
        at = at.as_object_mut()?.get_mut(*step)?;
    }
    at.as_object_mut()?.insert((*last).into(), value);
    Some(())
}

impl Recipe for Trial {
    fn plan(&self) -> Plan {
        let mut plan = self.recipe.plan();
        // `new` has read the same settings.
        let _ = apply(&mut plan, &self.settings);
        plan.name = self.name.clone();
        if !matches!(self.start, Start::Own) {
            plan.first = None;
        }
        plan
    }

    fn dataset(&self) -> Result<Arc<dyn Dataset>> {
        self.recipe.dataset()
    }

    fn start(&self, store: &Store) -> Result<Option<Pretrained>> {
        match &self.start {
            Start::Own => {
                self.check_first()?;
                self.recipe.start(store)
            }
            Start::Random => Ok(None),
            Start::Shipped(start, _) => Ok(Some(start.load(&store.placement())?)),
        }
    }

    fn describe_start(&self) -> Result<Option<Value>> {
        match &self.start {
            Start::Own => self.recipe.describe_start(),
            Start::Random => Ok(None),
            Start::Shipped(_, hash) => Ok(Some(json!(hash))),
        }
    }

    fn command(&self) -> String {
        let mut command = format!("{} --as {}", self.recipe.command(), self.name);
        for (place, value) in &self.changes {
            command += &format!(" --set '{place}={value}'");
        }
        match &self.start {
            Start::Own => command,
            Start::Random => command + " --from random",
            Start::Shipped(start, _) => command + " --from " + &start.name(),
        }
    }

    fn held_out(&self) -> usize {
        self.recipe.held_out()
    }

    fn data(&self, dataset: &dyn Dataset) -> String {
        self.recipe.data(dataset)
    }

    fn configuration(&self, job: &Job) -> Value {
        job.configuration(&self.plan())
    }

    fn step(&self, network: &Built, batch: Batch, rng: &mut Rng) -> Result<Step> {
        self.recipe.step(network, batch, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipes::{DigitsNetwork, FacesNetwork};

    fn trial(changes: &[(&str, &str)]) -> Result<Trial> {
        let changes = changes.iter().map(|(a, b)| (a.to_string(), b.to_string()));
        let changes: Vec<_> = changes.collect();
        Trial::new(Box::new(DigitsNetwork::Autoencoder), "other", &changes)
    }

    #[test]
    fn settings_change_the_plan_and_its_configuration() -> Result<()> {
        let changed = trial(&[
            ("network.code", "128"),
            ("network.modulated", "true"),
            ("own_scale", "true"),
            ("pixels", "Absolute"),
            ("training.steps", "7"),
            ("perceptual", r#"{"steps": 3, "batch": 8}"#),
            ("perceptual.seed", "4"),
        ])?;
        let plan = changed.plan();
        assert_eq!((plan.name.as_str(), plan.training.steps), ("other", 7));
        // What is not named stays.
        assert_eq!(
            plan.training.batch,
            DigitsNetwork::Autoencoder.training().batch
        );
        let Architecture::Autoencoder(of) = &plan.architecture else {
            panic!("{:?}", plan.architecture)
        };
        let perceptual = of.1.as_ref().expect("a perceptual distance");
        assert_eq!((of.0.network.code, of.0.network.modulated), (128, true));
        assert_eq!(
            (perceptual.steps, perceptual.batch, perceptual.seed),
            (3, 8, 4)
        );
        let job = Job {
            dataset: changed.dataset()?,
            training: plan.training.clone(),
            start: None,
            described: None,
        };
        let all = changed.configuration(&job);
        assert_eq!(all["loss"]["own_scale"], true);
        assert_eq!(all["loss"]["perceptual"]["steps"], 3);
        // The plain loss is not stated: the keys of earlier weights stay valid.
        let plain = trial(&[("training.steps", "7")])?;
        assert!(plain.configuration(&job).get("loss").is_none());
        Ok(())
    }

    /// A training from random weights has another key than the full one, which has a first part; a
    /// trial has the key of what it starts from. Sizes that do not fit the first part are refused
    /// before it is trained.
    #[test]
    fn the_start_is_a_part_of_the_key() -> Result<()> {
        let faces = FacesNetwork::Autoencoder;
        let full = faces.configuration(&Job::full(&faces)?);
        assert_eq!(full["start"]["training"]["steps"], 12_000);
        let job = Job::new(faces.dataset()?, &faces.training());
        assert!(faces.configuration(&job).get("start").is_none());
        let trial = |changes: &[(String, String)]| Trial::new(Box::new(faces), "other", changes);
        let random = trial(&[])?.from_random();
        assert!(
            random
                .configuration(&Job::full(&random)?)
                .get("start")
                .is_none()
        );
        let shipped = trial(&[])?.starting_from(Box::new(faces))?;
        let start = shipped.configuration(&Job::full(&shipped)?)["start"].clone();
        let at = crate::recipes::cpu();
        assert_eq!(start, json!(faces.load(&at)?.card.weights));
        assert!(
            shipped
                .command()
                .ends_with("--as other --from faces-autoencoder")
        );

        let wider = trial(&[("network.code".into(), "128".into())])?;
        let text = wider.start(&Store::open("nowhere")).err();
        let text = text.map(|e| e.to_string()).unwrap_or_default();
        assert!(text.contains("--from random"), "{text}");
        let text = Trial::new(Box::new(faces), "faces-judge", &[]).err();
        assert!(text.is_some_and(|e| e.to_string().contains("that ships")));
        Ok(())
    }

    #[test]
    fn unknown_settings_and_values_are_named() {
        for (place, value, expected) in [
            ("steps", "7", "training.steps"),
            ("training.step", "7", "\"training.step\""),
            ("network.code", "\"many\"", "network.code=\"many\""),
            ("pixels", "Cubed", "Cubed"),
            ("perceptual.steps", "3", "perceptual is null"),
            // A misspelt setting is not taken for one that is off.
            ("edge_weight", "0", "edges_weight"),
            ("network.modulate", "false", "network.modulated"),
            ("training.checkpoint_seconds", "1", "training.patience"),
        ] {
            let text = trial(&[(place, value)]).err().map(|e| e.to_string());
            let text = text.unwrap_or_default();
            assert!(text.contains(expected), "{place}: {text}");
        }
        let steps = [("network.code".to_string(), "3".to_string())];
        let of_a_classifier = Trial::new(Box::new(DigitsNetwork::Classifier), "other", &steps);
        assert!(of_a_classifier.is_err());
    }
}
