//! Finds the state dict among the dicts of a torch file, and the positions of its tensors in the
//! file.

use super::pickle::{Kind, Objects, Value};
use super::source::{Source, listed};
use super::torch::Torch;
use crate::{Error, Result};
use invariances_core::names::shown;
use invariances_core::say;
use std::collections::HashSet;

/// Keys under which training scripts store the state dict next to other values, in order of
/// preference.
const USUAL: [&str; 3] = ["state_dict", "model_state_dict", "model"];
/// Largest total size of all tensors, as a multiple of the file's size. It may exceed 1 because
/// tensors can share values.
const SHARED: u64 = 4;
/// Additional bytes allowed beyond that multiple, for small files.
const FREE: u64 = 16 << 20;
/// At most this many unread values are kept by name, for error messages.
const UNREAD: usize = 1000;

/// A tensor in the file.
#[derive(Clone, Debug)]
pub(super) struct Located {
    pub name: String,
    pub kind: Kind,
    /// The byte of the file at which its first element begins.
    pub at: u64,
    pub shape: Vec<usize>,
    /// Strides in elements; `None` if the tensor is contiguous.
    pub stride: Option<Vec<u64>>,
    /// Number of stored elements from its first to its last, both included.
    pub span: u64,
    /// Whether its values are the negatives of the stored values.
    pub negative: bool,
}

/// The tensors of a state dict, sorted by name.
#[derive(Default)]
pub(super) struct State {
    pub tensors: Vec<Located>,
    /// Names whose value is not a tensor, and the class of this value.
    pub unread: Vec<(String, String)>,
}

/// Returns an error if the tensors together are much larger than the file, because they repeat
/// the same few stored values.
pub(super) fn check_size(source: &Source, tensors: &[Located]) -> Result<()> {
    let limit = source.len().saturating_mul(SHARED).saturating_add(FREE);
    let mut total = 0u64;
    for tensor in tensors {
        // The product cannot overflow: this was checked when the description was read.
        let count: u64 = tensor.shape.iter().map(|d| *d as u64).product();
        let bytes = count.max(tensor.span).saturating_mul(tensor.kind.size());
        total = total.saturating_add(bytes);
        if total > limit {
            return Err(source.wrong(format!(
                "its tensors repeat the same stored values: the tensors up to {} take {total} bytes, \
                 but the file has {} bytes; make them contiguous in Python and save them again",
                shown(&tensor.name),
                source.len()
            )));
        }
    }
    Ok(())
}

/// Counts the values of a dict that are tensors with a text key, and the other values. Tensors
/// that cannot be read count as tensors, because the error must report their names.
fn tensors_in(objects: &Objects, value: Value) -> (usize, usize) {
    let pairs = objects.dict(value).unwrap_or(&[]);
    let named = pairs.iter().filter(|(k, v)| {
        let tensor = matches!(v, Value::Tensor(_)) || objects.is_tensor_like(*v);
        matches!(k, Value::Text(_)) && tensor
    });
    let tensors = named.count();
    (tensors, pairs.len() - tensors)
}

/// Describes the values of a dict or a list, for error messages.
fn described(objects: &Objects, value: Value) -> String {
    let about = |v: Value| match v {
        Value::Dict(_) => match tensors_in(objects, v) {
            (0, n) => format!("a dict of {n}"),
            (n, _) => format!("a dict of {n} tensors"),
        },
        Value::List(_) | Value::Tuple(_) => "a list".into(),
        Value::Tensor(_) => "a tensor".into(),
        Value::Opaque(_) => format!("an object of {}", shown(objects.name(v))),
        _ => "a value that is not a tensor".into(),
    };
    if let Some(pairs) = objects.dict(value) {
        let keys: Vec<String> = pairs
            .iter()
            .take(1000)
            .filter_map(|(k, v)| {
                let key = match k {
                    Value::Int(n) => n.to_string(),
                    other => objects.text(*other)?.to_string(),
                };
                Some(format!("{} ({})", shown(&key), about(*v)))
            })
            .collect();
        return format!("the keys {}", listed(&keys));
    }
    match objects.sequence(value) {
        Some(items) => format!("a list of {}", items.len()),
        None => about(value),
    }
}

/// Returns the value under `key` in a dict, or the element with this index in a list.
fn child(objects: &Objects, value: Value, key: &str) -> Option<Value> {
    if let Some(found) = objects.get(value, key) {
        return Some(found);
    }
    let number: i64 = key.parse().ok()?;
    match objects.dict(value) {
        Some(pairs) => {
            let found = pairs.iter().rev().find(|(k, _)| *k == Value::Int(number));
            found.map(|(_, v)| *v)
        }
        None => objects
            .sequence(value)?
            .get(usize::try_from(number).ok()?)
            .copied(),
    }
}

/// Makes the error for a file that contains a whole object of a class instead of a state dict.
fn pickled_object(source: &Source, objects: &Objects, value: Value, place: &str) -> Error {
    source.wrong(format!(
        "expected a state dict, found an object of {} {place}. A checkpoint is read as data only, \
         and such an object can only be loaded in Python with this class. If you trust the file, \
         load it in Python and save its state dict: `torch.save(x.state_dict(), \"weights.pt\")`",
        shown(objects.name(value))
    ))
}

/// Chooses the state dict of a file if the caller selected no part.
fn choose(source: &Source, torch: &Torch) -> Result<Value> {
    let (objects, root) = (&torch.objects, torch.root);
    let (own, others) = tensors_in(objects, root);
    // A dict of tensors only is the state dict, even if one of its tensors is called `model`.
    if own > 0 && others == 0 {
        return Ok(root);
    }
    let usual: Vec<(&str, Value)> = USUAL
        .iter()
        .filter_map(|key| Some((*key, objects.get(root, key)?)))
        .collect();
    if let Some((_, state)) = usual.iter().find(|(_, v)| tensors_in(objects, *v).0 > 0) {
        return Ok(*state);
    }
    let mut searched = HashSet::new();
    let mut is_network =
        |v: Value| matches!(v, Value::Opaque(_)) && objects.holds_tensor(v, &mut searched);
    if let Some((key, object)) = usual.iter().find(|(_, v)| is_network(*v)) {
        let place = format!("under {key:?}");
        return Err(pickled_object(source, objects, *object, &place));
    }
    if is_network(root) {
        return Err(pickled_object(source, objects, root, "instead"));
    }
    // Otherwise: the only dict of tensors, under any key. The same dict under two keys counts once.
    let mut distinct = HashSet::new();
    let mut nested = Vec::new();
    for (key, value) in objects.dict(root).unwrap_or_default() {
        if let (Some(key), true) = (objects.text(*key), matches!(value, Value::Dict(_)))
            && distinct.insert(*value)
            && tensors_in(objects, *value).0 > own
        {
            nested.push((key, *value));
        }
    }
    match nested.as_slice() {
        [(key, state)] => {
            let file = source.path().file_name().unwrap_or_default().display();
            say(&format!(
                "{file}: reading the state dict under {:?}, the only one in the file",
                shown(key)
            ));
            Ok(*state)
        }
        [] if own > 0 => Ok(root),
        _ => Err(source.wrong(format!(
            "expected a state dict, alone or under the key {}, found {}. Select another key with \
             `Checkpoint::open_part`",
            USUAL.join(" or "),
            described(objects, root)
        ))),
    }
}

/// Returns the state dict under `part`: a key, or several keys separated by `/`.
fn choose_part(source: &Source, torch: &Torch, part: &str) -> Result<Value> {
    let objects = &torch.objects;
    let (mut value, mut rest) = (torch.root, part);
    loop {
        if let Some(found) = child(objects, value, rest) {
            value = found;
            break;
        }
        let step = rest
            .split_once('/')
            .and_then(|(first, more)| Some((child(objects, value, first)?, more)));
        let Some((next, more)) = step else {
            return Err(source.wrong(format!(
                "expected a value under {rest:?}, found {}",
                described(objects, value)
            )));
        };
        (value, rest) = (next, more);
    }
    if matches!(value, Value::Opaque(_)) {
        return Err(pickled_object(
            source,
            objects,
            value,
            &format!("under {part:?}"),
        ));
    }
    if tensors_in(objects, value).0 == 0 {
        return Err(source.wrong(format!(
            "expected a state dict under {part:?}, found {}",
            described(objects, value)
        )));
    }
    Ok(value)
}

/// Locates the tensors of a file's state dict, or of the state dict under `part`, by name.
pub(super) fn locate(source: &Source, torch: &Torch, part: Option<&str>) -> Result<State> {
    let objects = &torch.objects;
    let dict = match part {
        Some(part) => choose_part(source, torch, part)?,
        None => choose(source, torch)?,
    };
    let mut state = State::default();
    let mut named: Vec<(&str, u32)> = Vec::new();
    let mut searched = HashSet::new();
    for (key, value) in objects.dict(dict).unwrap_or_default() {
        let Some(name) = objects.text(*key) else {
            continue;
        };
        match *value {
            Value::Tensor(tensor) => named.push((name, tensor)),
            // A module's extra state is a separate object, not a tensor of the network.
            Value::Opaque(_) if name.ends_with("_extra_state") => {}
            Value::Opaque(_) if objects.holds_tensor(*value, &mut searched) => {
                return Err(source.wrong(format!(
                    "the tensor {} cannot be read: {}",
                    shown(name),
                    objects.why_refused(*value)
                )));
            }
            Value::Opaque(_) if state.unread.len() < UNREAD && name.len() <= 1000 => {
                let what = shown(objects.name(*value));
                state.unread.push((name.into(), what));
            }
            _ => {}
        }
    }
    named.sort_unstable();
    if let Some(twice) = named.windows(2).find(|w| w[0].0 == w[1].0) {
        return Err(source.wrong(format!(
            "expected different names, found two tensors with the name {}",
            shown(twice[0].0)
        )));
    }
    state.tensors.reserve(named.len());
    for (name, tensor) in named {
        let strided = &objects.tensors[tensor as usize];
        let empty = strided.shape.contains(&0);
        let at = torch.place(source, strided.storage, name)?;
        // The stride of a dimension of size 1 is never used and may have any value.
        let stride: Vec<u64> = std::iter::zip(&strided.shape, &strided.stride)
            .map(|(d, s)| if *d == 1 { 0 } else { *s })
            .collect();
        // At most the size of the storage; this was checked when the pickle was read.
        let span = if empty {
            0
        } else {
            let steps = std::iter::zip(&strided.shape, &stride);
            steps.map(|(d, s)| (*d as u64 - 1) * s).sum::<u64>() + 1
        };
        state.tensors.push(Located {
            name: name.into(),
            kind: strided.kind,
            at: at + strided.start,
            shape: strided.shape.clone(),
            stride: (!empty && !is_contiguous(&strided.shape, &stride)).then_some(stride),
            span,
            negative: strided.negative,
        });
    }
    Ok(state)
}

/// Whether a tensor is contiguous (row-major). The stride of a dimension of size 1 is ignored.
fn is_contiguous(shape: &[usize], stride: &[u64]) -> bool {
    let mut expected = 1;
    for (d, s) in shape.iter().zip(stride).rev() {
        if *d != 1 && *s != expected {
            return false;
        }
        expected *= *d as u64;
    }
    true
}
