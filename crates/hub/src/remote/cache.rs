//! The cache, which is shared with Python's `huggingface_hub` and with hf-hub: the layout of its
//! folders, and the names that are allowed in paths.
//!
//! In a repository's folder, such as `models--org--name`, `blobs/ETAG` are the contents of files,
//! `snapshots/COMMIT/FILE` are links to them, and `refs/REVISION` contains a commit.

use super::repo::Repo;
use crate::{Error, Result};
use invariances_core::files::write_atomic;
use invariances_core::names::shown;
use std::path::{Component, Path, PathBuf};

/// Advice for a cache that cannot be written.
pub(super) const CACHE_HINT: &str = "the cache must be a writable folder; set another one with HF_HOME for the hub's files, or INVARIANCES_CACHE for the authors' files";

/// Checks a repository's name: `name` or `owner/name`.
pub(super) fn check_id(id: &str) -> Result<()> {
    let word = |w: &str| {
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let edge = |c: char| c == '-' || c == '.';
        !w.is_empty()
            && w.len() <= 96
            && w.bytes().all(good)
            && !w.starts_with(edge)
            && !w.ends_with(edge)
            && !w.contains("--")
            && !w.contains("..")
    };
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() <= 2 && parts.iter().all(|w| word(w)) {
        return Ok(());
    }
    let advice = match parts[..] {
        ["datasets", ..] if parts.len() == 3 => {
            format!(
                "; for a dataset use hub.dataset({:?})",
                parts[1..].join("/")
            )
        }
        _ if id.contains("://") => "; remove the address".into(),
        _ => String::new(),
    };
    Err(Error::invalid(format!(
        "expected the name of a repository as owner/name, such as timm/resnet50.tv_in1k, with letters, digits, “-”, “_” and “.”, found “{}”{advice}",
        shown(id)
    )))
}

/// Checks a revision: a branch, a tag, a commit or a reference such as `refs/pr/1`.
pub(super) fn check_revision(revision: &str) -> Result<()> {
    match is_inside(revision) && !revision.contains(char::is_whitespace) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "expected a revision (a branch, a tag, a commit or a reference such as refs/convert/parquet), found “{}”",
            shown(revision)
        ))),
    }
}

/// Checks the path of a file in a repository.
pub(super) fn check_file(file: &str) -> Result<()> {
    match is_inside(file) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "expected the path of a file in the repository, such as data/test.parquet, without “..” and “\\”, found “{}”",
            shown(file)
        ))),
    }
}

/// Whether a relative path stays inside its folder, on every operating system.
fn is_inside(path: &str) -> bool {
    let part = |p: &str| {
        let mut components = Path::new(p).components();
        matches!(components.next(), Some(Component::Normal(name)) if name == p)
            && components.next().is_none()
            && p != ".."
            && p != "."
    };
    path.len() <= 1024
        && !path.contains(['\\', '\0'])
        && !path.contains(char::is_control)
        && path.split('/').all(part)
}

/// Whether a commit or an ETag from a server can be used as a file name.
pub(super) fn is_stored_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(good)
}

/// Whether a revision is a full commit hash, which never refers to another commit.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40
        && revision
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl Repo {
    fn stored(&self) -> hf_hub::CacheRepo {
        let cache = hf_hub::Cache::new(self.hub.cache().into());
        cache.repo(self.hf())
    }

    /// Returns the repository's folder in the cache.
    pub(super) fn folder(&self) -> PathBuf {
        self.hub.cache().join(self.hf().folder_name())
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.stored().blob_path(etag)
    }

    /// Returns the path of the lock file that Python's library uses to fetch the same content.
    pub(super) fn lock_path(&self, etag: &str) -> PathBuf {
        let locks = self
            .hub
            .cache()
            .join(".locks")
            .join(self.hf().folder_name());
        locks.join(format!("{etag}.lock"))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.stored().pointer_path(commit)
    }

    pub(super) fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.snapshot(commit).join(file)
    }

    /// Returns the commit of the revision, as stored in the cache at the last request to the hub.
    pub(super) fn known_commit(&self) -> Option<String> {
        if is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let text = std::fs::read_to_string(self.reference()).ok()?;
        let commit = text.trim();
        is_stored_name(commit).then(|| commit.to_owned())
    }

    fn reference(&self) -> PathBuf {
        self.folder().join("refs").join(&self.revision)
    }

    /// Returns the path of a file of the revision, if it is in the cache.
    pub(super) fn cached(&self, file: &str) -> Option<PathBuf> {
        let path = self.pointer(&self.known_commit()?, file);
        path.is_file().then_some(path)
    }

    /// Stores the commit of the revision in the cache. A cache without write permission can still
    /// be read, so a failure is printed and is not an error.
    pub(super) fn keep_commit(&self, commit: &str) {
        if self.known_commit().as_deref() == Some(commit) || self.revision == commit {
            return;
        }
        if let Err(error) = write_atomic(self.reference(), commit.as_bytes()) {
            self.hub
                .say(format!("cannot store the revision in the cache: {error}"));
        }
    }

    /// Links a file of the snapshot to its content. If the file system has no symbolic links, the
    /// content is moved there instead.
    pub(super) fn link(&self, blob: &Path, commit: &str, file: &str) -> Result<PathBuf> {
        let pointer = self.pointer(commit, file);
        let io = |e| Error::io(&pointer, e).with_hint(CACHE_HINT);
        let folder = pointer.parent().unwrap_or(&pointer);
        std::fs::create_dir_all(folder).map_err(io)?;
        let temporary = tempfile::Builder::new()
            .prefix(".")
            .tempdir_in(folder)
            .map_err(io)?;
        let link = temporary.path().join("link");
        let up = "../".repeat(file.split('/').count() + 1);
        let name = blob.file_name().unwrap_or_default().to_string_lossy();
        match symlink(&format!("{up}blobs/{name}"), &link) {
            Ok(()) => std::fs::rename(&link, &pointer),
            Err(_) => std::fs::rename(blob, &pointer),
        }
        .map_err(io)?;
        Ok(pointer)
    }

    /// Returns the commit and the files of its snapshot in the cache, with their lengths in bytes.
    pub(super) fn cached_files(&self) -> Option<(String, Vec<(String, u64)>)> {
        let commit = self.known_commit()?;
        let snapshot = self.snapshot(&commit);
        let mut files = Vec::new();
        let mut folders = vec![String::new()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(snapshot.join(&folder)).ok()?;
            for entry in entries.flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                let path = match folder.is_empty() {
                    true => name,
                    false => format!("{folder}/{name}"),
                };
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    folders.push(path);
                } else if let Ok(meta) = std::fs::metadata(entry.path())
                    && meta.is_file()
                {
                    files.push((path, meta.len()));
                }
            }
        }
        files.sort();
        Some((commit, files))
    }
}

#[cfg(unix)]
fn symlink(to: &str, at: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(windows)]
fn symlink(to: &str, at: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(to.replace('/', "\\"), at)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &str, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
