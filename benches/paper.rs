//! Time and peak memory of Figure 2 at the paper's size, for one image and layer by layer. It
//! does what `notebooks/05_layers.ipynb` does at scale paper: AlexNet at 227 px, ResNet-50 as the
//! independent classifier, FID's Inception, BigAE at 128 px, and the authors' conditional
//! invertible network t.
//!
//! The published weights were not available for this benchmark. A local hub (loopback) serves
//! generated weights with the published names, shapes and sizes.
//!
//! Run it with `cargo bench --bench paper`, on Linux. Each layer runs in its own process.
//! Meanwhile the files take several GB of disk and of memory.

mod common;
#[path = "../tests/common/mod.rs"]
mod filled;
#[path = "../tests/common/hub.rs"]
mod loopback;

use common::{arguments, peak};
use invariances::autoencoder::{Autoencoder, BigAe, BigAeConfig};
use invariances::backbone::Network;
use invariances::candle_core::{Device, Tensor};
use invariances::data::{Dataset, Images, Split};
use invariances::flow::Cinn;
use invariances::hub::{Hub, Published, Weights};
use invariances::interpret::{CinnTraining, Codes, Samples};
use invariances::notebook::{Sources, Subject};
use invariances::ops::{Params, Rng, keep_freed_memory};
use invariances::train::Store;
use invariances::{Error, Result};
use loopback::{LoopbackHub, Repo};
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Fills the parameters by the rule of the tests and returns them as a safetensors file.
fn file(params: &Params) -> Result<Vec<u8>> {
    filled::fill(params, &HashMap::new())?;
    let mut tensors: Vec<(String, Tensor)> = params.tensors().into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    safetensors::serialize(tensors, None).map_err(|e| Error::invalid(format!("{e}")))
}

/// Starts a hub with all networks, in repositories `here/NAME`, and with all checkpoints of the
/// authors. Returns the hub and the addresses of the checkpoints.
fn serve() -> Result<(LoopbackHub, Vec<String>)> {
    let sources = Sources::authors()?;
    let mut repos = Vec::new();
    for network in [&sources.network, &sources.independent, &sources.eye] {
        let params = Params::blank(&Device::Cpu);
        network.network(&params.root())?;
        let repo = Repo::model(&format!("here/{}", network.name));
        repos.push(repo.large("model.safetensors", file(&params)?));
    }
    let server = LoopbackHub::start(repos);
    let mut addresses = Vec::new();
    for checkpoint in std::iter::once(&sources.autoencoder).chain(&sources.cinns) {
        let params = Params::blank(&Device::Cpu);
        match checkpoint.name.starts_with("bigae") {
            true => drop(BigAe::new(&BigAeConfig::animals(), &params.root())?),
            false => drop(Cinn::new(&checkpoint.cinn()?, &params.root())?),
        }
        let name = format!("{}.ckpt", checkpoint.name);
        addresses.push(server.share(&name, file(&params)?));
    }
    Ok((server, addresses))
}

/// Returns the authors' sources with all addresses changed to that hub.
fn sources(addresses: &[String]) -> Result<Sources> {
    let authors = Sources::authors()?;
    let network = |weights: &Weights| Weights {
        repository: Some(format!("here/{}", weights.name)),
        file: Some("model.safetensors".into()),
        ..weights.clone()
    };
    let checkpoint = |file: &Published, place: usize| Published {
        url: addresses.get(place).cloned().unwrap_or_default(),
        md5: None,
        ..file.clone()
    };
    let cinns = authors.cinns.iter().enumerate();
    Ok(Sources {
        network: network(&authors.network),
        independent: network(&authors.independent),
        eye: network(&authors.eye),
        autoencoder: checkpoint(&authors.autoencoder, 0),
        cinns: cinns.map(|(i, t)| checkpoint(t, 1 + i)).collect(),
    })
}

/// Does for one image what the notebook does with one layer.
fn one(layer: &str, folder: &Path, addresses: &[String]) -> Result<()> {
    keep_freed_memory();
    let before = peak();
    let hub = Hub::open()?.with_progress(false);
    let images = Images::folder(folder.join("images"))?;
    let begin = Instant::now();
    let subject = Subject::published(&images, &sources(addresses)?, &hub)?;
    let x = subject.dataset.batch(Split::Test, 0, 1)?.images;
    let greybox = subject.network.at(layer)?;
    let codes = Codes::of(
        &subject.autoencoder,
        &greybox,
        &subject.dataset,
        Split::Test,
        1,
    )?;
    let store = Store::open(folder.join("trained"));
    let t = subject.t(&greybox, &codes, &CinnTraining::default(), &store)?;
    let (loading, loaded) = (begin.elapsed().as_secs_f64(), peak() - before);
    let begin = Instant::now();
    let z = greybox.encode(&x)?.detach();
    let code = subject.autoencoder.encode(&x)?.mode();
    let v = t.latent(&code, Some(&z))?.detach();
    let samples = Samples::draw(&t, &subject.autoencoder, &z, 4, &mut Rng::new(4))?;
    let seconds = begin.elapsed().as_secs_f64();
    let named = subject.independent.names(&samples.images())?;
    let fid = subject.fid(&samples.images())?;
    let shapes = (v.dims().to_vec(), samples.images().dims().to_vec());
    if shapes != (vec![1, 128], vec![4, 3, 128, 128]) || named["class"].len() != 4 {
        return Err(Error::invalid(format!(
            "expected v (1, 128), samples (4, 3, 128, 128) and their 4 classes, found {shapes:?} and {named:?}"
        )));
    }
    if fid.name() != "FID" {
        return Err(Error::invalid(format!("expected the FID, found {fid:?}")));
    }
    println!(
        "{layer:8} z {:?}: fetched or found, and read in {loading:.1} s; networks {loaded:.0} MiB at most, with one image and four samples of it, the judge and Inception {:.0} MiB; Φ, E, t and four times t⁻¹ and D {seconds:.2} s",
        z.dims(),
        peak() - before
    );
    Ok(())
}

fn main() -> Result<()> {
    let given = arguments();
    if let [layer, folder, addresses @ ..] = &given[..] {
        return one(layer, Path::new(folder), addresses);
    }
    let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    for n in 0..10 {
        let place = folder.path().join("images").join(["cat", "dog"][n % 2]);
        std::fs::create_dir_all(&place).map_err(|e| Error::io(&place, e))?;
        let path = place.join(format!("{n}.png"));
        let shade = |x: u32, y: u32| image::Rgb([(x * 2) as u8, (y * 2) as u8, n as u8 * 20]);
        let picture = image::RgbImage::from_fn(128, 128, shade);
        let saved = picture.save(&path);
        saved.map_err(|e| Error::content(&path, e.to_string()))?;
    }
    let begin = Instant::now();
    let (server, addresses) = serve()?;
    println!(
        "{} files are served ({:.0} s)",
        3 + addresses.len(),
        begin.elapsed().as_secs_f64()
    );
    let this = std::env::current_exe().map_err(|e| Error::io("this program", e))?;
    for layer in ["conv5", "fc6", "fc7", "fc8", "softmax"] {
        let status = Command::new(&this)
            .arg(layer)
            .arg(folder.path())
            .args(&addresses)
            .env("INVARIANCES_CACHE", folder.path().join("cache"))
            .env("HF_HOME", folder.path().join("hub"))
            .env("HF_ENDPOINT", server.endpoint())
            .env_remove("HF_HUB_OFFLINE")
            .status()
            .map_err(|e| Error::io(&this, e))?;
        if !status.success() {
            return Err(Error::invalid(format!("{layer} failed")));
        }
    }
    Ok(())
}
