//! Published weights of the networks in [`crate::backbone`]: their sources, their licences, and
//! the mapping of their names to this crate's names.

use super::{Checkpoint, Hub};
use crate::backbone::{
    Backbone, SqueezeNet, TransformerConfig, alexnet, facenet, fid_inception, resnet, squeezenet,
    transformer, vgg16,
};
use crate::ops::{Params, Placement, Scope};
use crate::{Error, Result};
use candle_core::Device;
use invariances_core::files::cache_dir;
use invariances_core::names::{is_bookkeeping, nearest};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../data/weights.json");

/// Published weights of a network.
///
/// ```
/// use invariances::hub::weights;
/// let resnet = weights("resnet50")?;
/// assert_eq!(resnet.repository.as_deref(), Some("timm/resnet50.tv_in1k"));
/// assert_eq!(resnet.licence, "BSD-3-Clause (torchvision)");
/// # Ok::<(), invariances::Error>(())
/// ```
///
/// To load fine-tuned weights of the same network, change the source:
///
/// ```no_run
/// use invariances::hub::{Hub, Weights, weights};
/// let mine = Weights { repository: Some("me/birds".into()), outputs: Some(200), ..weights("resnet50")? };
/// let network = mine.fetch(&Hub::open()?)?;
/// # Ok::<(), invariances::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// The name of the weights in [`weights`].
    #[serde(skip)]
    pub name: String,
    /// The network to which they belong: `resnet50`, `vit_base` …
    pub network: String,
    /// The repository of the hub that contains them.
    pub repository: Option<String>,
    /// The revision of the repository; `main` by default.
    pub revision: Option<String>,
    /// The file in the repository; `model.safetensors` by default.
    pub file: Option<String>,
    /// The address of the file, used if `repository` is not set.
    pub url: Option<String>,
    /// The SHA-256 of the file at `url`, or at least its first 8 digits.
    pub sha256: Option<String>,
    /// The number of classes; by default, the network's usual number.
    pub outputs: Option<usize>,
    /// The licence of the weights.
    pub licence: String,
    /// The training data.
    pub data: String,
}

fn table() -> Result<BTreeMap<String, Weights>> {
    let table: BTreeMap<String, Weights> = serde_json::from_str(TABLE)
        .map_err(|e| Error::content("data/weights.json", e.to_string()))?;
    let entries = table.into_iter().map(|(name, weights)| {
        let weights = Weights {
            name: name.clone(),
            ..weights
        };
        (name, weights)
    });
    Ok(entries.collect())
}

/// Returns the names of all published weights in the table, sorted.
///
/// # Errors
/// Only if the crate was built with an invalid table.
pub fn weights_names() -> Result<Vec<String>> {
    Ok(table()?.into_keys().collect())
}

/// Returns the published weights of a network, by name.
///
/// # Errors
/// [`Error::Unknown`] for an unknown name; the error suggests the most similar one.
pub fn weights(name: &str) -> Result<Weights> {
    let mut table = table()?;
    if let Some(found) = table.remove(name) {
        return Ok(found);
    }
    let names: Vec<&str> = table.keys().map(String::as_str).collect();
    let advice = match nearest(name, &names) {
        Some(near) => format!("; did you mean {near:?}?"),
        None => ".".into(),
    };
    Err(Error::unknown(format!(
        "no published weights {name:?}{advice} Available: {}",
        names.join(", ")
    )))
}

impl Weights {
    /// Builds the network of these weights, without loading the weights.
    ///
    /// # Errors
    /// [`Error::Unknown`] for an unknown network; [`Error::Unsupported`] if `outputs` is set for a
    /// network without classes (`facenet`, `fid_inception`).
    pub fn network(&self, at: &Scope) -> Result<Backbone> {
        let classes = self.outputs.unwrap_or(1000);
        let vit = |config: TransformerConfig| {
            let outputs = self.outputs.unwrap_or(config.outputs);
            transformer(&TransformerConfig { outputs, ..config }, at)
        };
        match self.network.as_str() {
            "alexnet" => alexnet(classes, at),
            "resnet18" => resnet(18, classes, at),
            "resnet34" => resnet(34, classes, at),
            "resnet50" => resnet(50, classes, at),
            "resnet101" => resnet(101, classes, at),
            "resnet152" => resnet(152, classes, at),
            "squeezenet1_0" => squeezenet(SqueezeNet::V1_0, classes, at),
            "squeezenet1_1" => squeezenet(SqueezeNet::V1_1, classes, at),
            "vgg16" => vgg16(classes, at),
            "facenet" | "fid_inception" if self.outputs.is_some() => Err(Error::unsupported(
                format!("{} has no classes: leave `outputs` unset", self.network),
            )),
            "facenet" => facenet(at),
            "fid_inception" => fid_inception(at),
            "vit_base" => vit(TransformerConfig::vit_base()),
            "dinov2_small" => vit(TransformerConfig::dinov2_small()),
            "dinov2_base" => vit(TransformerConfig::dinov2_base()),
            "clip_base" => vit(TransformerConfig::clip_base()),
            other => Err(Error::unknown(format!(
                "no network {other:?}: expected a network of the published weights {}",
                weights_names()?.join(", ")
            ))),
        }
    }

    /// Returns the path of the weights file, and downloads the file if it is not in the cache.
    ///
    /// # Errors
    /// [`Error::Download`] if the file cannot be fetched; [`Error::Invalid`] if there is neither
    /// a repository nor an address, or if the address does not end with a file name.
    pub fn path(&self, hub: &Hub) -> Result<PathBuf> {
        if let Some(repository) = &self.repository {
            let repository = hub.model(repository)?;
            let repository = match &self.revision {
                Some(revision) => repository.at(revision)?,
                None => repository,
            };
            return repository.file(self.file.as_deref().unwrap_or("model.safetensors"));
        }
        let Some(url) = &self.url else {
            return Err(Error::invalid(format!(
                "expected `repository` or `url` for the weights of {}, found neither",
                self.network
            )));
        };
        let bare = url.split(['?', '#']).next().unwrap_or_default();
        let last = bare.rsplit('/').next().unwrap_or_default();
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if last.is_empty() || last.starts_with('.') || !last.chars().all(allowed) {
            return Err(Error::invalid(format!(
                "expected a `url` that ends with a file name, found {url:?}"
            )));
        }
        let path = cache_dir()?.join("weights").join(last);
        hub.download(url, &path, self.sha256.as_deref())?;
        Ok(path)
    }

    /// Builds the network with these weights, and downloads them if they are not in the cache. The
    /// network is frozen, in evaluation mode and on the CPU.
    ///
    /// # Errors
    /// As [`Weights::path`] and [`Weights::load`].
    pub fn fetch(&self, hub: &Hub) -> Result<Backbone> {
        self.load(self.path(hub)?)
    }

    /// Same as [`Weights::fetch`], on another device and with another number type.
    ///
    /// # Errors
    /// As [`Weights::fetch`], and [`Error::Tensor`] if the device's memory runs out.
    pub fn fetch_on(&self, hub: &Hub, placement: &Placement) -> Result<Backbone> {
        self.load_on(self.path(hub)?, placement)
    }

    /// Builds the network with the weights of a file, in any format that [`Checkpoint`] reads.
    /// The network is frozen, in evaluation mode and on the CPU.
    ///
    /// # Errors
    /// [`Error::Content`] for the file of another network; the error lists the names and shapes
    /// that differ.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Backbone> {
        let params = Params::blank(&Device::Cpu);
        let network = self.network(&params.root())?;
        self.load_into(&params, path)?;
        network.frozen()
    }

    /// Same as [`Weights::load`], on another device and with another number type. Batch norms are
    /// folded into the convolutions before them in f32, then all weights are converted.
    ///
    /// # Errors
    /// As [`Weights::load`], and [`Error::Tensor`] if the device's memory runs out.
    pub fn load_on(&self, path: impl AsRef<Path>, placement: &Placement) -> Result<Backbone> {
        self.load(path)?.frozen_as(placement)
    }

    /// Loads the weights of a file into the parameters of [`Weights::network`], for example to
    /// fine-tune them.
    ///
    /// # Errors
    /// As [`Weights::load`]; the parameters are then unchanged.
    pub fn load_into(&self, params: &Params, path: impl AsRef<Path>) -> Result<()> {
        let what = format!("the weights of {}", self.network);
        Checkpoint::open(&path)?.load_renamed(params, &what, |name, shape| {
            let (name, dense) = renamed(&self.network, name)?;
            // The file may store a linear layer as a convolution over the whole feature map. Its
            // weights have the same order.
            let shape = match dense && shape.len() == 4 {
                true => vec![shape[0], shape[1..].iter().product()],
                false => shape.to_vec(),
            };
            Some((name, shape))
        })
    }
}

/// Maps a published name to the name in this crate's network. The flag says whether the file may
/// store this linear layer as a convolution. `None` for a tensor that the network does not have.
fn renamed(network: &str, name: &str) -> Option<(String, bool)> {
    if is_bookkeeping(name) {
        return None;
    }
    let (exists, dense) = match network {
        // The classification head for the identities in its training set.
        "facenet" => (!name.starts_with("logits."), false),
        "vgg16" => {
            let places = [
                ("pre_logits.fc1.", "classifier.0."),
                ("pre_logits.fc2.", "classifier.3."),
                ("head.fc.", "classifier.6."),
            ];
            for (theirs, ours) in places {
                if let Some(kind) = name.strip_prefix(theirs) {
                    return Some((format!("{ours}{kind}"), true));
                }
            }
            (true, false)
        }
        "vit_base" => (!name.starts_with("vit.pooler."), false),
        "dinov2_small" | "dinov2_base" => (!name.ends_with("embeddings.mask_token"), false),
        // The file also contains the text encoder.
        "clip_base" => {
            let ours = name.starts_with("vision_model.") || name == "visual_projection.weight";
            (ours && !name.ends_with("position_ids"), false)
        }
        _ => (true, false),
    };
    exists.then(|| (name.to_string(), dense))
}

/// Adds networks with published weights to [`Hub`], by name: `hub.backbone("alexnet")`.
pub trait HubNetworks {
    /// Returns a network with its published weights, by a name of [`weights_names`]. The network
    /// is frozen, in evaluation mode and on the CPU.
    ///
    /// ```no_run
    /// use invariances::{backbone::Network, hub::{Hub, HubNetworks}};
    /// let alexnet = Hub::open()?.backbone("alexnet")?;
    /// println!("{}", alexnet.table(227)?);
    /// let fc6 = alexnet.at("fc6")?;
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`weights`] and [`Weights::fetch`].
    fn backbone(&self, name: &str) -> Result<Backbone>;

    /// Same as [`HubNetworks::backbone`], on another device and with another number type.
    ///
    /// ```no_run
    /// use invariances::ops::{Placement, open_device};
    /// use invariances::{candle_core::DType, hub::{Hub, HubNetworks}};
    /// let gpu = Placement { device: open_device("cuda")?, dtype: DType::BF16 };
    /// let vgg = Hub::open()?.backbone_on("vgg16", &gpu)?;
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`HubNetworks::backbone`], and [`Error::Tensor`] if the device's memory runs out.
    fn backbone_on(&self, name: &str, placement: &Placement) -> Result<Backbone> {
        self.backbone(name)?.frozen_as(placement)
    }
}

impl HubNetworks for Hub {
    fn backbone(&self, name: &str) -> Result<Backbone> {
        weights(name)?.fetch(self)
    }
}

#[cfg(test)]
mod tests {
    use super::renamed;

    #[test]
    fn names_of_the_hub_become_those_of_torchvision() {
        let name = |network, name| renamed(network, name);
        let is = |name: &str, dense| Some((name.to_string(), dense));
        assert_eq!(
            name("vgg16", "pre_logits.fc1.weight"),
            is("classifier.0.weight", true)
        );
        assert_eq!(name("vgg16", "head.fc.bias"), is("classifier.6.bias", true));
        assert_eq!(
            name("vgg16", "features.0.weight"),
            is("features.0.weight", false)
        );
        assert_eq!(name("resnet50", "bn1.num_batches_tracked"), None);
        assert_eq!(name("clip_base", "text_model.x"), None);
        assert_eq!(name("dinov2_small", "embeddings.mask_token"), None);
    }
}
