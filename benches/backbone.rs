//! Time of backbones at batch size 4: the forward pass, the pass with the image's gradient, and
//! the pass with all gradients; and their peak memory.
//!
//! `cargo bench --bench backbone [-- NETWORK …]` prints medians in milliseconds. Each network
//! runs in its own process. `benches/backbone.py` runs the same in PyTorch, side by side.

mod common;

use common::{arguments, peak};
use invariances::Result;
use invariances::backbone::{Network, Preprocess, SqueezeNet, alexnet, resnet, squeezenet};
use invariances::candle_core::{Device, Var};
use invariances::ops::{Params, Rng, keep_freed_memory};
use std::process::Command;
use std::time::Instant;

const NETWORKS: [&str; 3] = ["alexnet", "resnet50", "squeezenet1_1"];

fn median(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn measure(name: &str) -> Result<()> {
    keep_freed_memory();
    let params = Params::new(0);
    let at = params.root();
    let (network, size) = match name {
        "alexnet" => (alexnet(1000, &at)?, 227),
        "resnet50" => (resnet(50, 1000, &at)?, 224),
        _ => (squeezenet(SqueezeNet::V1_1, 1000, &at)?, 224),
    };
    let network = network.with_preprocess(&Preprocess::none());
    let frozen = network.frozen()?;
    let x = Rng::new(0).normal((4, 3, size, size), &Device::Cpu)?;
    let forward = median(|| frozen.forward(&x).map(drop))?;
    let after_forward = peak();
    let image = Var::from_tensor(&x)?;
    let input = median(|| {
        frozen.forward(&image)?.sum_all()?.backward()?;
        Ok(())
    })?;
    let all = median(|| {
        network.forward(&x)?.sum_all()?.backward()?;
        Ok(())
    })?;
    println!(
        "{name} {forward:.1} {input:.1} {all:.1} {after_forward:.0} {:.0}",
        peak()
    );
    Ok(())
}

fn main() -> Result<()> {
    let arguments = arguments();
    if let [one, name] = &arguments[..]
        && one == "--one"
    {
        return measure(name);
    }
    let names: Vec<&str> = match &arguments[..] {
        [] => NETWORKS.to_vec(),
        some => some.iter().map(String::as_str).collect(),
    };
    println!(
        "batch 4: forward, with the image's gradient, with every gradient (ms); peak after the first, after all (MiB)"
    );
    for name in names {
        let this =
            std::env::current_exe().map_err(|e| invariances::Error::io("this program", e))?;
        let done = Command::new(this).args(["--one", name]).status();
        done.map_err(|e| invariances::Error::io("this program", e))?;
    }
    Ok(())
}
