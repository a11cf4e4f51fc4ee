//! The expected hash of a file, and the comparison with its content.

use super::transfer::PIECE;
use crate::{Error, Result};
use ring::digest;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The expected hash of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    /// No hash is known.
    Unknown,
    /// SHA-256 or its first digits. Git LFS identifies a file by it; the names of torch's
    /// published files contain its first digits.
    Sha256(String),
    /// Git's hash of a file: the SHA-1 of `blob`, a space, its length, a zero byte and its content.
    Git(String),
    Md5(String),
}

impl Hash {
    /// Reads the hash from the hub's ETag: the SHA-256 for a file in Git LFS, otherwise Git's hash.
    pub fn of_etag(etag: &str) -> Self {
        let hex = etag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match etag.len() {
            64 if hex => Self::Sha256(etag.into()),
            40 if hex => Self::Git(etag.into()),
            _ => Self::Unknown,
        }
    }

    /// Parses a hash that is published with an address: 32 digits are an MD5; any other number
    /// from 8 to 64 is the beginning of a SHA-256.
    pub fn published(text: &str) -> Result<Self> {
        let text = text.to_ascii_lowercase();
        let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        match text.len() {
            32 if hex => Ok(Self::Md5(text)),
            8..=64 if hex => Ok(Self::Sha256(text)),
            _ => Err(Error::invalid(format!(
                "expected an MD5 (32 hexadecimal digits) or the first 8 to 64 digits of a SHA-256, found {text:?}"
            ))),
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "no hash",
            Self::Sha256(_) => "SHA-256",
            Self::Git(_) => "Git hash",
            Self::Md5(_) => "MD5",
        }
    }

    /// Compares a file with the hash. Returns the expected and the actual hash if they differ.
    pub fn differs(&self, path: &Path) -> Result<Option<(String, String)>> {
        let io = |e| Error::io(path, e);
        let mut file = File::open(path).map_err(io)?;
        let mut piece = vec![0; PIECE];
        let mut each = |take: &mut dyn FnMut(&[u8])| -> std::io::Result<()> {
            loop {
                match file.read(&mut piece) {
                    Ok(0) => return Ok(()),
                    Ok(n) => take(&piece[..n]),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        };
        let hex = |d: digest::Digest| -> String {
            d.as_ref().iter().map(|b| format!("{b:02x}")).collect()
        };
        let (expected, found) = match self {
            Self::Unknown => return Ok(None),
            Self::Sha256(expected) => {
                let mut context = digest::Context::new(&digest::SHA256);
                each(&mut |b| context.update(b)).map_err(io)?;
                (expected, hex(context.finish()))
            }
            Self::Git(expected) => {
                let len = std::fs::metadata(path).map_err(io)?.len();
                let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {len}\0").as_bytes());
                each(&mut |b| context.update(b)).map_err(io)?;
                (expected, hex(context.finish()))
            }
            Self::Md5(expected) => {
                let mut context = md5::Context::new();
                each(&mut |b| context.consume(b)).map_err(io)?;
                (expected, format!("{:x}", context.finalize()))
            }
        };
        Ok((!found.starts_with(expected.as_str())).then(|| (expected.clone(), found)))
    }
}
