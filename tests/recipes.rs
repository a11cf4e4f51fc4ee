//! Recipes: their shipped weights, the keys of stored weights, and fine-tuning.

use invariances::prelude::*;
use invariances::recipes::shipped;
use invariances::recipes::{Built, DigitsNetwork};
use invariances::{Error, Result};

/// Every shipped network loads, and its configuration has the keys that stored weights have.
#[test]
fn every_shipped_network_loads() -> Result<()> {
    let placement = Store::open("trained").placement();
    for recipe in shipped() {
        let loaded = recipe.load(&placement)?;
        assert_eq!(loaded.card.name, recipe.name());
        assert_eq!(loaded.card.training, recipe.training());
        // Only the digits' configuration states that the training started from random weights, and
        // only that of a training with two parts states the first one.
        let start = loaded.card.configuration.get("start");
        let first = recipe.plan().first.map(|first| first.training().steps);
        let stated = start.and_then(|start| start["training"]["steps"].as_u64());
        assert_eq!(stated, first, "{}", recipe.name());
        let states = recipe.name().starts_with("digits") || first.is_some();
        assert_eq!(start.is_some(), states);
        let small = recipe.dataset()?.batch(Split::Test, 0, 2)?;
        let finite = match &loaded.network {
            Built::Autoencoder(vae) => vae.reconstruct(&small.images)?,
            Built::Classifier(network) => network.forward(&small.images)?,
            Built::IndependentClassifier(independent) => {
                independent.network().forward(&small.images)?
            }
        };
        assert!(values(&finite)?.iter().all(|v| v.is_finite()));
    }
    Ok(())
}

/// Fine-tuning starts from the shipped weights, and is stored under their hash.
#[test]
fn fine_tuning_starts_from_the_shipped_weights() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    let store = Store::open(folder.path());
    let digits = Digits::strokes(32, 1)?;
    let recipe = DigitsNetwork::Classifier;
    let shipped = recipe.load(&store.placement())?;
    let tuned = recipe.fine_tune(&digits, 1, &store)?;
    let training = &tuned.card.training;
    let full = recipe.training();
    assert_eq!((training.steps, training.batch), (1, full.batch));
    assert!((training.learning_rate / full.learning_rate - 0.3).abs() < 1e-9);
    assert_eq!(
        tuned.card.configuration["start"],
        shipped.card.weights.as_str()
    );
    // One step in the warm-up changes the weights by little, random weights would differ by more.
    let x = digits.batch(Split::Test, 0, 50)?;
    let accuracy = |network: Built| -> Result<f64> {
        let right = agreement(&network.into_classifier()?.classify(&x.images)?, &x.labels)?;
        Ok(right.iter().sum::<f64>() / right.len() as f64)
    };
    let (before, after) = (accuracy(shipped.network)?, accuracy(tuned.network)?);
    assert!(
        before > 0.8 && (before - after).abs() < 0.2,
        "{before} {after}"
    );
    let short = TrainConfig {
        steps: 1,
        batch: 2,
        ..full
    };
    let fitted = recipe.train(&digits, &short, &store)?;
    assert!(fitted.slot.configuration()["start"].is_null());
    let text = fitted.network.into_independent().unwrap_err().to_string();
    assert!(text.contains("found a classifier"), "{text}");
    Ok(())
}
