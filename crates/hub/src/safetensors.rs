//! Reads the JSON header of a safetensors file: names, element types, shapes and byte offsets of
//! its tensors.

use super::pickle::Kind;
use super::source::Source;
use super::state::Located;
use crate::Result;
use invariances_core::names::shown;
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};

/// Longest header that is read, in bytes.
const LONGEST: u64 = 64 << 20;

#[derive(Deserialize)]
struct Described {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries in file order. A name that occurs twice is an error.
struct Header(Vec<(String, Described)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                let mut names = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!(
                            "expected different names, found two entries with the name {}",
                            shown(&name)
                        )));
                    }
                    if name == "__metadata__" {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Whether a file with these first bytes is a safetensors file.
pub(super) fn recognise(source: &Source, head: &[u8]) -> bool {
    header_size(head).is_some_and(|n| n <= source.len()) && head.get(8) == Some(&b'{')
}

fn header_size(head: &[u8]) -> Option<u64> {
    let bytes = head.get(..8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// Reads the description of every tensor in the file.
pub(super) fn read(source: &Source, head: &[u8]) -> Result<Vec<Located>> {
    let wrong = |what: String| source.wrong(format!("damaged safetensors file: {what}"));
    let size = header_size(head).unwrap_or(0);
    if size > LONGEST {
        return Err(wrong(format!(
            "expected a header of at most {LONGEST} bytes, found {size}"
        )));
    }
    let bytes = source.read(8, size, "the header")?;
    let header: Header = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    let data = 8 + size;
    let mut tensors = Vec::with_capacity(header.0.len());
    for (name, described) in header.0 {
        let kind = match described.dtype.as_str() {
            "F64" => Kind::F64,
            "F32" => Kind::F32,
            "F16" => Kind::F16,
            "BF16" => Kind::Bf16,
            "I64" => Kind::I64,
            "I32" => Kind::I32,
            "I16" => Kind::I16,
            "I8" => Kind::I8,
            "U8" => Kind::U8,
            "BOOL" => Kind::Bool,
            "U16" => Kind::U16,
            "U32" => Kind::U32,
            other => {
                return Err(source.wrong(format!(
                    "{} has elements of type {}, expected F64, F32, F16, BF16, I64, I32, I16, I8, U32, U16, U8 or BOOL",
                    shown(&name),
                    shown(other)
                )));
            }
        };
        let (start, end) = described.data_offsets;
        let shape: Option<Vec<usize>> = described
            .shape
            .iter()
            .map(|d| usize::try_from(*d).ok())
            .collect();
        let taken = shape.as_ref().and_then(|shape| {
            // As for an empty torch tensor: the product of the nonzero dimensions must not
            // overflow either.
            let full = shape
                .iter()
                .try_fold(1usize, |n, d| n.checked_mul((*d).max(1)))?;
            let count = if shape.contains(&0) { 0 } else { full };
            (count as u64).checked_mul(kind.size())
        });
        let (Some(shape), Some(taken)) = (shape, taken) else {
            return Err(wrong(format!(
                "{} has the invalid shape {:?}",
                shown(&name),
                described.shape
            )));
        };
        if end.checked_sub(start) != Some(taken) {
            return Err(wrong(format!(
                "{} of shape {shape:?} takes {taken} bytes, but its data offsets are {start} to {end}",
                shown(&name)
            )));
        }
        let at = data.checked_add(start);
        let at = at.ok_or_else(|| {
            wrong(format!(
                "the data offset of {} is beyond the maximum file size",
                shown(&name)
            ))
        })?;
        source.check(at, taken, &shown(&name))?;
        tensors.push(Located {
            name,
            kind,
            at,
            shape,
            stride: None,
            span: taken / kind.size(),
            negative: false,
        });
    }
    Ok(tensors)
}
