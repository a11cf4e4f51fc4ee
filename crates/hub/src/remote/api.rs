//! The requests of a [`Repo`] to the hub's API: the list of its files, and the commit, the ETag and
//! the length of a file.

use super::cache::{is_commit, is_stored_name};
use super::http::{Failure, bare};
use super::repo::{Kind, Repo, RepoFile};
use crate::{Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

/// The API's description of a repository.
#[derive(Deserialize)]
pub(super) struct Info {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

/// The hub's description of a file.
pub(super) struct Remote {
    pub(super) commit: String,
    pub(super) etag: String,
    pub(super) size: Option<u64>,
}

impl Repo {
    pub(super) fn api_url(&self, kind: Kind, rest: &str) -> String {
        format!(
            "{}/api/{}s/{}{rest}",
            self.hub.endpoint,
            kind.name(),
            self.id
        )
    }

    pub(super) fn url(&self, revision: &str, file: &str) -> String {
        format!(
            "{}/{}/resolve/{}/{}",
            self.hub.endpoint,
            self.hf().url(),
            encoded(revision, false),
            encoded(file, true)
        )
    }

    /// Requests the commit, the ETag and the length of a file.
    pub(super) fn remote(&self, file: &str) -> Result<Remote, Failure> {
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

    pub(super) fn listing(&self, sizes: bool) -> Result<(String, Vec<RepoFile>), Failure> {
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
