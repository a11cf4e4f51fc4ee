//! Figure 2 at the paper's size, for one image: AlexNet at 227 px, BigAE at 128 px and the published sizes of t, layer by layer, without their
//! weights, which are downloads: shapes, names, time and the peak of memory.
//!
//! `cargo bench --bench paper`, on Linux: each layer is a process of its own.

mod common;

use common::{arguments, peak};
use invariances::autoencoder::{Autoencoder, BigAe, BigAeConfig};
use invariances::backbone::{Network, alexnet};
use invariances::candle_core::Device;
use invariances::flow::Cinn;
use invariances::hub::published;
use invariances::interpret::Samples;
use invariances::ops::{Params, Rng, keep_freed_memory};
use invariances::{Error, Result};
use std::process::Command;
use std::time::Instant;

const LAYERS: [&str; 5] = ["conv5", "fc6", "fc7", "fc8", "softmax"];

fn one(layer: &str) -> Result<()> {
    keep_freed_memory();
    let before = peak();
    let network = alexnet(1000, &Params::new(0).root())?.frozen()?;
    let autoencoder = BigAe::new(&BigAeConfig::animals(), &Params::new(1).root())?;
    let config = published(&format!("cinn_alexnet_aae_{layer}"))?.cinn()?;
    let params = Params::new(2);
    let t = Cinn::new(&config, &params.root())?;
    let loaded = peak() - before;
    let x = Rng::new(3).uniform(-1.0, 1.0, (1, 3, 128, 128), &Device::Cpu)?;
    let begin = Instant::now();
    let z = network.encode(&x, layer)?;
    let code = autoencoder.encode(&x)?.mode();
    let (v, _) = t.forward(&code, &z)?;
    let samples = Samples::draw(&t, &autoencoder, &z, 4, &mut Rng::new(4))?.images();
    let seconds = begin.elapsed().as_secs_f64();
    if v.dims() != [1, 128] || samples.dims() != [4, 3, 128, 128] {
        return Err(Error::invalid(format!(
            "expected v (1, 128) and samples (4, 3, 128, 128), found {:?} and {:?}",
            v.dims(),
            samples.dims()
        )));
    }
    println!(
        "{layer:8} z {:?}, t of {:.1} M parameters: networks {loaded:.0} MiB, with one image and four samples of it {:.0} MiB, {seconds:.1} s",
        z.dims(),
        params.count() as f64 / 1e6,
        peak() - before
    );
    Ok(())
}

fn main() -> Result<()> {
    let given = arguments();
    if let Some(layer) = given.first() {
        return one(layer);
    }
    let this = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
    for layer in LAYERS {
        let status = Command::new(&this)
            .arg(layer)
            .status()
            .map_err(|e| Error::io(&this, e))?;
        if !status.success() {
            return Err(Error::invalid(format!("{layer} failed")));
        }
    }
    Ok(())
}
