//! The published weights of the networks in [`crate::backbone`]: where they are, under which licence, and how
//! their names become ours.

use super::state::Located;
use super::{Checkpoint, Hub};
use crate::backbone::{
    Backbone, SqueezeNet, TransformerConfig, alexnet, facenet, fid_inception, resnet, squeezenet,
    transformer, vgg16,
};
use crate::ops::files::cache_dir;
use crate::ops::names::{is_bookkeeping, nearest, shown};
use crate::ops::{Params, Scope};
use crate::{Error, Result};
use candle_core::Device;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../data/weights.json");
/// A list of classes is read up to this length.
const LABELS: u64 = 16 << 20;

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
/// Fine-tuned weights of the same network are had by changing where they are:
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
    /// The name by which [`weights`] has them.
    #[serde(skip)]
    pub name: String,
    /// The network that they belong to: `resnet50`, `vit_base` …
    pub network: String,
    /// The hub's repository that has them.
    pub repository: Option<String>,
    /// A revision of it, other than `main`.
    pub revision: Option<String>,
    /// The file in the repository.
    pub file: Option<String>,
    /// The address of the file, where it is not on the hub.
    pub url: Option<String>,
    /// How the SHA-256 of that file begins.
    pub sha256: Option<String>,
    /// How many classes there are, where it is not the network's usual number.
    pub outputs: Option<usize>,
    /// The licence that the weights are published under.
    pub licence: String,
    /// What they were trained on.
    pub data: String,
}

fn table() -> Result<BTreeMap<String, Weights>> {
    let table: BTreeMap<String, Weights> = serde_json::from_str(TABLE)
        .map_err(|e| Error::content("data/weights.json", e.to_string()))?;
    let named = table.into_iter().map(|(name, weights)| {
        let weights = Weights {
            name: name.clone(),
            ..weights
        };
        (name, weights)
    });
    Ok(named.collect())
}

/// The names of the networks whose published weights are known, sorted.
///
/// # Errors
/// None in a crate that was built from the table it came with.
pub fn weights_names() -> Result<Vec<String>> {
    Ok(table()?.into_keys().collect())
}

/// The published weights of a network, by its name.
///
/// # Errors
/// [`Error::Invalid`] for an unknown name; it suggests the nearest.
pub fn weights(name: &str) -> Result<Weights> {
    let mut table = table()?;
    if let Some(found) = table.remove(name) {
        return Ok(found);
    }
    let names: Vec<&str> = table.keys().map(String::as_str).collect();
    let advice = match nearest(name, &names) {
        Some(near) => format!("did you mean {near:?}? "),
        None => String::new(),
    };
    Err(Error::invalid(format!(
        "no published weights of {name:?}; {advice}There are {}",
        names.join(", ")
    )))
}

impl Weights {
    /// The network that the weights belong to, without them.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown network, or one without classes of which `outputs` asks for some.
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
            "facenet" | "fid_inception" if self.outputs.is_some() => Err(Error::invalid(format!(
                "{} has no classes: leave `outputs` out",
                self.network
            ))),
            "facenet" => facenet(at),
            "fid_inception" => fid_inception(at),
            "vit_base" => vit(TransformerConfig::vit_base()),
            "dinov2_small" => vit(TransformerConfig::dinov2_small()),
            "dinov2_base" => vit(TransformerConfig::dinov2_base()),
            "clip_base" => vit(TransformerConfig::clip_base()),
            other => Err(Error::invalid(format!(
                "no network {other:?}; there are those of {}",
                weights_names()?.join(", ")
            ))),
        }
    }

    /// The file of the weights, fetched where it is not there yet.
    ///
    /// # Errors
    /// [`Error::Download`] where it cannot be had; [`Error::Invalid`] where neither a repository nor an address is given.
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
                "the weights of {} have neither a repository nor an address",
                self.network
            )));
        };
        let bare = url.split(['?', '#']).next().unwrap_or_default();
        let last = bare.rsplit('/').next().unwrap_or_default();
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if last.is_empty() || last.starts_with('.') || !last.chars().all(good) {
            return Err(Error::invalid(format!(
                "the address {url:?} does not end with a file's name"
            )));
        }
        let path = cache_dir()?.join("weights").join(last);
        hub.download(url, &path, self.sha256.as_deref())?;
        Ok(path)
    }

    /// The network with these weights, fetched where they are not there yet: frozen, in evaluation mode, on the CPU.
    ///
    /// # Errors
    /// As [`Weights::path`] and [`Weights::load`].
    pub fn fetch(&self, hub: &Hub) -> Result<Backbone> {
        self.load(self.path(hub)?)
    }

    /// The network with the weights of a file, whichever of the formats of [`Checkpoint`] it has: frozen, in evaluation mode,
    /// on the CPU.
    ///
    /// # Errors
    /// [`Error::Content`] for a file of another network, with the names and shapes that differ.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Backbone> {
        let params = Params::blank(&Device::Cpu);
        let network = self.network(&params.root())?;
        self.load_into(&params, path)?;
        network.frozen()
    }

    /// Takes the weights of a file into the parameters of [`Weights::network`], to train on with.
    ///
    /// # Errors
    /// As [`Weights::load`]; the parameters are then as they were.
    pub fn load_into(&self, params: &Params, path: impl AsRef<Path>) -> Result<()> {
        let checkpoint = Checkpoint::open(&path)?;
        let mut fault = None;
        for cut in checkpoint.cuts() {
            let chosen = self.chosen(checkpoint.located(), cut);
            let shapes = chosen
                .iter()
                .map(|(name, _, shape)| (name.as_str(), &shape[..]));
            if let Err(error) = params.check_shapes(&shapes.collect()) {
                // That of the names which the checkpoint shows.
                fault.get_or_insert(error);
                continue;
            }
            checkpoint.say_decision(cut);
            let mut values = std::collections::HashMap::new();
            for (name, tensor, shape) in chosen {
                let value = checkpoint.load(tensor)?.reshape(shape)?;
                values.insert(name, value.to_dtype(params.dtype())?);
            }
            return params.set_all(&values);
        }
        let fault = fault.map_or(String::new(), |e| format!(": {e}"));
        Err(Error::content(
            checkpoint.path(),
            format!("expected the weights of {}{fault}", self.network),
        ))
    }

    /// The tensors that the network has, with its names and shapes. The first `cut` bytes of the file's names
    /// are left out.
    fn chosen<'a>(
        &self,
        tensors: &'a [Located],
        cut: usize,
    ) -> Vec<(String, &'a Located, Vec<usize>)> {
        let mut chosen = Vec::new();
        for tensor in tensors {
            let Some((name, dense)) = renamed(&self.network, &tensor.name[cut..]) else {
                continue;
            };
            let mut shape = tensor.shape.clone();
            if dense && shape.len() == 4 {
                // A convolution over the whole map, which is a dense layer: the numbers lie in the same order.
                shape = vec![shape[0], shape[1..].iter().product()];
            }
            chosen.push((name, tensor, shape));
        }
        chosen
    }
}

/// The name in our network of a published one, and whether a dense layer may be there as a convolution; nothing for what
/// the network does not have.
fn renamed(network: &str, name: &str) -> Option<(String, bool)> {
    if is_bookkeeping(name) {
        return None;
    }
    let (kept, dense) = match network {
        // The head for the people of its training set.
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
        // The file has the text encoder as well.
        "clip_base" => {
            let ours = name.starts_with("vision_model.") || name == "visual_projection.weight";
            (ours && !name.ends_with("position_ids"), false)
        }
        _ => (true, false),
    };
    kept.then(|| (name.to_string(), dense))
}

impl Hub {
    /// A network with its published weights, by its name in [`weights_names`]: frozen, in evaluation mode, on the CPU.
    ///
    /// ```no_run
    /// use invariances::{backbone::{Greybox, Network}, hub::Hub};
    /// let alexnet = Hub::open()?.backbone("alexnet")?;
    /// println!("{}", alexnet.table(227)?);
    /// let fc6 = Greybox::new(&alexnet, "fc6")?;
    /// # Ok::<(), invariances::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`weights`] and [`Weights::fetch`].
    pub fn backbone(&self, name: &str) -> Result<Backbone> {
        weights(name)?.fetch(self)
    }

    /// The names of a model's classes, as the `id2label` of its `config.json` has them; `google/vit-base-patch16-224` has those of
    /// ImageNet.
    ///
    /// # Errors
    /// [`Error::Download`] where the file cannot be had, [`Error::Content`] where it names no classes.
    pub fn class_names(&self, model: &str) -> Result<Vec<String>> {
        let path = self.model(model)?.file("config.json")?;
        let wrong = |what: String| Error::content(&path, what);
        let length = std::fs::metadata(&path).map_err(|e| Error::io(&path, e))?;
        if length.len() > LABELS {
            return Err(wrong(format!("{} bytes are too many", length.len())));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        #[derive(Deserialize)]
        struct Config {
            id2label: Option<BTreeMap<String, String>>,
        }
        let config: Config = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let labels = config
            .id2label
            .ok_or_else(|| wrong("it has no id2label, which names the classes".into()))?;
        let name = |i: usize| {
            let found = labels.get(&i.to_string()).cloned();
            found.ok_or_else(|| {
                wrong(format!(
                    "id2label has {} classes and none with the number {}",
                    labels.len(),
                    shown(&i.to_string())
                ))
            })
        };
        (0..labels.len()).map(name).collect()
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
