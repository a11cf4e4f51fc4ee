//! What the fibre loss changes: the paper's t for the layers of notebook 05, before and after fine-tuning with several weights, and
//! samples of each after refinement.
//!
//! `cargo bench --bench fibre -- fc6,fc7 0,3,10` measures these layers and weights and adds a line to
//! `out=FOLDER` (by default `target/fibre`) for each. Weight 0 trains further with the log-density alone, a
//! control for the additional steps; `-` is t before. Options: `images=300`, `steps=300`, `seed=0`.

mod common;

use common::arguments;
use invariances::interpret::{Certificate, CertificateConfig, FibreTuning, Fidelity, RefineConfig};
use invariances::loss::nll;
use invariances::notebook::Subject;
use invariances::ops::scalar;
use invariances::prelude::*;
use invariances::{Error, Result};
use std::path::PathBuf;

/// Originals whose samples are refined.
const REFINED: usize = 40;
const PER_IMAGE: usize = 8;

fn main() -> Result<()> {
    let (mut layers, mut weights) = (vec!["fc6".to_string()], vec!["-".to_string()]);
    let (mut out, mut images, mut steps, mut seed) = (PathBuf::from("target/fibre"), 300, 300, 0);
    for (i, argument) in arguments().into_iter().enumerate() {
        let wrong = |_| Error::invalid(format!("wrong argument {argument}"));
        let list = || argument.split(',').map(String::from).collect();
        match argument.split_once('=') {
            Some(("out", folder)) => out = folder.into(),
            Some(("images", value)) => images = value.parse().map_err(wrong)?,
            Some(("steps", value)) => steps = value.parse().map_err(wrong)?,
            Some(("seed", value)) => seed = value.parse().map_err(wrong)?,
            _ if i == 0 => layers = list(),
            _ => weights = list(),
        }
    }
    std::fs::create_dir_all(&out).ok();
    let lab = Lab::open("05_layers")?;
    let subject = Subject::creatures()?;
    let (store, dataset, vae) = (lab.store(), &subject.dataset, &subject.autoencoder);
    let names: Vec<&str> = layers.iter().map(String::as_str).collect();
    let greyboxes = subject.network.at_each(&names)?;
    let codes = Codes::of_all(vae, &greyboxes, dataset, Split::Train, 16_000)?;
    let held = Codes::of_all(vae, &greyboxes, dataset, Split::Validation, 2000)?;
    let test = dataset.batch(Split::Test, 0, images)?;
    let decoded = vae.reconstruct(&test.images)?;
    // The paper's flow, with the settings of notebook 05 before it had flow matching.
    let of = CinnTraining {
        training: TrainConfig {
            steps: 2000,
            patience: Some(3),
            seed,
            ..CinnTraining::default().training
        },
        ..CinnTraining::default()
    };
    let file = out.join("fibre.csv");
    for (((layer, greybox), codes), held) in names.iter().zip(&greyboxes).zip(&codes).zip(&held) {
        let name = format!("{}-t-{layer}", subject.name);
        let z = greybox.encode(&test.images)?;
        for weight in &weights {
            let t = match weight.parse::<f64>() {
                Err(_) => of.fit(&name, codes, &store)?.0,
                Ok(weight) => {
                    let tuning = FibreTuning {
                        weight,
                        training: TrainConfig {
                            steps,
                            seed,
                            validate_every: Some((steps / 10).max(1)),
                            ..FibreTuning::default().training
                        },
                        ..FibreTuning::default()
                    };
                    tuning.fit(&name, &of, codes, vae, greybox, &store)?.0
                }
            };
            let t = t.detached();
            let (code, z_held) = held.draw(2000, &mut Rng::named(0, "held out"))?;
            let (v, logdet) = t.forward(&code, &z_held)?;
            let nats = scalar(&nll(&v, &logdet)?)?;
            let config = CertificateConfig {
                ranked: 8,
                control_steps: 0,
                ..CertificateConfig::brief()
            };
            let certificate =
                Certificate::with_codes(&t, &held.sample(&mut Rng::new(0))?, &held.z(), &config)?;
            let picks = certificate.tests().accuracy().estimate();
            let samples = Samples::draw(&t, vae, &z, PER_IMAGE, &mut Rng::new(seed))?;
            let fidelity = Fidelity::of(greybox, &z, &decoded, &samples)?;
            let some: Vec<u32> = (0..REFINED.min(images) as u32).collect();
            let refined =
                samples
                    .select(&some)?
                    .refine(&t, vae, &fidelity, &RefineConfig::default())?;
            println!("{layer}, {weight}: {refined}");
            let fidelity = fidelity.with("refined", refined.samples())?;
            let floor = mean(fidelity.floor()) / mean(fidelity.ceiling());
            let of = |method: &str| -> Result<String> {
                let estimate = fidelity.multiple(method, 0)?.estimate();
                Ok(format!(
                    "{:.3},{:.3},{:.3}",
                    estimate.mean, estimate.low, estimate.high
                ))
            };
            let row = format!(
                "{layer},{weight},{nats:.2},{:.4},{:.4},{:.4},{:.3},{floor:.3},{},{},{:.3}",
                picks.mean,
                picks.low,
                picks.high,
                certificate.tests().mean_square(),
                of("samples")?,
                of("refined")?,
                refined.reached(0).estimate().mean
            );
            println!("{row}");
            let mut text = std::fs::read_to_string(&file).unwrap_or_else(|_| {
                "layer,weight,nats,classifier picks v,low,high,mean of v²,floor of unrelated,samples,low,high,\
                 refined,low,high,reached\n"
                    .into()
            });
            text.push_str(&row);
            text.push('\n');
            std::fs::write(&file, text).map_err(|e| Error::invalid(e.to_string()))?;
        }
    }
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
