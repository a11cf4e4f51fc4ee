//! Files that `torch.save` writes: a pickle that describes the objects, and the tensors' values
//! outside the pickle. This module reads both formats, zip and legacy.

use super::pickle::{self, Objects, Value};
use super::source::Source;
use super::zip::Archive;
use crate::{Error, Result};
use invariances_core::names::shown;

/// Version number in files of the format before torch 1.6.
const PROTOCOL: i64 = 1001;

/// The objects of a file, and the positions of its storages.
pub(super) struct Torch {
    pub objects: Objects,
    pub root: Value,
    places: Places,
}

enum Places {
    /// The first byte of each storage, by the storage's index.
    Legacy(Vec<Option<u64>>),
    /// The archive, and the folder in it that contains the storages as entries.
    Zip(Archive, String),
}

impl Torch {
    /// Reads the objects in a file of torch 1.6 or later.
    pub fn zip(source: &Source) -> Result<Self> {
        let archive = Archive::open(source)?;
        if archive
            .names()
            .iter()
            .any(|n| n.ends_with("/constants.pkl"))
        {
            return Err(source.wrong(
                "expected a checkpoint, found a TorchScript program: load it in Python and save its state_dict()",
            ));
        }
        let name = archive.only(source, "data.pkl")?;
        let folder = name.strip_suffix("data.pkl").unwrap_or("").to_string();
        let (start, size) = archive
            .find(source, name)?
            .ok_or_else(|| source.wrong("the entry data.pkl is missing"))?;
        if let Some((at, size)) = archive.find(source, &format!("{folder}byteorder"))? {
            let order = source.read(at, size.min(16), "the byte order")?;
            if order != b"little" {
                return Err(big(source, &String::from_utf8_lossy(&order)));
            }
        }
        let (objects, root, _) = pickle::read(source, start, start + size)?;
        Ok(Self {
            objects,
            root,
            places: Places::Zip(archive, folder),
        })
    }

    /// Reads the objects in a file of torch before 1.6, and the positions of its storages.
    pub fn legacy(source: &Source) -> Result<Self> {
        let len = source.len();
        let (_, magic, at) = pickle::read(source, 0, len)?;
        let (_, protocol, at) = pickle::read(source, at, len)?;
        if magic != Value::Magic || protocol != Value::Int(PROTOCOL) {
            return Err(source.wrong(format!(
                "expected torch's magic number and protocol {PROTOCOL}, found other values: the file is not a torch checkpoint"
            )));
        }
        let (system, described, at) = pickle::read(source, at, len)?;
        if system.get(described, "little_endian") == Some(Value::Bool(false)) {
            return Err(big(source, "big"));
        }
        let (objects, root, at) = pickle::read(source, at, len)?;
        let (keys, list, at) = pickle::read(source, at, len)?;
        let list = keys.sequence(list).ok_or_else(|| {
            source.wrong("expected a list of the storages' keys after the pickle")
        })?;
        let places = places(source, &objects, &keys, list, at)?;
        Ok(Self {
            objects,
            root,
            places: Places::Legacy(places),
        })
    }

    /// Returns the byte at which the values of a storage begin. `tensor` is the name of a tensor
    /// that uses them, for errors.
    pub fn place(&self, source: &Source, storage: u32, tensor: &str) -> Result<u64> {
        let described = &self.objects.storages[storage as usize];
        let missing = || {
            source.wrong(format!(
                "the values of {} are missing: there is no storage {}",
                shown(tensor),
                shown(&described.key)
            ))
        };
        match &self.places {
            Places::Legacy(places) => places[storage as usize].ok_or_else(missing),
            Places::Zip(archive, folder) => {
                let name = format!("{folder}data/{}", described.key);
                let (at, size) = archive.find(source, &name)?.ok_or_else(missing)?;
                let expected = described.count * described.class.size();
                if size != expected {
                    return Err(source.wrong(format!(
                        "damaged: the values of {} take {expected} bytes, but storage {} has {size}",
                        shown(tensor),
                        shown(&described.key)
                    )));
                }
                Ok(at)
            }
        }
    }
}

fn big(source: &Source, order: &str) -> Error {
    source.wrong(format!(
        "expected values in byte order \"little\", found {:?}: load the file on the machine that wrote it and save it as safetensors",
        shown(order)
    ))
}

/// Finds the byte at which the values of each storage begin. After the pickles, the file
/// contains, for each key in `list` in this order, the number of elements (8 bytes) and the values.
fn places(
    source: &Source,
    objects: &Objects,
    keys: &Objects,
    list: &[Value],
    mut at: u64,
) -> Result<Vec<Option<u64>>> {
    let mut places = vec![None; objects.storages.len()];
    for (i, key) in list.iter().enumerate() {
        let key = keys.text(*key).ok_or_else(|| {
            source.wrong("expected text as the key of a storage, found another object")
        })?;
        let what = format!("storage {} of {} (key {})", i + 1, list.len(), shown(key));
        let storage = objects.storage(key).ok_or_else(|| {
            source.wrong(format!(
                "{what} is not in the pickle, so its size is unknown"
            ))
        })?;
        let place = &mut places[storage as usize];
        if place.is_some() {
            return Err(source.wrong(format!("{what} is listed twice")));
        }
        let count = source.read(at, 8, &what)?;
        let count = count.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let described = &objects.storages[storage as usize];
        if count != described.count {
            return Err(source.wrong(format!(
                "damaged at byte {at}: {what} has {count} elements, expected {} as in the pickle",
                described.count
            )));
        }
        // The count was compared with the file's length when the pickle was read, so neither the
        // product nor the sum overflows.
        let size = count * described.class.size();
        source.check(at + 8, size, &what)?;
        *place = Some(at + 8);
        at += 8 + size;
    }
    Ok(places)
}
