//! [`Hub`]: its settings from environment variables, and the download of any URL to a file.

use super::hash::Hash;
use super::http::{Failure, Request, Response, bare, parse};
use super::lock::lock;
use super::repo::{Kind, Repo};
use super::transfer::{Transfer, beside};
use crate::{Error, Result};
use invariances_core::names::shown;
use invariances_core::say;
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Number of printed lines that are kept for [`Hub::lines`].
const LINES: usize = 1000;

/// Client of the Hugging Face hub, with the same settings and the same cache as Python's
/// `huggingface_hub`.
///
/// | variable | meaning | default |
/// | --- | --- | --- |
/// | `HF_ENDPOINT` | address of the hub or of a mirror | `https://huggingface.co` |
/// | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE` | folder for files | `hub` in `HF_HOME` |
/// | `HF_HOME` | folder for all data of the hub | `huggingface` in `XDG_CACHE_HOME` or `~/.cache` |
/// | `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN` | the token | content of the file in the next row |
/// | `HF_TOKEN_PATH` | file that contains the token | `token` in `HF_HOME` |
/// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | 1: no token is sent | 0 |
/// | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | 1: only files in the cache are used | 0 |
/// | `HF_HUB_ETAG_TIMEOUT` | seconds until a response must begin | 10 |
/// | `HF_HUB_DOWNLOAD_TIMEOUT` | seconds without data after which an attempt fails | 10 |
/// | `HF_HUB_DISABLE_PROGRESS_BARS` | 1: no lines are printed | 0 |
///
/// Instead of 1, `true`, `yes` or `on` can be used. Proxies are read from `HTTPS_PROXY`,
/// `HTTP_PROXY` and `NO_PROXY`. TLS certificates must be issued by an authority that Mozilla
/// trusts.
///
/// No request is sent until a file or a list of files is needed. A request is repeated if the hub
/// does not respond, if its status is 408, 425, 429 or 5xx, or if the connection breaks. The
/// pause before the next attempt grows, unless the hub requests a certain pause.
/// The token is sent to the endpoint only, and never appears in an error or a printed line.
#[derive(Clone)]
pub struct Hub {
    pub(super) endpoint: String,
    cache: PathBuf,
    pub(super) token: Option<String>,
    /// The setting that forbids the network, for errors; `None` if it is allowed.
    offline: Option<String>,
    progress: bool,
    pub(super) retries: u32,
    /// Pause before the second attempt.
    pub(super) pause: Duration,
    /// Longest time until a response begins.
    pub(super) answer: Duration,
    /// Longest time without data.
    pub(super) stall: Duration,
    pub(super) agent: ureq::Agent,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Hub {
    /// Creates a client with the settings of the environment; see [`Hub`].
    ///
    /// ```no_run
    /// use invariances_hub::{Checkpoint, Hub};
    /// let hub = Hub::open()?;
    /// let path = hub.model("timm/resnet50.tv_in1k")?.file("model.safetensors")?;
    /// println!("{}", Checkpoint::open(path)?.entries().len());
    /// # Ok::<(), invariances_hub::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] if a variable has an invalid value, or if there is no home folder.
    pub fn open() -> Result<Self> {
        let home = match set("HF_HOME")? {
            Some(home) => expanded(&home)?,
            None => match set("XDG_CACHE_HOME")? {
                Some(caches) => PathBuf::from(caches).join("huggingface"),
                None => user_home()?.join(".cache").join("huggingface"),
            },
        };
        let cache = match set("HF_HUB_CACHE")?.or(set("HUGGINGFACE_HUB_CACHE")?) {
            Some(cache) => expanded(&cache)?,
            None => home.join("hub"),
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("invariances/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter();
        let mut offline =
            offline.map(|name| Ok::<_, Error>(is_true(name)?.then(|| name.to_owned())));
        let offline = offline.find_map(Result::transpose).transpose()?;
        let mut hub = Self {
            endpoint: String::new(),
            cache: std::path::absolute(&cache).map_err(|e| Error::io(&cache, e))?,
            token: None,
            offline,
            progress: !is_true("HF_HUB_DISABLE_PROGRESS_BARS")?,
            retries: 4,
            pause: Duration::from_secs(1),
            answer: seconds("HF_HUB_ETAG_TIMEOUT")?,
            stall: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
            agent,
            lines: Arc::default(),
        };
        let endpoint = set("HF_ENDPOINT")?;
        hub = hub
            .with_endpoint(endpoint.as_deref().unwrap_or("https://huggingface.co"))
            .map_err(|e| Error::invalid(format!("HF_ENDPOINT: {e}")))?;
        let token = match set("HF_TOKEN")?.or(set("HUGGING_FACE_HUB_TOKEN")?) {
            Some(token) => token,
            None => {
                let path = match set("HF_TOKEN_PATH")? {
                    Some(path) => expanded(&path)?,
                    None => home.join("token"),
                };
                match std::fs::read_to_string(&path) {
                    Ok(token) => token,
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
                    Err(e) => {
                        hub.say(format!(
                            "the hub's token cannot be read and is not used: {}: {e}",
                            path.display()
                        ));
                        String::new()
                    }
                }
            }
        };
        if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")? {
            return Ok(hub);
        }
        hub.with_token(&token)
    }

    /// Returns a client with another address, such as a mirror or a private hub.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not an `http://` or `https://` address, or if it contains a
    /// user name, a password or a query.
    pub fn with_endpoint(&self, endpoint: &str) -> Result<Self> {
        let endpoint = endpoint.trim().trim_end_matches('/');
        let uri = parse(endpoint)?;
        if uri.query().is_some() {
            return Err(Error::invalid(
                "expected the hub's address without a query, found a “?”",
            ));
        }
        Ok(Self {
            endpoint: endpoint.into(),
            ..self.clone()
        })
    }

    /// Returns a client with another cache: the folder that contains `models--…` and `datasets--…`.
    ///
    /// # Errors
    /// [`Error::Io`] for an empty path.
    pub fn with_cache(&self, folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        Ok(Self {
            cache: std::path::absolute(folder).map_err(|e| Error::io(folder, e))?,
            ..self.clone()
        })
    }

    /// Returns a client with another token; `""` for none.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it contains characters that a token cannot have, or is longer than
    /// 4096 bytes. The error does not contain the token.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        let token = token.trim();
        if !token.bytes().all(|b| b.is_ascii_graphic()) || token.len() > 4096 {
            return Err(Error::invalid(
                "expected the hub's token (HF_TOKEN, or the file of HF_TOKEN_PATH) as one word of at most 4096 ASCII characters, such as hf_…; copy it again",
            ));
        }
        Ok(Self {
            token: (!token.is_empty()).then(|| token.to_owned()),
            ..self.clone()
        })
    }

    /// Returns a client that uses only the cache (`true`) or also the network (`false`).
    pub fn with_offline(&self, offline: bool) -> Self {
        Self {
            offline: offline.then(|| "with_offline(true)".into()),
            ..self.clone()
        }
    }

    /// Returns an offline client. `reason` appears in errors as the setting that forbids the
    /// network.
    pub fn with_offline_for(&self, reason: &str) -> Self {
        Self {
            offline: Some(reason.into()),
            ..self.clone()
        }
    }

    /// Returns a client that prints progress lines or not. [`Hub::lines`] returns them in both
    /// cases.
    pub fn with_progress(&self, progress: bool) -> Self {
        Self {
            progress,
            ..self.clone()
        }
    }

    /// Returns a client with another number of retries, and another pause before the first retry.
    /// The pause doubles with every retry, up to 10 seconds.
    pub fn with_retries(&self, retries: u32, pause: Duration) -> Self {
        Self {
            retries,
            pause,
            ..self.clone()
        }
    }

    /// Returns a client with other timeouts: `answer` is the longest time until a response
    /// begins, and `stall` the longest time without data during a download. Each is at least 1
    /// millisecond.
    pub fn with_timeouts(&self, answer: Duration, stall: Duration) -> Self {
        let min = Duration::from_millis(1);
        Self {
            answer: answer.max(min),
            stall: stall.max(min),
            ..self.clone()
        }
    }

    /// Returns the address of the hub.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the folder of the cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether only files in the cache are used.
    pub fn offline(&self) -> bool {
        self.offline.is_some()
    }

    /// Returns the last 1000 progress lines: files that were fetched, retries, and files that
    /// were taken from the cache because the hub could not be reached. The lines of this client
    /// and of all clients that were made from it with `with_…` are collected together.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// Returns the repository of a model, such as `timm/resnet50.tv_in1k`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `id` cannot be the name of a repository.
    pub fn model(&self, id: &str) -> Result<Repo> {
        Repo::new(self, Kind::Model, id)
    }

    /// Returns the repository of a dataset, such as `ylecun/mnist`.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn dataset(&self, id: &str) -> Result<Repo> {
        Repo::new(self, Kind::Dataset, id)
    }

    /// Fetches any file of the web to `path`, unless `path` already contains a file with this hash.
    ///
    /// `hash` is an MD5 (32 hexadecimal digits) or the first 8 to 64 digits of a SHA-256. Without
    /// a hash, an existing file is used as it is.
    ///
    /// If the download is interrupted, the received part is kept as `path.incomplete`, and the
    /// next call resumes it. A file appears at `path` only when it is complete. No token is sent,
    /// unless the address is that of the hub.
    ///
    /// # Errors
    /// [`Error::Download`] if the file cannot be fetched or has another hash, with advice;
    /// [`Error::Invalid`] if `url` is not an address or `hash` is not a hash; [`Error::Io`] if
    /// the file cannot be written.
    pub fn download(&self, url: &str, path: impl AsRef<Path>, hash: Option<&str>) -> Result<()> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or_default();
        let what = shown(&name.to_string_lossy());
        parse(url)?;
        let hash = match hash {
            Some(text) => Hash::published(text)?,
            None => Hash::Unknown,
        };
        let is_valid = |report: bool| -> Result<bool> {
            if !path.is_file() {
                return Ok(false);
            }
            let differs = hash.differs(path)?;
            if let Some((expected, found)) = differs.as_ref().filter(|_| report) {
                self.say(format!(
                    "{what}: expected {} {expected}, found {found}; downloading it again",
                    hash.name()
                ));
            }
            Ok(differs.is_none())
        };
        if is_valid(false)? {
            return Ok(());
        }
        if let Some(reason) = &self.offline {
            let found = match path.is_file() {
                true => "has another hash at",
                false => "is not at",
            };
            return Err(Error::download(format!(
                "{what} {found} {}, and downloads are disabled by {reason}; unset it, or download {} to this path",
                path.display(),
                bare(url)
            )));
        }
        let _lock = lock(&beside(path, ".lock"), &what, self)?;
        if is_valid(true)? {
            return Ok(());
        }
        let transfer = Transfer {
            what: &what,
            url,
            target: path,
            size: None,
            hash,
            versions: true,
        };
        let done = transfer.run(self);
        if done.is_ok() {
            let _ = std::fs::remove_file(beside(path, ".lock"));
        }
        done.map_err(|failure| match failure {
            Failure::Final(error) => error,
            failure => Error::download(format!(
                "cannot download {what}: {}. {}{}",
                failure.reason(),
                match &failure {
                    Failure::Refused(r) if matches!(r.status, 401 | 403 | 404 | 410) =>
                        "The file may have moved: look for it on the site of its authors and save it to the same path",
                    _ => "Check the connection (set HTTPS_PROXY for a proxy) and try again",
                },
                transfer.kept_note()
            )),
        })
    }

    /// Returns the setting that forbids the network, or `None` if it is allowed.
    pub(super) fn offline_reason(&self) -> Option<&str> {
        self.offline.as_deref()
    }

    /// Prints a line, if progress is on, and keeps it for [`Hub::lines`].
    pub(super) fn say(&self, line: String) {
        if self.progress {
            say(&line);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// Sends a HEAD request: it returns the headers without the file.
    pub(super) fn head(&self, url: &str) -> Result<Response, Failure> {
        self.request(Request {
            head: true,
            url,
            headers: &[],
        })
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// Reads an environment variable; `None` if it is not set or empty.
fn set(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::invalid(format!(
            "{name}: expected UTF-8 text, found other bytes"
        ))),
    }
}

fn is_true(name: &str) -> Result<bool> {
    let text = set(name)?.unwrap_or_default().trim().to_ascii_lowercase();
    Ok(matches!(text.as_str(), "1" | "true" | "yes" | "on"))
}

fn seconds(name: &str) -> Result<Duration> {
    let Some(text) = set(name)? else {
        return Ok(Duration::from_secs(10));
    };
    match text.trim().parse() {
        Ok(seconds @ 1..=86_400) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::invalid(format!(
            "{name}: expected a number of seconds from 1 to 86400, found “{}”",
            shown(&text)
        ))),
    }
}

fn user_home() -> Result<PathBuf> {
    std::env::home_dir()
        .filter(|home| !home.as_os_str().is_empty())
        .ok_or_else(|| {
            Error::invalid("found no folder for the hub's files: neither HF_HOME nor HOME is set; set HF_HOME to a folder")
        })
}

/// Expands a path as Python's library does: `~` is the home folder, and `$NAME` or `${NAME}` is
/// the value of an environment variable.
fn expanded(path: &str) -> Result<PathBuf> {
    let path = match path.strip_prefix('~') {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", user_home()?.display())
        }
        _ => path.to_owned(),
    };
    let mut text = String::new();
    let mut rest = path.as_str();
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let (name, then) = match after.strip_prefix('{').and_then(|a| a.split_once('}')) {
            Some(braced) => braced,
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                after.split_at(after.find(|c| !word(c)).unwrap_or(after.len()))
            }
        };
        match set(name) {
            Ok(Some(value)) if !name.is_empty() => {
                text.push_str(&value);
                rest = then;
            }
            _ => {
                text.push('$');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    Ok(text.into())
}
