//! Time of one training step of the authors' small VAE at full width (32 px, code 64, batch 25),
//! without an adversary: encode, sample a code, decode, absolute error over a learned scale and
//! KL, gradients, Adam. Also the speed of drawing the images of the synthetic datasets.
//!
//! `cargo bench --bench vae [-- step | datasets]` prints medians. `benches/vae.py` runs the step in
//! PyTorch, side by side.

mod common;

use common::arguments;
use invariances::Result;
use invariances::autoencoder::{Autoencoder, IinVae, IinVaeConfig};
use invariances::candle_core::{Device, Tensor, Var};
use invariances::data::{Creatures, Dataset, Digits, Faces, Split};
use invariances::loss::perceptual_vae_loss;
use invariances::ops::{Params, Rng, backward, keep_freed_memory};
use invariances::train::Adam;
use std::time::Instant;

fn median(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut times = Vec::new();
    for _ in 0..15 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn step() -> Result<f64> {
    keep_freed_memory();
    let params = Params::new(0);
    let vae = IinVae::new(&IinVaeConfig::default(), &params.root())?;
    let mut rng = Rng::new(0);
    let x = rng.uniform(-1.0, 1.0, (25, 3, 32, 32), &Device::Cpu)?;
    vae.initialize(&x)?;
    let gamma = Var::new(0f32, &Device::Cpu)?;
    let mut trained = params.trained();
    trained.push(("gamma".into(), gamma.clone()));
    let mut adam = Adam::named(trained)?;
    median(|| {
        let posterior = vae.encode(&x)?;
        let decoded = vae.decode(&posterior.sample(&mut rng)?)?;
        let loss = perceptual_vae_loss((&x, &decoded), &posterior, &gamma, None, 1.0)?;
        adam.step_at(&backward(&loss.loss)?, 1e-4)
    })
}

/// Returns the number of images per second, in batches of 128.
fn drawn(dataset: &dyn Dataset) -> Result<f64> {
    let mut start = 0;
    let mut batch = || -> Result<Tensor> {
        start += 128;
        Ok(dataset.batch(Split::Train, start, 128)?.images)
    };
    Ok(128e3 / median(|| batch().map(drop))?)
}

fn main() -> Result<()> {
    let wanted = arguments();
    let all = wanted.is_empty();
    if all || wanted.iter().any(|w| w == "step") {
        println!("step {:.1}", step()?);
    }
    if all || wanted.iter().any(|w| w == "worlds") {
        println!(
            "digits, 32 px: {:.0} images/s",
            drawn(&Digits::strokes(32, 0)?)?
        );
        for size in [32, 64, 128] {
            println!(
                "faces, {size} px: {:.0} images/s",
                drawn(&Faces::new(size, 0)?)?
            );
            let creatures = Creatures::new(size, 0)?;
            println!("creatures, {size} px: {:.0} images/s", drawn(&creatures)?);
        }
    }
    Ok(())
}
