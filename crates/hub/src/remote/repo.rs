//! [`Repo`]: a model or dataset on the hub, its files, and the error messages for failed
//! requests.

use super::Hub;
use super::cache::{check_file, check_id, check_revision, is_commit, is_stored_name};
use super::http::{Failure, Refusal, bare};
use super::listing::split;
use super::transfer::{CACHE_HINT, Hash, Transfer, lock};
use crate::source::listed;
use crate::{Error, Result};
use invariances_core::duration as span;
use invariances_core::names::{nearest, shown};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }

    fn other(self) -> Self {
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
    kind: Kind,
    id: String,
    pub(super) revision: String,
    newest: bool,
}

/// The API's description of a repository.
#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

/// The API's list of branches and tags.
#[derive(Deserialize)]
struct Refs {
    #[serde(default)]
    branches: Vec<Ref>,
    #[serde(default)]
    tags: Vec<Ref>,
    #[serde(default)]
    converts: Vec<Ref>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ref {
    name: String,
    #[serde(default)]
    r#ref: String,
}

/// The hub's description of a file.
struct Remote {
    commit: String,
    etag: String,
    size: Option<u64>,
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
    fn name(&self) -> String {
        match self.revision.as_str() {
            "main" => self.id.clone(),
            revision => format!("{} at {}", self.id, shown(revision)),
        }
    }

    fn about(&self, file: &str) -> String {
        format!(
            "{} of the {} {}",
            shown(file),
            self.kind.name(),
            self.name()
        )
    }

    fn api_url(&self, kind: Kind, rest: &str) -> String {
        format!(
            "{}/api/{}s/{}{rest}",
            self.hub.endpoint,
            kind.name(),
            self.id
        )
    }

    fn url(&self, revision: &str, file: &str) -> String {
        format!(
            "{}/{}/resolve/{}/{}",
            self.hub.endpoint,
            self.hf().url(),
            encoded(revision, false),
            encoded(file, true)
        )
    }

    /// Requests the commit, the ETag and the length of a file.
    fn remote(&self, file: &str) -> Result<Remote, Failure> {
        let url = self.url(&self.revision, file);
        let response = self.hub.head(&url)?;
        let wrong = |what: &str| {
            Failure::Final(Error::download(format!(
                "{}: unexpected response from {}: {what}; check HF_ENDPOINT and the proxy",
                self.about(file),
                bare(&url)
            )))
        };
        let commit = response.linked.commit.as_deref();
        let commit = commit.or_else(|| Some(self.revision.as_str()).filter(|r| is_commit(r)));
        let commit =
            commit.ok_or_else(|| wrong("the header X-Repo-Commit with the commit is missing"))?;
        let etag = response.linked.etag.as_deref();
        let etag = etag.ok_or_else(|| wrong("the header ETag is missing"))?;
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        for (what, name) in [("commit", commit), ("ETag", etag)] {
            if !is_stored_name(name) {
                return Err(wrong(&format!(
                    "the {what} “{}” is not a valid file name",
                    self.hub.clean(name)
                )));
            }
        }
        let length = || {
            let text = response.headers.get("content-length")?.to_str().ok()?;
            let plain = response.headers.get("content-encoding").is_none();
            text.parse()
                .ok()
                .filter(|_| plain && response.status == 200)
        };
        Ok(Remote {
            commit: commit.into(),
            etag: etag.into(),
            size: response.linked.size.or_else(length),
        })
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

    fn listing(&self, sizes: bool) -> Result<(String, Vec<RepoFile>), Failure> {
        let revision = encoded(&self.revision, false);
        // With lengths, the hub examines every file, which is slow for many files.
        let blobs = if sizes { "?blobs=true" } else { "" };
        let url = self.api_url(self.kind, &format!("/revision/{revision}{blobs}"));
        let info: Info = self.hub.api(&url)?;
        let commit = info.sha.filter(|sha| is_stored_name(sha)).ok_or_else(|| {
            Error::download(format!(
                "unexpected response from {}: the commit is missing; check HF_ENDPOINT",
                bare(&url)
            ))
        })?;
        let files = info.siblings.into_iter().map(|s| RepoFile {
            path: s.rfilename,
            size: s.size,
        });
        let mut files: Vec<RepoFile> = files.collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok((commit, files))
    }

    fn not_cached(&self, about: &str, file: &str, reason: &str) -> Error {
        let place = match (self.known_commit(), file) {
            (Some(commit), file) if !file.is_empty() => self.pointer(&commit, file),
            (Some(commit), _) => self.snapshot(&commit),
            (None, _) => self.folder(),
        };
        Error::download(format!(
            "{about}: not in the cache (expected in {}), and downloads are disabled by {reason}. Unset it, or download on a machine with a network and copy the cache; HF_HOME sets another cache folder",
            place.display()
        ))
    }

    /// Makes the error for a failed request for a file or, if `file` is `None`, for a list of
    /// files.
    fn explain(&self, about: &str, file: Option<&str>, failure: Failure) -> Error {
        let refusal = match failure {
            Failure::Final(error) => return error,
            Failure::Unreachable(why) => {
                return Error::download(format!(
                    "cannot download {about}: {why}. Check the connection (set HTTPS_PROXY for a proxy, HF_ENDPOINT for a mirror of {}) and try again",
                    self.hub.endpoint
                ));
            }
            Failure::Refused(refusal) => refusal,
        };
        let status = refusal.describe();
        let page = format!("{}/{}", self.hub.endpoint, self.hf().url());
        let tokens = format!("{}/settings/tokens", self.hub.endpoint);
        let how = format!("set HF_TOKEN to your token ({tokens}), or log in with `hf auth login`");
        Error::download(match refusal.status {
            401 | 403 if refusal.code == "GatedRepo" => match self.hub.token {
                None => format!(
                    "{about}: the repository is gated ({status}). Request access at {page}, then {how}"
                ),
                Some(_) => format!(
                    "{about}: the repository is gated, and the account of this token does not have access ({status}). Request access at {page}"
                ),
            },
            401 if self.hub.token.is_some() && refusal.code.is_empty() => format!(
                "{about}: invalid token ({status}). Create a token at {tokens} and set HF_TOKEN to it, or log in again with `hf auth login`"
            ),
            401 if refusal.code.is_empty() || refusal.code == "RepoNotFound" => format!(
                "{about}: this {kind} does not exist or is private ({status}). Check the name “{}”{}; for a private {kind}, {how}",
                self.id,
                self.elsewhere(),
                kind = self.kind.name(),
            ),
            401 | 403 => format!(
                "{about}: access denied ({status}). See {page} for its requirements{}",
                match self.hub.token {
                    None => format!("; then {how}"),
                    Some(_) => format!("; the token needs read permission ({tokens})"),
                }
            ),
            404 => self.missing(about, file, &refusal),
            429 => format!(
                "{about}: too many requests to {} ({status}){}. Try again later; a token in HF_TOKEN raises the limit",
                refusal.host,
                match refusal.wait {
                    Some(wait) => format!("; the server requests a wait of {}", span(wait)),
                    None => String::new(),
                }
            ),
            500.. => format!(
                "cannot download {about}: {} reports a server error ({status}). Try again later",
                refusal.host
            ),
            _ => format!(
                "cannot download {about}: {} returned status {status}",
                refusal.host
            ),
        })
    }

    /// Finds out whether the repository, the revision or the file is missing, and describes it.
    fn missing(&self, about: &str, file: Option<&str>, refusal: &Refusal) -> String {
        let gone = |code: &str| refusal.code == code;
        let listing = (!gone("RepoNotFound") && !gone("RevisionNotFound"))
            .then(|| self.listing(false).ok())
            .flatten();
        if let (Some(file), Some((_, files))) = (file, &listing) {
            let names: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
            let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
            let same = names.iter().find(|n| last(n) == last(file));
            return match same.copied().or_else(|| nearest(file, &names)) {
                Some(near) => format!("{about}: this file does not exist; did you mean {near:?}?"),
                None => format!(
                    "{about}: this file does not exist; the files are {}",
                    listed(&names)
                ),
            };
        }
        if file.is_some() && gone("EntryNotFound") {
            return format!(
                "{about}: this file does not exist; see {}/{}",
                self.hub.endpoint,
                self.hf().url()
            );
        }
        let refs: Option<Refs> = match gone("RepoNotFound") {
            true => None,
            false => self.hub.api(&self.api_url(self.kind, "/refs")).ok(),
        };
        if let Some(refs) = refs {
            let names = refs.branches.into_iter().chain(refs.tags).map(|r| r.name);
            let converts = refs.converts.into_iter().map(|r| r.r#ref);
            let names: Vec<String> = names.chain(converts).filter(|n| !n.is_empty()).collect();
            let there = match names.is_empty() {
                true => "the repository may be empty".into(),
                false => format!("the revisions are {}", listed(&names)),
            };
            return format!(
                "{about}: the revision “{}” does not exist; {there}",
                shown(&self.revision)
            );
        }
        if gone("RevisionNotFound") {
            return format!(
                "{about}: the revision “{}” does not exist",
                shown(&self.revision)
            );
        }
        let kind = self.kind.name();
        format!(
            "{about}: this {kind} does not exist at {}. Check the name “{}”{}; a private {kind} needs a token in HF_TOKEN",
            self.hub.endpoint,
            self.id,
            self.elsewhere()
        )
    }

    /// Returns a hint if there is a repository of the other kind with this name; otherwise empty.
    fn elsewhere(&self) -> String {
        let other = self.kind.other();
        let found: Result<Info, _> = self.hub.api(&self.api_url(other, ""));
        match found {
            Ok(_) => format!(
                " (there is a {} with this name: hub.{}({:?}))",
                other.name(),
                other.name(),
                self.id
            ),
            Err(_) => String::new(),
        }
    }
}

/// Whether the hub reports that the file or repository does not exist. The cache is then not used
/// instead.
fn is_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(r) if r.status == 404)
}

/// Percent-encodes text for the path of a URL. `slashes` keeps `/` unencoded.
fn encoded(text: &str, slashes: bool) -> String {
    const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    const PATH: &AsciiSet = &SEGMENT.remove(b'/');
    utf8_percent_encode(text, if slashes { PATH } else { SEGMENT }).to_string()
}
