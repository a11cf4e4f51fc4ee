//! [`Trial`]: a recipe with other settings, under another name.

use super::{Architecture, Built, Job, Plan, Pretrained, Recipe};
use crate::data::{Batch, Dataset};
use crate::ops::Rng;
use crate::train::{Step, Store};
use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// A recipe with other settings, whose weights have another name. So a change can be tried in the
/// full training and compared with the weights that ship, which stay as they are.
///
/// The settings are those of the recipe's [`TrainConfig`](crate::train::TrainConfig), at
/// `training`. An encoder E and a decoder D have those of [`VaeTraining`](super::VaeTraining) too,
/// and at `perceptual` the `TrainConfig` of the perceptual distance, or null for none.
///
/// ```
/// use invariances::recipes::{FacesNetwork, Recipe, Trial};
/// let changes = [("network.code".to_string(), "128".to_string())];
/// let trial = Trial::new(Box::new(FacesNetwork::Autoencoder), "faces-128", &changes)?;
/// assert_eq!(trial.name(), "faces-128");
/// let unknown = [("network.codes".to_string(), "128".to_string())];
/// let error = Trial::new(Box::new(FacesNetwork::Autoencoder), "faces-128", &unknown).err();
/// assert!(error.unwrap().to_string().contains("network.codes"));
/// # Ok::<(), invariances::Error>(())
/// ```
pub struct Trial {
    recipe: Box<dyn Recipe>,
    name: String,
    settings: Value,
    start: Option<Box<dyn Recipe>>,
}

impl Trial {
    /// Creates the recipe from another one and from changes: pairs of a setting, such as
    /// `training.steps`, and a value in JSON.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown setting, with the known ones; [`Error::Invalid`] for a
    /// value that the setting cannot have.
    pub fn new(recipe: Box<dyn Recipe>, name: &str, changes: &[(String, String)]) -> Result<Self> {
        let mut settings = settings(&recipe.plan());
        for (place, value) in changes {
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            let steps: Vec<&str> = place.split('.').collect();
            set(&mut settings, &steps, value.clone()).ok_or_else(|| unknown(place, &settings))?;
            let mut plan = recipe.plan();
            apply(&mut plan, &settings)
                .map_err(|e| Error::invalid(format!("{place}={value}: {e}")))?;
            // A setting that the plan does not have is dropped when the plan is read. One that is
            // off or absent is not written.
            let read = self::settings(&plan);
            let kept = settings_at(&read, &steps);
            let off = [json!(false), json!(0), json!(0.0), Value::Null].contains(&value);
            if kept.is_none() && !off {
                return Err(unknown(place, &self::settings(&recipe.plan())));
            }
        }
        Ok(Self {
            recipe,
            name: name.into(),
            settings,
            start: None,
        })
    }

    /// Starts from the shipped weights of `start`, whose parameters the network must have. Further
    /// residual blocks and the modulation of an encoder E and a decoder D do nothing at first, so a
    /// larger network starts as the same function.
    pub fn starting_from(mut self, start: Box<dyn Recipe>) -> Self {
        self.start = Some(start);
        self
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

fn settings_at<'a>(settings: &'a Value, steps: &[&str]) -> Option<&'a Value> {
    steps.iter().try_fold(settings, |at, step| at.get(*step))
}

impl Recipe for Trial {
    fn plan(&self) -> Plan {
        let mut plan = self.recipe.plan();
        // `new` has read the same settings.
        let _ = apply(&mut plan, &self.settings);
        plan.name = self.name.clone();
        if self.start.is_some() {
            plan.first = None;
        }
        plan
    }

    fn dataset(&self) -> Result<Arc<dyn Dataset>> {
        self.recipe.dataset()
    }

    fn start(&self, store: &Store) -> Result<Option<Pretrained>> {
        match &self.start {
            Some(start) => Ok(Some(start.load(&store.placement())?)),
            None => self.recipe.start(store),
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
    use crate::recipes::DigitsNetwork;

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
        };
        let all = changed.configuration(&job);
        assert_eq!(all["loss"]["own_scale"], true);
        assert_eq!(all["loss"]["perceptual"]["steps"], 3);
        // The plain loss is not stated: the keys of earlier weights stay valid.
        let plain = trial(&[("training.steps", "7")])?;
        assert!(plain.configuration(&job).get("loss").is_none());
        Ok(())
    }

    #[test]
    fn unknown_settings_and_values_are_named() {
        for (place, value, expected) in [
            ("steps", "7", "training.steps"),
            ("training.step", "7", "\"training.step\""),
            ("network.code", "\"many\"", "network.code=\"many\""),
            ("pixels", "Cubed", "Cubed"),
            ("perceptual.steps", "3", "perceptual"),
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
