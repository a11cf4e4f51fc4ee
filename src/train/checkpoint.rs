use super::adam::Adam;
use super::log::Log;
use crate::ops::Params;
use crate::ops::files::write_atomic;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// The newest checkpoint, and the one before it, kept for the case that the newer is damaged.
pub(super) const NEWEST: &str = "checkpoint.safetensors";
pub(super) const BEFORE: &str = "checkpoint-before.safetensors";
/// A checkpoint that is whole but has not taken its place yet.
pub(super) const NEXT: &str = "checkpoint-next.safetensors";

/// A running mean of the parameters, by name.
pub(super) type Average = HashMap<String, Tensor>;

/// Everything that a training needs to go on as if it had not been interrupted.
pub(super) struct State<'a> {
    pub params: &'a Params,
    pub adam: &'a mut Adam,
    pub average: &'a mut Option<Average>,
    pub log: &'a mut Log,
}

/// What a checkpoint says beside its tensors.
pub(super) struct Place {
    pub step: u64,
    pub seconds: f64,
}

/// The hash of all tensors in the order of their names: a file of the right size can still be damaged.
fn hash(tensors: &mut [(String, Tensor)]) -> Result<String> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = blake3::Hasher::new();
    for (name, tensor) in tensors {
        hash.update(name.as_bytes());
        let mut bytes = Vec::new();
        tensor.write_bytes(&mut bytes)?;
        hash.update(&bytes);
    }
    Ok(hash.finalize().to_hex().to_string())
}

pub(super) fn write(folder: &Path, place: &Place, state: &State) -> Result<()> {
    let mut tensors = Vec::new();
    for (name, tensor) in state.params.tensors() {
        tensors.push((format!("param/{name}"), tensor.to_device(&Device::Cpu)?));
    }
    for (name, tensor) in state.average.iter().flatten() {
        tensors.push((format!("average/{name}"), tensor.to_device(&Device::Cpu)?));
    }
    tensors.extend(state.adam.state()?);
    tensors.extend(state.log.state()?);
    let metadata = HashMap::from([
        ("step".to_string(), place.step.to_string()),
        ("seconds".into(), place.seconds.to_string()),
        (
            "columns".into(),
            serde_json::json!(state.log.columns()).to_string(),
        ),
        ("hash".into(), hash(&mut tensors)?),
        ("version".into(), crate::VERSION.into()),
    ]);
    let path = folder.join(NEWEST);
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| Error::content(&path, format!("cannot be written as safetensors: {e}")))?;
    // Written first, moved then: a full disk or a kill at any point leaves a checkpoint that can be read.
    let next = folder.join(NEXT);
    write_atomic(&next, &bytes)?;
    if path.exists() {
        let before = folder.join(BEFORE);
        std::fs::rename(&path, &before).map_err(|e| Error::io(&before, e))?;
    }
    std::fs::rename(&next, &path).map_err(|e| Error::io(&path, e))
}

/// Takes up a checkpoint of a training of at most `steps` steps. Nothing has changed where this fails.
pub(super) fn read(path: &Path, steps: u64, state: &mut State) -> Result<Place> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let damaged = |what: &str| Error::content(path, format!("damaged checkpoint: {what}"));
    let (_, header) =
        safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let text = |key: &str| {
        metadata
            .get(key)
            .ok_or_else(|| damaged(&format!("it does not say {key}")))
    };
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| damaged(&e.to_string()))?;
    let mut all: Vec<_> = tensors
        .iter()
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    if &hash(&mut all)? != text("hash")? {
        return Err(damaged("its content does not have the hash that it states"));
    }
    let place = Place {
        step: text("step")?.parse().map_err(|_| damaged("step"))?,
        seconds: text("seconds")?.parse().map_err(|_| damaged("seconds"))?,
    };
    if place.step > steps {
        return Err(Error::content(
            path,
            format!(
                "a checkpoint of step {}, but this training has {steps} steps",
                place.step
            ),
        ));
    }
    let columns: Vec<String> =
        serde_json::from_str(text("columns")?).map_err(|_| damaged("columns"))?;
    let part = |prefix: &str| -> HashMap<String, Tensor> {
        let with = tensors
            .iter()
            .filter_map(|(n, t)| Some((n.strip_prefix(prefix)?.to_string(), t.clone())));
        with.collect()
    };
    let other = |what: String| Error::content(path, format!("of another training: {what}"));
    let average = match state.average.as_ref() {
        None => None,
        Some(average) => {
            let mut restored = Average::new();
            for (name, value) in average {
                let saved = tensors
                    .get(&format!("average/{name}"))
                    .filter(|t| t.dims() == value.dims() && t.dtype() == value.dtype())
                    .ok_or_else(|| other(format!("it has no running mean of {name}")))?;
                restored.insert(name.clone(), saved.to_device(value.device())?);
            }
            Some(restored)
        }
    };
    let mut log = state.log.clone();
    log.set_state(&tensors, &columns)?;
    // The optimiser's names and shapes are the parameters', so only buffers can differ after it:
    // those are compared before it changes.
    let params = part("param/");
    state
        .params
        .check_all(&params)
        .and_then(|()| state.adam.set_state(&tensors))
        .map_err(|e| other(e.to_string()))?;
    state.params.set_all(&params)?;
    *state.log = log;
    *state.average = average;
    Ok(place)
}
