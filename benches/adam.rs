//! The optimiser's pass, against candle's AdamW, and what checkpoints cost a small training (medians).

use invariances::candle_core::backprop::GradStore;
use invariances::candle_core::{Device, Tensor, Var};
use invariances::candle_nn::{AdamW, Optimizer, ParamsAdamW};
use invariances::ops::{Init, Params, Rng};
use invariances::train::{Adam, Step, Store, TrainConfig, Trainer};
use std::time::{Duration, Instant};

/// About five million numbers, as a network has them: a few large tensors and many small ones.
const SHAPES: [(usize, usize); 12] = [
    (1024, 1024),
    (1024, 1024),
    (1024, 1024),
    (1024, 512),
    (1024, 512),
    (512, 1024),
    (256, 576),
    (128, 1152),
    (1024, 1),
    (1024, 1),
    (512, 1),
    (64, 9),
];

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn time(mut run: impl FnMut() -> invariances::Result<()>) -> invariances::Result<f64> {
    for _ in 0..3 {
        run()?;
    }
    let mut seconds = Vec::new();
    for _ in 0..25 {
        let start = Instant::now();
        run()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

fn gradients(vars: &[Var]) -> invariances::Result<GradStore> {
    let mut loss = Tensor::new(0f32, &Device::Cpu)?;
    for v in vars {
        loss = (loss + v.sqr()?.mean_all()?)?;
    }
    Ok(loss.backward()?)
}

fn optimisers() -> invariances::Result<()> {
    let mut rng = Rng::new(0);
    let vars = SHAPES
        .iter()
        .map(|s| Ok(Var::from_tensor(&rng.normal(*s, &Device::Cpu)?)?))
        .collect::<invariances::Result<Vec<_>>>()?;
    let count: usize = vars.iter().map(|v| v.elem_count()).sum();
    let grads = gradients(&vars)?;
    let named = || {
        let named = vars.iter().enumerate();
        named.map(|(i, v)| (i.to_string(), v.clone())).collect()
    };
    println!(
        "{count} parameters in {} tensors, {} threads",
        vars.len(),
        rayon::current_num_threads()
    );
    let mut ours = Adam::new(named())?;
    let plain = time(|| ours.step(&grads, 1e-4))?;
    let mut ours = Adam::new(named())?.weight_decay(0.01).clip(Some(1.0));
    let clipped = time(|| ours.step(&grads, 1e-4))?;
    let settings = ParamsAdamW {
        lr: 1e-4,
        beta1: 0.5,
        beta2: 0.9,
        ..Default::default()
    };
    let mut candles = AdamW::new(vars.clone(), settings)?;
    let candle = time(|| Ok(candles.step(&grads)?))?;
    for (name, seconds) in [
        ("Adam::step", plain),
        ("Adam::step, clipped, decaying", clipped),
        ("candle_nn's AdamW", candle),
    ] {
        println!(
            "{name:<32}{:>8.2} ms{:>8.2} ns per parameter{:>8.1} ×",
            1e3 * seconds,
            1e9 * seconds / count as f64,
            candle / seconds
        );
    }
    Ok(())
}

/// Trains a network of 1.3 million numbers for a few seconds, with checkpoints as often as settings allow.
fn training(checkpoint_seconds: Option<f64>) -> invariances::Result<(f64, u64)> {
    let params = Params::new(0);
    let root = params.root();
    let first = root.get((1024, 256), "first", Init::He)?;
    let second = root.get((1024, 1024), "second", Init::He)?;
    let config = TrainConfig {
        steps: 400,
        checkpoint_seconds: checkpoint_seconds.unwrap_or(1e6),
        ..Default::default()
    };
    let folder = tempfile::tempdir().map_err(|e| invariances::Error::io("temporary folder", e))?;
    let slot = Store::open(folder.path()).slot("bench", &config)?;
    let newest = slot.folder().join("checkpoint.safetensors");
    let (mut written, mut count) = (None, 0);
    let start = Instant::now();
    let mut last = Duration::ZERO;
    Trainer::new(config)
        .quiet()
        .fit_in(&slot, &params, |_, rng| {
            let now = std::fs::metadata(&newest).and_then(|m| m.modified()).ok();
            count += u64::from(now != written);
            written = now;
            let x = rng.normal((32, 256), &Device::Cpu)?;
            let y = x.matmul(&first.t()?)?.relu()?.matmul(&second.t()?)?;
            last = start.elapsed();
            Ok(Step::new(y.sqr()?.mean_all()?))
        })?;
    // Up to the last step: what is written after the end is no checkpoint.
    Ok((last.as_secs_f64(), count))
}

fn main() -> invariances::Result<()> {
    optimisers()?;
    let mut shares = Vec::new();
    let mut most = 0;
    for _ in 0..5 {
        let (without, _) = training(None)?;
        let (with, count) = training(Some(0.1))?;
        shares.push(with / without - 1.0);
        most = most.max(count);
    }
    println!(
        "checkpoints of a training of 1.3 million parameters, as often as allowed (up to {most}): {:.1} % of its time",
        100.0 * median(shares)
    );
    Ok(())
}
