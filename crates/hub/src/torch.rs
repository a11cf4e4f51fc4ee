//! The files of torch: a pickle that describes, and numbers that lie beside it.

use super::pickle::{self, Objects, Value};
use super::source::Source;
use super::zip::Archive;
use crate::{Error, Result};
use invariances_core::names::shown;

/// The version of the format before torch 1.6.
const PROTOCOL: i64 = 1001;

/// A file's objects, and where its storages are.
pub(super) struct Torch {
    pub objects: Objects,
    pub root: Value,
    places: Places,
}

enum Places {
    /// By storage.
    Legacy(Vec<Option<u64>>),
    /// By name, in the folder of the archive.
    Zip(Archive, String),
}

impl Torch {
    /// Reads the description in a file of torch 1.6 or later.
    pub fn zip(source: &Source) -> Result<Self> {
        let archive = Archive::open(source)?;
        if archive
            .names()
            .iter()
            .any(|n| n.ends_with("/constants.pkl"))
        {
            return Err(source.wrong(
                "a TorchScript program, not a checkpoint: load it in Python and save its state_dict()",
            ));
        }
        let name = archive.only(source, "data.pkl")?;
        let folder = name.strip_suffix("data.pkl").unwrap_or("").to_string();
        let (start, size) = archive
            .find(source, name)?
            .ok_or_else(|| source.wrong("its data.pkl is gone"))?;
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

    /// Reads the description in a file of torch before 1.6, and where its numbers are.
    pub fn legacy(source: &Source) -> Result<Self> {
        let len = source.len();
        let (_, magic, at) = pickle::read(source, 0, len)?;
        let (_, protocol, at) = pickle::read(source, at, len)?;
        if magic != Value::Magic || protocol != Value::Int(PROTOCOL) {
            return Err(source.wrong(format!(
                "not a checkpoint of torch: expected its magic number and protocol {PROTOCOL}"
            )));
        }
        let (system, described, at) = pickle::read(source, at, len)?;
        if system.get(described, "little_endian") == Some(Value::Bool(false)) {
            return Err(big(source, "big"));
        }
        let (objects, root, at) = pickle::read(source, at, len)?;
        let (keys, list, at) = pickle::read(source, at, len)?;
        let list = keys.sequence(list).ok_or_else(|| {
            source.wrong("expected a list of its storages' keys behind the pickle")
        })?;
        let places = places(source, &objects, &keys, list, at)?;
        Ok(Self {
            objects,
            root,
            places: Places::Legacy(places),
        })
    }

    /// Where the numbers of a storage begin in the file; `tensor` is whose they are.
    pub fn place(&self, source: &Source, storage: u32, tensor: &str) -> Result<u64> {
        let described = &self.objects.storages[storage as usize];
        let missing = || {
            source.wrong(format!(
                "the numbers of {} are missing: there is no storage {}",
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
                        "damaged: the numbers of {} take {expected} bytes, and storage {} has {size}",
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
        "expected numbers in byte order \"little\", found {:?}: load the file on the machine that wrote it and save it as safetensors",
        shown(order)
    ))
}

/// Where the numbers of each storage begin: behind the pickles lie, in the order of `list`, a count and the numbers.
fn places(
    source: &Source,
    objects: &Objects,
    keys: &Objects,
    list: &[Value],
    mut at: u64,
) -> Result<Vec<Option<u64>>> {
    let mut places = vec![None; objects.storages.len()];
    for (i, key) in list.iter().enumerate() {
        let key = keys
            .text(*key)
            .ok_or_else(|| source.wrong("a storage's key is no text"))?;
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
                "damaged at byte {at}: {what} has {count} numbers, and the pickle says {}",
                described.count
            )));
        }
        // Held against the file's length when the pickle was read, so neither product nor sum overflows.
        let size = count * described.class.size();
        source.check(at + 8, size, &what)?;
        *place = Some(at + 8);
        at += 8 + size;
    }
    Ok(places)
}
