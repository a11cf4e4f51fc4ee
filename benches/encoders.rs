//! E and D for photographs: the plain loss beside the one with which the shipped E and D of faces and
//! creatures were sharpened (a perceptual distance and edges, each with a scale of its own). Both start
//! from E and D of the creatures and take the same number of steps.
//!
//! `cargo bench --bench encoders -- smiles.parquet cifar10_train.parquet` adds a line for each file and
//! loss to `out=FOLDER/encoders.csv` (by default `target/encoders`) and writes a picture of originals and
//! both reconstructions. Options: `steps=3000`, `seed=0`, `images=1000` (held out).

mod common;

use common::arguments;
use invariances::data::ImageColumns;
use invariances::interpret::Fid;
use invariances::metric::{Resampled, fine_structure, psnr};
use invariances::prelude::*;
use invariances::recipes::{PhotographsNetworks, VaeTraining, train_perceptual};
use invariances::{Error, Result};
use std::path::PathBuf;
use std::time::Instant;

const HEADER: &str = "images,loss,seed,steps,minutes,PSNR,low,high,fine structure,low,high,\
                      Fréchet distance,low,high,class kept,low,high";

fn main() -> Result<()> {
    let (mut files, mut out) = (Vec::<PathBuf>::new(), PathBuf::from("target/encoders"));
    let (mut steps, mut seed, mut held_out) = (3000, 0, 1000);
    for argument in arguments() {
        let wrong = |_| Error::invalid(format!("wrong argument {argument}"));
        match argument.split_once('=') {
            Some(("out", folder)) => out = folder.into(),
            Some(("steps", value)) => steps = value.parse().map_err(wrong)?,
            Some(("seed", value)) => seed = value.parse().map_err(wrong)?,
            Some(("images", value)) => held_out = value.parse().map_err(wrong)?,
            _ => files.push(argument.into()),
        }
    }
    std::fs::create_dir_all(&out).ok();
    let store = Store::open(out.join("cache"));
    let start = CreaturesNetworks::load()?.autoencoder;
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let images = Images::parquet(&[file], &ImageColumns::default())?;
        let photographs = Photographs::new(&images, 64, 0)?;
        let count = photographs.len(Split::Test).min(held_out);
        let test = photographs.batch(Split::Test, 0, count)?.images;
        // The classifiers of these photographs: one measures the Fréchet distance in its features, and
        // whether the class is kept. The perceptual distance has a network of its own.
        let networks = PhotographsNetworks::fit(&photographs, &start, 4 * 800, &store)?;
        let fid = Fid::new(&networks.classifier.at("fc7")?, &test)?.in_units()?;
        let plain = VaeTraining {
            network: start.config().clone(),
            training: TrainConfig {
                steps,
                batch: 16,
                learning_rate: 1e-3,
                ema: Some(0.999),
                warm_up: 50,
                seed,
                ..TrainConfig::default()
            },
            ..VaeTraining::default()
        };
        let sharpened = VaeTraining {
            own_scale: true,
            edges_weight: 0.3,
            ..plain.clone()
        };
        let learner = TrainConfig {
            steps: 800,
            batch: 64,
            learning_rate: 2e-3,
            seed,
            ..TrainConfig::default()
        };
        let shown = test.narrow(0, 0, 10.min(count))?;
        let mut pictures = vec![shown.clone()];
        for (loss, config) in [("plain", plain), ("sharpened", sharpened)] {
            let began = Instant::now();
            let distance = match loss {
                "plain" => None,
                _ => Some(train_perceptual(&photographs, &learner, &store)?.0),
            };
            let (vae, trained) = config.refine(
                &start,
                &format!("bench-encoders-{name}-{loss}"),
                &photographs,
                distance.as_ref().map(|d| d as _),
                &store,
            )?;
            let minutes = began.elapsed().as_secs_f64() / 60.0;
            println!("{name}, {loss}: {trained}");
            let decoded = vae.reconstruct(&test)?;
            let fine = |images: &Tensor| -> Result<Resampled> {
                Ok(Resampled::mean(&fine_structure(images)?, seed))
            };
            let kept = networks.independent.agreement(&test, &decoded)?;
            let kept: Vec<f64> = kept.into_values().flatten().collect();
            let measured = [
                Resampled::mean(&psnr(&test, &decoded)?, seed),
                fine(&decoded)?.over(&fine(&test)?),
                fid.resampled(&decoded, 200, seed)?,
                Resampled::mean(&kept, seed),
            ];
            let mut row = vec![
                name.to_string(),
                loss.into(),
                seed.to_string(),
                steps.to_string(),
                format!("{minutes:.1}"),
            ];
            for value in measured {
                let value = value.estimate();
                row.extend([value.mean, value.low, value.high].map(|x| format!("{x:.4}")));
            }
            println!("{}", row.join(", "));
            append(&out.join("encoders.csv"), &row)?;
            pictures.push(vae.reconstruct(&shown)?);
        }
        ImageGrid::of_rows(&pictures)?
            .row_labels(["original", "plain", "sharpened"])
            .magnify(2)
            .figure()?
            .save(out.join(format!("{name}.png")))?;
    }
    Ok(())
}

/// Appends a row, with the header first if the file is new.
fn append(file: &std::path::Path, row: &[String]) -> Result<()> {
    let mut text = std::fs::read_to_string(file).unwrap_or_else(|_| format!("{HEADER}\n"));
    text.push_str(&row.join(","));
    text.push('\n');
    std::fs::write(file, text).map_err(|e| Error::invalid(format!("{}: {e}", file.display())))
}
