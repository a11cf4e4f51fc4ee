//! Networks with weights from a hub on loopback: from its file to features, and what must be said where that fails.

mod common;
#[path = "common/hub.rs"]
mod loopback;

use invariances::backbone::{Backbone, Greybox, Network, Preprocess};
use invariances::candle_core::{DType, Device, Tensor};
use invariances::hub::{Hub, HubNetworks, Weights, weights, weights_names};
use invariances::ops::{Params, Rng};
use invariances::{Error, Result};
use loopback::{LoopbackHub, Repo};
use std::collections::HashMap;
use std::time::Duration;

/// A network's weights by the rule, under published names that `rename` gives them, as a safetensors file.
fn published(
    weights: &Weights,
    rename: impl Fn(&str) -> String,
    more: &[(&str, &[usize])],
) -> Result<(Backbone, Vec<u8>)> {
    let params = Params::blank(&Device::Cpu);
    let network = weights.network(&params.root())?;
    common::fill(&params, &HashMap::new())?;
    let mut tensors: Vec<(String, Tensor)> = params
        .tensors()
        .into_iter()
        .map(|(name, t)| (rename(&name), t))
        .collect();
    for (name, shape) in more {
        let value = Tensor::zeros(*shape, DType::F32, &Device::Cpu)?;
        tensors.push((name.to_string(), value));
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|e| Error::invalid(format!("cannot be written: {e}")))?;
    Ok((network.frozen()?, bytes))
}

fn hub(server: &LoopbackHub, folder: &std::path::Path) -> Result<Hub> {
    Ok(Hub::open()?
        .with_endpoint(server.endpoint())?
        .with_cache(folder)?
        .with_offline(false)
        .with_progress(false)
        .with_retries(1, Duration::from_millis(1)))
}

fn features(network: &Backbone, layer: &str, size: usize) -> Result<Vec<f32>> {
    let network = network.with_preprocess(&Preprocess::none());
    let x = Rng::new(0).normal((2, 3, size, size), &Device::Cpu)?;
    let z = Greybox::new(&network, layer)?.encode(&x)?;
    Ok(z.flatten_all()?.to_vec1()?)
}

/// Hub → file → network → greybox → features; then the same from the cache, with the hub gone.
#[test]
fn a_network_comes_from_the_hub_and_then_from_the_cache() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    let wanted = weights("resnet18")?;
    let more: [(&str, &[usize]); 2] = [
        ("bn1.num_batches_tracked", &[]),
        ("layer4.1.bn2.num_batches_tracked", &[]),
    ];
    let (network, file) = published(&wanted, str::to_string, &more)?;
    let expected = features(&network, "layer4", 64)?;
    let repo = Repo::model("timm/resnet18.tv_in1k").large("model.safetensors", file);
    let server = LoopbackHub::start(vec![repo]);
    let here = hub(&server, folder.path())?;
    let found = here.backbone("resnet18")?;
    assert_eq!(features(&found, "layer4", 64)?, expected);
    assert_eq!(
        found.parameters().map(|p| p.iter().sum()),
        Some(11_689_512usize)
    );
    let asked = server.requests().len();
    let again = here.with_offline(true).backbone("resnet18")?;
    assert_eq!(features(&again, "layer4", 64)?, expected);
    assert_eq!(
        server.requests().len(),
        asked,
        "a file that is there is not asked for"
    );
    Ok(())
}

/// Names that are not ours, and parts of a file that belong to another network.
#[test]
fn published_names_become_ours() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).map_err(|e| Error::io(&path, e))?;
        Ok::<_, Error>(path)
    };
    let same = |wanted: &Weights, network: &Backbone, bytes: &[u8], layer: &str, size| {
        let found = wanted.load(write("weights", bytes)?)?;
        assert_eq!(
            features(&found, layer, size)?,
            features(network, layer, size)?
        );
        Ok::<(), Error>(())
    };
    let facenet = weights("facenet")?;
    let heads: [(&str, &[usize]); 2] = [("logits.weight", &[9, 512]), ("logits.bias", &[9])];
    let (network, bytes) = published(&facenet, str::to_string, &heads)?;
    same(&facenet, &network, &bytes, "embedding", 90)?;
    // One more class than it has.
    let mine = Weights {
        outputs: Some(7),
        ..weights("squeezenet1_1")?
    };
    let (_, bytes) = published(&mine, str::to_string, &[])?;
    let other = weights("squeezenet1_1")?.load(write("other", &bytes)?);
    let text = other.unwrap_err().to_string();
    assert!(
        text.contains("expected the weights of squeezenet1_1")
            && text.contains("classifier.1.bias has shape [7], expected [1000]"),
        "{text}"
    );
    same(
        &mine,
        &mine.load(write("mine", &bytes)?)?,
        &bytes,
        "fire9",
        64,
    )?;
    // The image encoder alone, from a file with both.
    let clip = weights("clip_base")?;
    let text_encoder: [(&str, &[usize]); 3] = [
        ("text_model.final_layer_norm.weight", &[512]),
        ("vision_model.embeddings.position_ids", &[1, 50]),
        ("logit_scale", &[]),
    ];
    let (network, bytes) = published(&clip, str::to_string, &text_encoder)?;
    same(&clip, &network, &bytes, "visual_projection", 64)
}

/// Weights from training scripts, which wrap the network before they save it.
#[test]
fn wrapped_weights_of_a_known_network_load() -> Result<()> {
    let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    let path = folder.path().join("weights");
    let wanted = weights("squeezenet1_1")?;
    for prefix in ["module.", "_orig_mod.module.", "model.net."] {
        let more: [(&str, &[usize]); 1] = [(&format!("{prefix}n.num_batches_tracked"), &[])];
        let (network, bytes) = published(&wanted, |name| format!("{prefix}{name}"), &more)?;
        std::fs::write(&path, bytes).map_err(|e| Error::io(&path, e))?;
        let found = wanted.load(&path)?;
        assert_eq!(
            features(&found, "fire9", 64)?,
            features(&network, "fire9", 64)?,
            "{prefix}"
        );
    }
    Ok(())
}

#[test]
fn what_is_not_known_is_said() -> Result<()> {
    assert!(weights_names()?.len() >= 15);
    let text = weights("resnet5O").unwrap_err().to_string();
    assert!(text.contains("did you mean \"resnet50\"?"), "{text}");
    let wrong = Weights {
        network: "resnet51".into(),
        ..weights("resnet50")?
    };
    let params = Params::blank(&Device::Cpu);
    let text = wrong.network(&params.root()).unwrap_err().to_string();
    assert!(text.contains("no network \"resnet51\""), "{text}");
    let none = Weights {
        outputs: Some(3),
        ..weights("facenet")?
    };
    let text = none.network(&params.root()).unwrap_err().to_string();
    assert!(text.contains("no classes"), "{text}");
    let folder = tempfile::tempdir().map_err(|e| Error::io("a temporary folder", e))?;
    let server = LoopbackHub::start(vec![
        Repo::model("some/labels").file("config.json", r#"{"id2label": {"0": "cat", "1": "dog"}}"#),
        Repo::model("some/gap").file("config.json", r#"{"id2label": {"0": "cat", "2": "dog"}}"#),
        Repo::model("some/none").file("config.json", "{}"),
    ]);
    let here = hub(&server, folder.path())?;
    assert_eq!(here.class_names("some/labels")?, ["cat", "dog"]);
    let text = here.class_names("some/gap").unwrap_err().to_string();
    assert!(text.contains("no class with index 1"), "{text}");
    let text = here.class_names("some/none").unwrap_err().to_string();
    assert!(text.contains("expected id2label"), "{text}");
    let nowhere = Weights {
        repository: None,
        url: None,
        ..weights("resnet50")?
    };
    let text = nowhere.path(&here).unwrap_err().to_string();
    assert!(text.contains("`repository` or `url`"), "{text}");
    let escaping = Weights {
        repository: None,
        url: Some(format!("{}/files/..", server.endpoint())),
        ..weights("resnet50")?
    };
    let text = escaping.path(&here).unwrap_err().to_string();
    assert!(text.contains("ends with a file name"), "{text}");
    // A file of the web is told by the beginning of its SHA-256.
    let (network, bytes) = published(&weights("squeezenet1_1")?, str::to_string, &[])?;
    let address = server.share("squeezenet1_1-b8a52dc0.pth", bytes.clone());
    let path = folder.path().join("web/squeezenet1_1.pth");
    let right = &loopback::sha256(&bytes)[..8];
    let text = here
        .download(&address, &path, Some("b8a52dc0"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("b8a52dc0") && text.contains(right), "{text}");
    assert!(!path.exists());
    here.download(&address, &path, Some(right))?;
    let found = weights("squeezenet1_1")?.load(&path)?;
    assert_eq!(
        features(&found, "fire9", 64)?,
        features(&network, "fire9", 64)?
    );
    let text = here
        .download(&address, &path, Some("short"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("digits of a SHA-256"), "{text}");
    Ok(())
}
