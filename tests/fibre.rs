//! The fibre loss: samples come nearer to their z than by training further without it.

use invariances::interpret::FibreTuning;
use invariances::loss::nll;
use invariances::ops::scalar;
use invariances::prelude::*;
use invariances::{Error, Result};

/// Mean squared distance of the images of samples to z, in variances of z, and the negative
/// log-density of held-out codes.
fn measure(t: &Cinn, vae: &ConvVae, pool: &Greybox, held: &Codes) -> Result<(f64, f64)> {
    let (code, z) = held.draw(200, &mut Rng::new(1))?;
    let images = vae.images_of(&t.sample(&z, 1, &mut Rng::new(2))?)?;
    let found = pool.encode(&images.clamp(-1f32, 1f32)?)?.flatten_from(1)?;
    let apart = (found - z.flatten_from(1)?)?.sqr()?.sum(1)?.mean(0)?;
    let variance = held.z().flatten_from(1)?.var(0)?.sum_all()?;
    let (v, logdet) = t.forward(&code, &z)?;
    Ok((
        scalar(&apart)? / scalar(&variance)?,
        scalar(&nll(&v, &logdet)?)?,
    ))
}

#[test]
fn samples_come_nearer_to_their_z() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
    let (store, digits) = (Store::open(folder.path()), Digits::strokes(32, 0)?);
    let networks = DigitsNetworks::load(&digits, 0, &store)?;
    let (vae, pool) = (
        networks.autoencoder,
        networks.classifier.frozen()?.at("pool")?,
    );
    let codes = Codes::of(&vae, &pool, &digits, Split::Train, 1000)?;
    let held = Codes::of(&vae, &pool, &digits, Split::Test, 300)?;
    let of = CinnTraining {
        flows: 4,
        training: TrainConfig {
            steps: 150,
            batch: 64,
            ..CinnTraining::default().training
        },
        ..CinnTraining::default()
    };
    let tuned = |weight: f64| -> Result<_> {
        let tuning = FibreTuning {
            weight,
            training: TrainConfig {
                steps: 60,
                ..of.training.clone()
            },
            ..FibreTuning::default()
        };
        tuning.fit("t", &of, &codes, &vae, &pool, &store)
    };
    let (plain, _) = of.fit("t", &codes, &store)?;
    let before = measure(&plain, &vae, &pool, &held)?;
    let without = measure(&tuned(0.0)?.0, &vae, &pool, &held)?;
    let (t, trained) = tuned(20.0)?;
    let with = measure(&t, &vae, &pool, &held)?;
    println!("(distance, nll): before {before:?}, without the term {without:?}, with it {with:?}");
    assert!(with.0 < 0.8 * without.0, "{with:?} {without:?}");
    assert!(!trained.reused);
    // The same settings load the result; those of another decoder do not.
    let (again, trained) = tuned(20.0)?;
    assert!(trained.reused);
    assert_eq!(measure(&again, &vae, &pool, &held)?, with);
    let other = ConvVae::new(&Default::default(), &Params::new(7).root())?;
    let tuning = FibreTuning {
        training: TrainConfig {
            steps: 1,
            ..of.training.clone()
        },
        ..FibreTuning::default()
    };
    tuning.fit("t", &of, &codes, &vae, &pool, &store)?;
    let (_, trained) = tuning.fit("t", &of, &codes, &other, &pool, &store)?;
    assert!(!trained.reused);
    Ok(())
}

#[test]
fn wrong_settings_are_refused() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("temporary folder", e))?;
    let (store, digits) = (Store::open(folder.path()), Digits::strokes(32, 0)?);
    let vae = ConvVae::new(&Default::default(), &Params::new(0).root())?;
    let blind = Custom::new("blind")
        .layer("mean", |x: &Tensor| x.flatten_from(2)?.mean(2))
        .without_gradient("made so");
    let mean = Greybox::new(&blind, "mean")?;
    let codes = Codes::of(&vae, &mean, &digits, Split::Train, 8)?;
    let brief = TrainConfig {
        steps: 1,
        batch: 4,
        ..CinnTraining::default().training
    };
    let of = CinnTraining {
        flows: 1,
        training: brief.clone(),
        ..CinnTraining::default()
    };
    for (weight, samples, says) in [
        (-1.0, 4, "weight of at least 0"),
        (f64::NAN, 4, "weight of at least 0"),
        (1.0, 0, "at least 1 sample"),
        (1.0, 4, "gradient"),
    ] {
        let tuning = FibreTuning {
            weight,
            samples,
            training: brief.clone(),
        };
        match tuning.fit("t", &of, &codes, &vae, &mean, &store) {
            Ok(_) => panic!("expected an error that says {says:?}"),
            Err(error) => assert!(error.to_string().contains(says), "{error}"),
        }
    }
    Ok(())
}
