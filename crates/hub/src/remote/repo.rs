//! [`Repo`]: a model or dataset on the hub, and its files.

use super::Hub;
use super::api::Remote;
use super::cache::{CACHE_HINT, check_file, check_id, check_revision, is_commit};
use super::hash::Hash;
use super::http::Failure;
use super::listing::split;
use super::lock::lock;
use super::transfer::Transfer;
use crate::{Error, Result};
use invariances_core::names::shown;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Model => Self::Dataset,
            Self::Dataset => Self::Model,
        }
    }
}

/// A file in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    /// Its path in the repository, separated by `/`.
    pub path: String,
    /// Its length in bytes, if the hub reports it.
    pub size: Option<u64>,
}

/// A repository of the [`Hub`] at a revision: `main`, or another one from [`Repo::at`].
///
/// ```no_run
/// use invariances_hub::Hub;
/// let mnist = Hub::open()?.dataset("ylecun/mnist")?;
/// let files = mnist.parquet("test")?; // the files of a split
/// let older = mnist.at("refs/convert/parquet")?; // another branch, a tag or a commit
/// println!("{files:?} {:?}", older.files()?);
/// # Ok::<(), invariances_hub::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Repo {
    pub(super) hub: Hub,
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) revision: String,
    newest: bool,
}

impl Repo {
    pub(super) fn new(hub: &Hub, kind: Kind, id: &str) -> Result<Self> {
        check_id(id)?;
        Ok(Self {
            hub: hub.clone(),
            kind,
            id: id.into(),
            revision: "main".into(),
            newest: false,
        })
    }

    /// Returns the same repository at a branch, a tag, a commit, or a reference such as
    /// `refs/convert/parquet`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `revision` cannot be a revision.
    pub fn at(&self, revision: &str) -> Result<Self> {
        check_revision(revision)?;
        Ok(Self {
            revision: revision.into(),
            ..self.clone()
        })
    }

    /// Returns the same repository, but checks on the hub at each call whether the revision has
    /// changed. If this request fails, except with status 404, the file in the cache is used, and
    /// a line is printed.
    pub fn newest(&self) -> Self {
        Self {
            newest: true,
            ..self.clone()
        }
    }

    /// Returns the name, such as `timm/resnet50.tv_in1k`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the revision, such as `main`.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Returns the path of a file in the cache, and fetches the file if the cache does not have
    /// it. For a file in the cache, no request is sent, except after [`Repo::newest`].
    ///
    /// The length and the hash are checked, if the hub reports them, before the file gets its
    /// final name. If the download is interrupted, the received part is kept, and the next call
    /// resumes it.
    ///
    /// # Errors
    /// [`Error::Download`] if the file cannot be fetched. The error states whether the repository,
    /// the revision or the file is missing, whether a token is needed, or how the network failed,
    /// and what to do. [`Error::Invalid`] for a path outside the repository, [`Error::Io`] if the
    /// cache cannot be written.
    pub fn file(&self, name: &str) -> Result<PathBuf> {
        check_file(name)?;
        let cached = self.cached(name);
        let check_newest = self.newest && !is_commit(&self.revision) && !self.hub.offline();
        if let Some(path) = cached.as_ref().filter(|_| !check_newest) {
            return Ok(path.clone());
        }
        if let Some(reason) = self.hub.offline_reason() {
            return Err(self.not_cached(&self.about(name), name, reason));
        }
        let retries = if cached.is_some() {
            0
        } else {
            self.hub.retries
        };
        let about = self.about(name);
        match (
            self.hub
                .with_attempts(&about, retries, || self.remote(name)),
            cached,
        ) {
            (Ok(remote), _) => self.fetch(name, &remote),
            (Err(failure), Some(path)) if !is_missing(&failure) => {
                self.hub.say(format!(
                    "{about}: using the cached file, because the request to the hub failed: {}",
                    failure.reason()
                ));
                Ok(path)
            }
            (Err(failure), _) => Err(self.explain(&about, Some(name), failure)),
        }
    }

    /// Lists the files of the revision, sorted by path. Offline, it lists those in the cache. It
    /// does the same if the request fails, except with status 404, and prints a line.
    ///
    /// # Errors
    /// As [`Repo::file`].
    pub fn files(&self) -> Result<Vec<RepoFile>> {
        Ok(self.list(true)?.1)
    }

    /// Returns the parquet files of a dataset's split, in order, and fetches those that are not
    /// in the cache.
    ///
    /// The files are found by the hub's conventions: `data/test-00000-of-00001.parquet`,
    /// `config/test-00000-of-00001.parquet`, `config/test/0000.parquet`, `test.parquet`. If
    /// several configurations have the split, write `"config/test"`.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the split does not exist (the error lists those that do) or is
    /// incomplete; [`Error::Invalid`] if it is ambiguous; otherwise as [`Repo::file`].
    pub fn parquet(&self, split_name: &str) -> Result<Vec<PathBuf>> {
        let (commit, files) = self.list(false)?;
        let names: Vec<String> = files.into_iter().map(|f| f.path).collect();
        let what = format!("the {} {}", self.kind.name(), self.name());
        let wanted = split(&what, &names, split_name)?;
        // Fetch all files from the same commit, even if the revision changes meanwhile.
        let fixed = Self {
            revision: commit.clone(),
            newest: false,
            ..self.clone()
        };
        let paths: Result<Vec<_>> = wanted.iter().map(|name| fixed.file(name)).collect();
        let paths = paths?;
        if !self.hub.offline() {
            self.keep_commit(&commit);
        }
        Ok(paths)
    }

    pub(super) fn hf(&self) -> hf_hub::Repo {
        let kind = match self.kind {
            Kind::Model => hf_hub::RepoType::Model,
            Kind::Dataset => hf_hub::RepoType::Dataset,
        };
        hf_hub::Repo::with_revision(self.id.clone(), kind, self.revision.clone())
    }

    /// Returns the name, with the revision if it is not `main`.
    pub(super) fn name(&self) -> String {
        match self.revision.as_str() {
            "main" => self.id.clone(),
            revision => format!("{} at {}", self.id, shown(revision)),
        }
    }

    pub(super) fn about(&self, file: &str) -> String {
        format!(
            "{} of the {} {}",
            shown(file),
            self.kind.name(),
            self.name()
        )
    }

    /// Fetches a file from the hub into the cache, unless the cache has it.
    fn fetch(&self, name: &str, remote: &Remote) -> Result<PathBuf> {
        let about = self.about(name);
        let fits = |path: &PathBuf| {
            let meta = std::fs::metadata(path);
            meta.is_ok_and(|m| m.is_file() && remote.size.is_none_or(|s| s == m.len()))
        };
        let pointer = self.pointer(&remote.commit, name);
        if !fits(&pointer) {
            let blob = self.blob(&remote.etag);
            if let Some(folder) = blob.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(|e| Error::io(folder, e).with_hint(CACHE_HINT))?;
            }
            let _lock = lock(&self.lock_path(&remote.etag), &about, &self.hub)?;
            if !fits(&blob) {
                // By commit, not by branch: a branch could change meanwhile.
                let url = self.url(&remote.commit, name);
                let transfer = Transfer {
                    what: &about,
                    url: &url,
                    target: &blob,
                    size: remote.size,
                    hash: Hash::of_etag(&remote.etag),
                    versions: false,
                };
                transfer.run(&self.hub).map_err(|failure| {
                    match self.explain(&about, Some(name), failure) {
                        Error::Download(text) => Error::download(text + &transfer.kept_note()),
                        other => other,
                    }
                })?;
            }
            self.link(&blob, &remote.commit, name)?;
        }
        self.keep_commit(&remote.commit);
        Ok(pointer)
    }

    /// Returns the commit of the revision and its files, from the hub or from the cache.
    fn list(&self, sizes: bool) -> Result<(String, Vec<RepoFile>)> {
        let about = format!("the files of the {} {}", self.kind.name(), self.name());
        let cached = || {
            let (commit, files) = self.cached_files().filter(|(_, f)| !f.is_empty())?;
            let files = files.into_iter().map(|(path, size)| RepoFile {
                path,
                size: Some(size),
            });
            Some((commit, files.collect()))
        };
        if let Some(reason) = self.hub.offline_reason() {
            return cached().ok_or_else(|| self.not_cached(&about, "", reason));
        }
        let cached = cached();
        let retries = if cached.is_some() {
            0
        } else {
            self.hub.retries
        };
        let listed = self
            .hub
            .with_attempts(&about, retries, || self.listing(sizes));
        match (listed, cached) {
            (Ok(listed), _) => Ok(listed),
            (Err(failure), Some(cached)) if !is_missing(&failure) => {
                self.hub.say(format!(
                    "{about}: using the cached list, because the request to the hub failed: {}",
                    failure.reason()
                ));
                Ok(cached)
            }
            (Err(failure), _) => Err(self.explain(&about, None, failure)),
        }
    }
}

/// Whether the hub reports that the file or repository does not exist. The cache is then not used
/// instead.
fn is_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(r) if r.status == 404)
}
