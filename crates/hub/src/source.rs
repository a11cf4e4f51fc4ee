//! The bytes of a checkpoint, from a file or from memory. They are read in pieces, and every read
//! is checked against the length.

use crate::{Error, Result};
use invariances_core::names::shown;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

trait Bytes: Read + Seek + Send {}

impl<T: Read + Seek + Send> Bytes for T {}

/// A file that is read in pieces. Every requested length is compared with the file's length
/// before memory is allocated.
pub(super) struct Source {
    path: PathBuf,
    len: u64,
    bytes: Mutex<Box<dyn Bytes>>,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, e);
        // Checked before the file is opened: opening a pipe would block until a writer opens it.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::content(
                path,
                "expected a regular file, found a folder or a special file",
            ));
        }
        let file = std::fs::File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        Ok(Self {
            path: path.into(),
            len,
            bytes: Mutex::new(Box::new(file)),
        })
    }

    pub fn memory(name: &Path, bytes: Vec<u8>) -> Self {
        Self {
            path: name.into(),
            len: bytes.len() as u64,
            bytes: Mutex::new(Box::new(Cursor::new(bytes))),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn wrong(&self, what: impl Into<String>) -> Error {
        Error::content(&self.path, what)
    }

    /// Reads `count` bytes from byte `at`. `what` describes them in the error for a file that is
    /// too short.
    pub fn read(&self, at: u64, count: u64, what: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, at, count, what)?;
        Ok(bytes)
    }

    /// As [`Source::read`], but appends the bytes to `buffer`.
    pub fn append(&self, buffer: &mut Vec<u8>, at: u64, count: u64, what: &str) -> Result<()> {
        self.check(at, count, what)?;
        let from = buffer.len();
        let count = usize::try_from(count)
            .ok()
            .and_then(|n| from.checked_add(n))
            .ok_or_else(|| {
                self.wrong(format!(
                    "{what} has {count} bytes, more than this machine can address"
                ))
            })?;
        buffer.resize(count, 0);
        // A poisoned lock is safe to use: the read position is set before every read.
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes
            .seek(SeekFrom::Start(at))
            .and_then(|_| bytes.read_exact(&mut buffer[from..]))
            .map_err(|e| {
                Error::io(&self.path, e).with_hint("did the file change while it was read?")
            })
    }

    /// Returns an error if the file ends before byte `at + count`.
    pub fn check(&self, at: u64, count: u64, what: &str) -> Result<()> {
        match at.checked_add(count) {
            Some(end) if end <= self.len => Ok(()),
            end => Err(self.cut(what, end)),
        }
    }

    /// Makes the error for a truncated file.
    pub fn cut(&self, what: &str, end: Option<u64>) -> Error {
        let end = end.map_or("beyond the maximum file size".into(), |e| {
            format!("at byte {e}")
        });
        self.wrong(format!(
            "truncated or damaged: {what} should end {end}, but the file ends at byte {}; download it again",
            self.len
        ))
    }
}

/// Formats names for an error message: the first 12, then the number of the others.
pub(super) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let mut list: Vec<String> = names.iter().take(12).map(|n| shown(n.as_ref())).collect();
    if names.len() > list.len() {
        list.push(format!("… and {} more", names.len() - list.len()));
    }
    if list.is_empty() {
        "nothing".into()
    } else {
        list.join(", ")
    }
}
