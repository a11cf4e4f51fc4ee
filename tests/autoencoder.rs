//! Autoencoders, losses and distances against the original networks' answers (weights by rule, see `common`).

mod common;

use common::{assert_close, fill, input, reference, state_dict};
use invariances::autoencoder::{Autoencoder, IinVae, IinVaeConfig};
use invariances::backbone::Mode;
use invariances::candle_core::{DType, Device, Tensor, Var};
use invariances::loss::{PatchDiscriminator, adversarial_weight};
use invariances::metric::frechet_distance;
use invariances::ops::{Params, Rng};
use invariances::{Error, Result};
use std::collections::HashMap;

fn check_names(params: &Params, manifest: &str, name: &str) -> Result<()> {
    let mut expected = state_dict(manifest, name)?;
    expected.retain(|(n, _)| !n.ends_with("num_batches_tracked"));
    let mut names: Vec<_> = params
        .tensors()
        .into_iter()
        .map(|(n, t)| (n, t.dims().to_vec()))
        .collect();
    names.sort();
    assert_eq!(names, expected, "{name}");
    Ok(())
}

#[test]
fn the_small_vae_answers_as_the_original() -> Result<()> {
    let params = Params::new(0);
    let vae = IinVae::new(&IinVaeConfig::default(), &params.root())?;
    check_names(&params, "manifest_flows.json", "autoencoder32")?;
    fill(&params, &HashMap::new())?;
    let stored = reference("autoencoder32")?;
    let posterior = vae.encode(&stored["x"])?;
    assert_close("mean", &posterior.mode(), &stored["mean"], 1e-4)?;
    assert_close("logvar", &posterior.logvar(), &stored["logvar"], 1e-4)?;
    assert_close("kl", &posterior.kl()?, &stored["kl"], 1e-4)?;
    let decoded = vae.decode(&posterior.mode())?;
    assert_close("decoded", &decoded, &stored["decoded_mode"], 1e-4)
}

#[test]
fn the_small_vae_starts_from_data_and_trains() -> Result<()> {
    let config = IinVaeConfig {
        width: 8,
        code: 12,
        ..IinVaeConfig::default()
    };
    let params = Params::new(0);
    let vae = IinVae::new(&config, &params.root())?;
    let x = Rng::new(1).normal((6, 3, 32, 32), &Device::Cpu)?;
    vae.initialize(&x)?;
    let posterior = vae.encode(&x)?;
    let decoded = vae.decode(&posterior.sample(&mut Rng::new(2))?)?;
    assert_eq!(decoded.dims(), x.dims());
    let gradients = ((x - decoded)?.sqr()?.sum_all()? + posterior.kl()?.sum_all()?)?.backward()?;
    for (name, var) in params.trained() {
        let gradient = gradients.get(&var);
        let gradient = gradient.ok_or_else(|| Error::invalid(format!("{name}: no gradient")))?;
        assert!(
            gradient.abs()?.sum_all()?.to_scalar::<f32>()? > 0.0,
            "{name}"
        );
    }
    for wrong in [
        IinVaeConfig {
            size: 36,
            ..IinVaeConfig::default()
        },
        IinVaeConfig {
            down: 0,
            ..IinVaeConfig::default()
        },
        IinVaeConfig {
            down: 99,
            ..IinVaeConfig::default()
        },
    ] {
        let text = IinVae::new(&wrong, &Params::new(0).root())
            .unwrap_err()
            .to_string();
        assert!(text.contains("can be halved"), "{text}");
    }
    let text = vae
        .encode(&Tensor::zeros((1, 3, 16, 16), DType::F32, &Device::Cpu)?)
        .unwrap_err();
    assert!(text.to_string().contains("(batch, 3, 32, 32)"), "{text}");
    Ok(())
}

#[test]
fn the_discriminator_answers_as_the_original() -> Result<()> {
    let params = Params::new(0);
    let discriminator = PatchDiscriminator::new(&params.root())?;
    check_names(&params, "manifest_flows.json", "discriminator")?;
    fill(&params, &HashMap::new())?;
    let stored = reference("discriminator")?;
    let logits = discriminator.logits(&stored["x"])?;
    assert_close("logits", &logits, &stored["logits"], 1e-4)
}

/// Its loss is its definition, for large logits too, and goes to the discriminator alone; the generator's goes to the images.
#[test]
fn each_adversary_has_its_gradient() -> Result<()> {
    let params = Params::new(0);
    let discriminator = PatchDiscriminator::new(&params.root())?.with_mode(Mode::Training);
    let x = Rng::new(1).normal((3, 3, 32, 32), &Device::Cpu)?;
    let decoded = Var::from_tensor(&input("decoded", &[3, 3, 32, 32], 1.0)?)?;
    let loss = discriminator.loss(&x, &decoded)?;
    let softplus = |t: &Tensor, sign: f64| -> Result<f64> {
        let all = t.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let sum: f64 = all.iter().map(|v| (1.0 + (sign * v).exp()).ln()).sum();
        Ok(sum / all.len() as f64)
    };
    let real = softplus(&discriminator.logits(&x)?, -1.0)?;
    let fake = softplus(&discriminator.logits(&decoded)?, 1.0)?;
    let expected = 0.5 * (real + fake);
    assert!((f64::from(loss.to_scalar::<f32>()?) - expected).abs() < 1e-5);
    let gradients = loss.backward()?;
    assert!(gradients.get(&decoded).is_none());
    for (name, var) in params.trained() {
        assert!(gradients.get(&var).is_some(), "{name}");
    }
    let gradients = discriminator.generator_loss(&decoded)?.backward()?;
    assert!(gradients.get(&decoded).is_some());
    // 3·‖1‖ over 2·‖1‖, at a layer of four numbers; nothing over something; capped.
    let layer = Var::ones(4, DType::F32, &Device::Cpu)?;
    let losses = |by: f64| (layer.as_tensor() * by)?.sum_all();
    let weight = adversarial_weight(&losses(3.0)?, &losses(2.0)?, &layer)?;
    assert!((weight - 6.0 / (4.0 + 1e-4)).abs() < 1e-6, "{weight}");
    assert_eq!(
        adversarial_weight(&losses(3e8)?, &losses(1e-12)?, &layer)?,
        1e4
    );
    let other = Var::ones(1, DType::F32, &Device::Cpu)?.sum_all()?;
    let text = adversarial_weight(&losses(1.0)?, &other, &layer)
        .unwrap_err()
        .to_string();
    assert!(text.contains("generator's"), "{text}");
    Ok(())
}

#[test]
fn the_frechet_distance_is_the_reference() -> Result<()> {
    let stored = reference("frechet")?;
    for (name, b) in [("fid_ab", "b"), ("fid_ac", "c_rank_deficient")] {
        let expected = stored[name]
            .to_dtype(DType::F64)?
            .flatten_all()?
            .to_vec1::<f64>()?[0];
        let found = frechet_distance(&stored["a"], &stored[b])?;
        assert!(
            (found - expected).abs() < 1e-5 * expected,
            "{name}: {found}, expected {expected}"
        );
    }
    let bad = (&stored["a"] * f64::NAN)?;
    let text = frechet_distance(&bad, &stored["b"])
        .unwrap_err()
        .to_string();
    assert!(text.contains("finite"), "{text}");
    let one = stored["a"].narrow(0, 0, 1)?;
    let text = frechet_distance(&one, &stored["b"])
        .unwrap_err()
        .to_string();
    assert!(text.contains("at least two"), "{text}");
    Ok(())
}
