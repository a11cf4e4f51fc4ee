//! Finds the entries of a zip archive.
//!
//! torch writes one simple form: entries without compression, then the directory, with nothing
//! before or after. Only this form is read (a comment at the end of the file is also accepted).
//! Every number in the archive's tables can therefore be compared with the file's length before
//! it is used, and no other reader can find different entries.
//!
//! Why not a crate: `zip` 9.8, which candle uses, accepts bytes before the archive, keeps the last
//! of two entries with the same name, and does not check that an entry ends before the directory.
//! The checks, which are half of this file's 250 lines, would remain. `rawzip` 0.5 has no
//! dependencies, and leaves the same checks to its caller.

use super::source::{Source, listed};
use crate::Result;
use invariances_core::names::shown;
use std::collections::HashMap;

/// Longest directory that is read, in bytes: about half a million entries.
const LONGEST: u64 = 64 << 20;

/// Signatures of the archive's tables.
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR: u32 = 0x0706_4b50;
const HEADER: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

/// The entries of an archive, by name.
pub(super) struct Archive {
    entries: HashMap<String, Entry>,
    /// The byte at which the directory begins. All stored entries must end before it.
    directory: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    header: u64,
    size: u64,
    /// Whether it is neither compressed nor encrypted.
    plain: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(b.try_into().ok()?).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(b.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let b = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(b.try_into().ok()?))
}

/// Number of entries, and size and first byte of the directory.
struct End {
    count: u64,
    size: u64,
    start: u64,
}

impl Archive {
    pub fn open(source: &Source) -> Result<Self> {
        let end = find_end(source)?;
        let damaged = || source.wrong("damaged zip archive: its directory cannot be read");
        // An entry of the directory has at least 46 bytes.
        if end.size > LONGEST || end.count > end.size / 46 {
            return Err(source.wrong(format!(
                "damaged zip archive: found {} entries in a directory of {} bytes",
                end.count, end.size
            )));
        }
        let bytes = source.read(end.start, end.size, "the zip archive's directory")?;
        let mut entries = HashMap::new();
        let mut at = 0;
        for _ in 0..end.count {
            let (name, entry, next) = entry(&bytes, at).ok_or_else(damaged)?;
            at = next;
            let text = shown(&name);
            if entries.insert(name, entry).is_some() {
                return Err(source.wrong(format!(
                    "expected different names in the zip archive, found two entries with the name {text}"
                )));
            }
        }
        Ok(Self {
            entries,
            directory: end.start,
        })
    }

    /// Returns the names of the entries, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Returns the first byte of an entry's content in the file and its size in bytes, or `None`
    /// if there is no such entry.
    pub fn find(&self, source: &Source, name: &str) -> Result<Option<(u64, u64)>> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let text = shown(name);
        if !entry.plain {
            return Err(source.wrong(format!(
                "expected a plain entry as written by torch, but the zip entry {text} is compressed or encrypted: load the file in Python and save it again with torch.save"
            )));
        }
        let header = source.read(entry.header, 30, &format!("the zip archive's entry {text}"))?;
        let lengths = u16_at(&header, 26).zip(u16_at(&header, 28));
        let start = lengths
            .filter(|_| u32_at(&header, 0) == Some(LOCAL))
            .and_then(|(name, extra)| (entry.header + 30).checked_add(name + extra));
        let end = start.and_then(|s| s.checked_add(entry.size));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.directory => Ok(Some((start, entry.size))),
            _ => Err(source.wrong(format!(
                "damaged zip archive: its entry {text} of {} bytes is not at the position in the directory",
                entry.size
            ))),
        }
    }

    /// Returns the full name (with its folder) of the only entry called `last`, in any folder.
    pub fn only<'a>(&'a self, source: &Source, last: &str) -> Result<&'a str> {
        let names = self.names();
        let found: Vec<&str> = names
            .iter()
            .filter(|n| n.rsplit('/').next() == Some(last))
            .copied()
            .collect();
        match found.as_slice() {
            [one] => Ok(one),
            [] => Err(source.wrong(format!(
                "expected a zip archive written by torch with an entry {last}, found the entries {}",
                listed(&names)
            ))),
            several => Err(source.wrong(format!(
                "expected one entry {last} in the zip archive, found {}",
                listed(several)
            ))),
        }
    }
}

/// Finds the record at the end of the archive, which must also be the end of the file.
fn find_end(source: &Source) -> Result<End> {
    let none = || {
        source.wrong(format!(
            "truncated zip archive: its end record is missing, and the file ends at byte {}; download it again",
            source.len()
        ))
    };
    // A comment of at most 65,535 bytes may follow the record.
    let tail = source.len().min(22 + 65_535);
    let from = source.len() - tail;
    let bytes = source.read(from, tail, "the zip archive's end")?;
    let last = bytes.len().checked_sub(22).ok_or_else(none)?;
    let is_end = |at: &usize| {
        u32_at(&bytes, *at) == Some(END)
            && u16_at(&bytes, at + 20).is_some_and(|n| at + 22 + n as usize == bytes.len())
    };
    let at = (0..=last).rev().find(is_end).ok_or_else(none)?;
    let fields = || {
        Some(End {
            count: u16_at(&bytes, at + 10)?,
            size: u32_at(&bytes, at + 12)?.into(),
            start: u32_at(&bytes, at + 16)?.into(),
        })
    };
    let mut end = fields().ok_or_else(none)?;
    let mut limit = from + at as u64;
    // The same record with 64-bit numbers, which torch always writes. Its locator precedes the
    // end record.
    let locator = at.checked_sub(20);
    if let Some(locator) = locator.filter(|l| u32_at(&bytes, *l) == Some(LOCATOR)) {
        let place = u64_at(&bytes, locator + 8).ok_or_else(none)?;
        let record = source.read(place, 56, "the zip archive's end")?;
        let fields = || {
            Some(End {
                count: u64_at(&record, 32)?,
                size: u64_at(&record, 40)?,
                start: u64_at(&record, 48)?,
            })
        };
        end = fields()
            .filter(|_| u32_at(&record, 0) == Some(END64))
            .ok_or_else(none)?;
        limit = limit.min(place);
    }
    if end.start.checked_add(end.size).is_none_or(|e| e > limit) {
        return Err(source.wrong(format!(
            "damaged zip archive: its directory of {} bytes at byte {} does not end before byte {limit}",
            end.size, end.start
        )));
    }
    Ok(end)
}

/// Reads the entry at byte `at` of the directory. Returns its name, the entry, and the byte at
/// which the next one begins.
fn entry(bytes: &[u8], at: usize) -> Option<(String, Entry, usize)> {
    if u32_at(bytes, at)? != HEADER {
        return None;
    }
    let (flags, method) = (u16_at(bytes, at + 8)?, u16_at(bytes, at + 10)?);
    let (packed, size) = (u32_at(bytes, at + 20)?, u32_at(bytes, at + 24)?);
    let (name, extra) = (
        u16_at(bytes, at + 28)? as usize,
        u16_at(bytes, at + 30)? as usize,
    );
    let comment = u16_at(bytes, at + 32)? as usize;
    let header = u32_at(bytes, at + 42)?;
    let name_end = at + 46 + name;
    let extra_end = name_end + extra;
    let name = String::from_utf8_lossy(bytes.get(at + 46..name_end)?).into_owned();
    let extra = bytes.get(name_end..extra_end)?;
    // Numbers that do not fit into 32 bits are in extra field 1, in this order.
    let mut wide = wide_fields(extra);
    let mut number = |short: u32| match short {
        u32::MAX => wide.next(),
        n => Some(n.into()),
    };
    let (size, packed, header) = (number(size)?, number(packed)?, number(header)?);
    let entry = Entry {
        header,
        size,
        plain: method == 0 && flags & 1 == 0 && packed == size,
    };
    Some((name, entry, extra_end + comment))
}

/// Returns the 64-bit numbers in extra field 1 of an entry.
fn wide_fields(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    let mut field: &[u8] = &[];
    while let (Some(id), Some(size)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let end = (4 + size as usize).min(extra.len());
        if id == 1 {
            field = &extra[4.min(end)..end];
            break;
        }
        extra = &extra[end..];
    }
    field
        .chunks_exact(8)
        .map(|b| b.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte)))
}
