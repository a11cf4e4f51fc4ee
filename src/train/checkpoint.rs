//! Checkpoints of a training run: their content, how they are written so that a readable one
//! remains after a kill, and how they are checked when they are read.

use super::Adam;
use super::log::Log;
use crate::ops::Params;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use invariances_core::files::write_atomic;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The newest checkpoint, and the one before it, which is used if the newest one is damaged.
pub(super) const NEWEST: &str = "checkpoint.safetensors";
pub(super) const BEFORE: &str = "checkpoint-before.safetensors";
/// A complete checkpoint that has not been renamed to its final name yet.
pub(super) const NEXT: &str = "checkpoint-next.safetensors";

/// An exponential moving average of the parameters, by name.
pub(super) type Average = HashMap<String, Tensor>;

/// Everything that a training run needs to continue as if it had not been interrupted.
pub(super) struct State<'a> {
    pub params: &'a Params,
    pub adam: &'a mut Adam,
    pub average: &'a mut Option<Average>,
    /// The parameters of the adversary, and its optimiser.
    pub adversary: Option<(&'a Params, &'a mut Adam)>,
    pub best: &'a mut Option<Best>,
    pub log: &'a mut Log,
}

/// The best validation so far, for early stopping.
#[derive(Clone, Debug)]
pub(super) struct Best {
    pub step: u64,
    pub value: f64,
    /// Number of validations since then.
    pub stale: u32,
    /// The parameters and buffers at the best validation.
    pub weights: Average,
}

/// The position of a checkpoint in the training run, stored in the file's metadata.
pub(super) struct Place {
    pub step: u64,
    pub seconds: f64,
}

/// Returns the hash of all tensors, in the order of their names, and of the metadata: a file of
/// the right size can still be damaged.
fn hash(tensors: &mut [(String, Tensor)], metadata: &HashMap<String, String>) -> Result<String> {
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = blake3::Hasher::new();
    let metadata: BTreeMap<_, _> = metadata
        .iter()
        .filter(|(name, _)| *name != "hash")
        .collect();
    hash.update(format!("{metadata:?}").as_bytes());
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
    let mut put = |name: String, tensor: &Tensor| -> Result<()> {
        tensors.push((name, tensor.to_device(&Device::Cpu)?));
        Ok(())
    };
    for (name, tensor) in state.params.tensors() {
        put(format!("param/{name}"), &tensor)?;
    }
    for (name, tensor) in state.average.iter().flatten() {
        put(format!("average/{name}"), tensor)?;
    }
    for (name, tensor) in state.best.iter().flat_map(|best| &best.weights) {
        put(format!("best/{name}"), tensor)?;
    }
    if let Some((params, adam)) = &state.adversary {
        for (name, tensor) in params.tensors() {
            put(format!("adversary/param/{name}"), &tensor)?;
        }
        for (name, tensor) in adam.state()? {
            put(format!("adversary/{name}"), &tensor)?;
        }
    }
    tensors.extend(state.adam.state()?);
    tensors.extend(state.log.state()?);
    let mut metadata = HashMap::from([
        ("step".to_string(), place.step.to_string()),
        ("seconds".into(), place.seconds.to_string()),
        (
            "columns".into(),
            serde_json::json!(state.log.columns()).to_string(),
        ),
        ("version".into(), crate::VERSION.into()),
    ]);
    if let Some(best) = state.best.as_ref() {
        // The value is stored as bits, because later values are compared with it and text could
        // round it.
        let entry = (best.step, best.value.to_bits(), best.stale);
        metadata.insert("best".into(), serde_json::json!(entry).to_string());
    }
    let hash = hash(&mut tensors, &metadata)?;
    metadata.insert("hash".into(), hash);
    let path = folder.join(NEWEST);
    let bytes = safetensors::serialize(tensors, Some(metadata))
        .map_err(|e| Error::content(&path, format!("cannot be written as safetensors: {e}")))?;
    // The file is written under another name first and then renamed: a full disk or a kill at any
    // point leaves a readable checkpoint.
    let next = folder.join(NEXT);
    write_atomic(&next, &bytes)?;
    if path.exists() {
        let before = folder.join(BEFORE);
        std::fs::rename(&path, &before).map_err(|e| Error::io(&before, e))?;
    }
    std::fs::rename(&next, &path).map_err(|e| Error::io(&path, e))
}

/// Restores a checkpoint of a training run of at most `steps` steps. If this fails, nothing has
/// changed.
pub(super) fn read(path: &Path, steps: u64, state: &mut State) -> Result<Place> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let damaged = |what: &str| Error::content(path, format!("damaged checkpoint: {what}"));
    let (_, header) =
        safetensors::SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e.to_string()))?;
    let metadata = header.metadata().clone().unwrap_or_default();
    let text = |key: &str| {
        metadata
            .get(key)
            .ok_or_else(|| damaged(&format!("its metadata has no {key}")))
    };
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
        .map_err(|e| damaged(&e.to_string()))?;
    let mut all: Vec<_> = tensors
        .iter()
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    if &hash(&mut all, &metadata)? != text("hash")? {
        return Err(damaged(
            "the hash of its content differs from the hash in its metadata",
        ));
    }
    let place = Place {
        step: text("step")?.parse().map_err(|_| damaged("invalid step"))?,
        seconds: text("seconds")?
            .parse()
            .map_err(|_| damaged("invalid seconds"))?,
    };
    if place.step > steps {
        return Err(Error::content(
            path,
            format!(
                "expected a checkpoint of step {steps} or earlier, the length of this training, found step {}",
                place.step
            ),
        ));
    }
    let columns: Vec<String> =
        serde_json::from_str(text("columns")?).map_err(|_| damaged("invalid columns"))?;
    let part = |prefix: &str| -> HashMap<String, Tensor> {
        let with_prefix = tensors
            .iter()
            .filter_map(|(n, t)| Some((n.strip_prefix(prefix)?.to_string(), t.clone())));
        with_prefix.collect()
    };
    let other = |what: String| {
        Error::content(
            path,
            format!("the checkpoint belongs to another training: {what}"),
        )
    };
    // Reads one tensor per parameter, stored under a prefix.
    let all_of = |prefix: &str, like: &Average| -> Result<Average> {
        let one = |(name, value): (&String, &Tensor)| {
            let saved = tensors
                .get(&format!("{prefix}/{name}"))
                .filter(|t| t.dims() == value.dims() && t.dtype() == value.dtype())
                .ok_or_else(|| {
                    other(format!(
                        "it has no tensor {prefix}/{name} of the expected shape and type"
                    ))
                })?;
            Ok((name.clone(), saved.to_device(value.device())?))
        };
        like.iter().map(one).collect()
    };
    let average = state.average.as_ref().map(|a| all_of("average", a));
    let average = average.transpose()?;
    let best = match metadata.get("best") {
        None => None,
        Some(entry) => {
            let (step, value, stale): (u64, u64, u32) =
                serde_json::from_str(entry).map_err(|_| damaged("invalid best"))?;
            let like = state.params.tensors().into_iter().collect();
            Some(Best {
                step,
                value: f64::from_bits(value),
                stale,
                weights: all_of("best", &like)?,
            })
        }
    };
    let mut log = state.log.clone();
    log.set_state(&tensors, &columns)
        .map_err(|e| damaged(&e.to_string()))?;
    // The optimiser's state has the parameters' names and shapes. After it is restored, only
    // buffers could still differ, so the names and shapes of all parameters and buffers are
    // checked before it.
    let params = part("param/");
    let adversary = (part("adversary/param/"), part("adversary/"));
    if let Some((params, _)) = &state.adversary {
        params
            .check_all(&adversary.0)
            .map_err(|e| other(e.to_string()))?;
    } else if !adversary.1.is_empty() {
        return Err(other(
            "it has an adversary, and this training has none".into(),
        ));
    }
    state
        .params
        .check_all(&params)
        .and_then(|()| state.adam.set_state(&tensors))
        .map_err(|e| other(e.to_string()))?;
    state.params.set_all(&params)?;
    if let Some((params, adam)) = &mut state.adversary {
        adam.set_state(&adversary.1)
            .map_err(|e| other(e.to_string()))?;
        params.set_all(&adversary.0)?;
    }
    *state.log = log;
    *state.average = average;
    *state.best = best;
    Ok(place)
}
