//! Time of an Adam step, compared with candle's AdamW, and the cost of checkpoints in a small
//! training (medians).

use invariances::candle_core::backprop::GradStore;
use invariances::candle_core::{Device, Tensor, Var};
use invariances::candle_nn::{AdamW, Optimizer, ParamsAdamW};
use invariances::ops::{Init, Params, Rng};
use invariances::train::{Adam, Step, Store, TrainConfig, Trainer};
use std::time::{Duration, Instant};

/// About five million parameters with the shapes of a network: a few large tensors and many small
/// ones.
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
    let mut ours = Adam::named(named())?;
    let plain = time(|| ours.step_at(&grads, 1e-4))?;
    let mut ours = Adam::named(named())?.weight_decay(0.01).clip(Some(1.0));
    let clipped = time(|| ours.step_at(&grads, 1e-4))?;
    let settings = ParamsAdamW {
        lr: 1e-4,
        beta1: 0.5,
        beta2: 0.9,
        ..Default::default()
    };
    let mut candles = AdamW::new(vars.clone(), settings)?;
    let candle = time(|| Ok(candles.step(&grads)?))?;
    for (name, seconds) in [
        ("Adam::step_at", plain),
        ("Adam::step_at, clipped, decaying", clipped),
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

/// Trains 1.3 million parameters with checkpoints as frequent as possible. Returns the share of
/// the training time that checkpoints take, their number, and the seconds per checkpoint. The
/// time of a checkpoint is the extra time that the trainer needs in steps that write one.
fn checkpoints() -> invariances::Result<(f64, usize, f64)> {
    let params = Params::new(0);
    let root = params.root();
    let first = root.get((1024, 256), "first", Init::He)?;
    let second = root.get((1024, 1024), "second", Init::He)?;
    let config = TrainConfig {
        steps: 400,
        checkpoint_seconds: 0.1,
        ..Default::default()
    };
    let folder = tempfile::tempdir().map_err(|e| invariances::Error::io("temporary folder", e))?;
    let slot = Store::open(folder.path()).slot("bench", &config)?;
    let newest = slot.folder().join("checkpoint.safetensors");
    let (mut wrote, mut plain) = (Vec::new(), Vec::new());
    let mut written = None;
    let start = Instant::now();
    let mut left = Instant::now();
    Trainer::new(config)
        .quiet()
        .fit_in(&slot, &params, |_, _| {
            let busy = left.elapsed().as_secs_f64();
            let now = std::fs::metadata(&newest).and_then(|m| m.modified()).ok();
            if now == written {
                plain.push(busy);
            } else {
                wrote.push(busy);
            }
            written = now;
            // Most of a step's time must be constant: with varying times, long steps would be
            // more likely to end at a checkpoint.
            std::thread::sleep(Duration::from_millis(20));
            let loss = (first.sqr()?.mean_all()? + second.sqr()?.mean_all()?)?;
            left = Instant::now();
            Ok(Step::new(loss))
        })?;
    // Only up to the last step: what is written after the end is not a checkpoint.
    let all = (left - start).as_secs_f64();
    let step = plain.iter().sum::<f64>() / plain.len().max(1) as f64;
    let extra: f64 = wrote.iter().map(|s| s - step).sum();
    Ok((extra / all, wrote.len(), extra / wrote.len().max(1) as f64))
}

fn main() -> invariances::Result<()> {
    optimisers()?;
    for _ in 0..3 {
        let (share, count, seconds) = checkpoints()?;
        println!(
            "{count} checkpoints of 1.3 million parameters, {:.0} ms each: {:.1} % of the training's time",
            1e3 * seconds,
            100.0 * share
        );
    }
    Ok(())
}
