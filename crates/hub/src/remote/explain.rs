//! The error messages for failed requests: what is missing, or what to do.

use super::api::Info;
use super::http::{Failure, Refusal};
use super::repo::Repo;
use crate::source::listed;
use crate::{Error, Result};
use invariances_core::duration as span;
use invariances_core::names::{nearest, shown};
use serde::Deserialize;

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

impl Repo {
    pub(super) fn not_cached(&self, about: &str, file: &str, reason: &str) -> Error {
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
    pub(super) fn explain(&self, about: &str, file: Option<&str>, failure: Failure) -> Error {
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
