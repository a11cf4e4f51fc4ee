use super::http::{Answer, Ask, Failure, bare, parse};
use super::repo::{Kind, Repo};
use super::transfer::{Hash, Transfer, beside, lock};
use crate::{Error, Result};
use invariances_core::names::shown;
use invariances_core::say;
use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// So many of the last lines are kept.
const LINES: usize = 1000;

/// The Hugging Face hub, with the settings and the cache that the rest of its ecosystem has.
///
/// | variable | what it sets | otherwise |
/// | --- | --- | --- |
/// | `HF_ENDPOINT` | the hub, or a mirror of it | `https://huggingface.co` |
/// | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE` | where files are kept | `hub` in `HF_HOME` |
/// | `HF_HOME` | where everything of the hub is kept | `huggingface` in `XDG_CACHE_HOME` or `~/.cache` |
/// | `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN` | the token | what `HF_TOKEN_PATH`, or `token` in `HF_HOME`, holds |
/// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | 1: no token is sent | 0 |
/// | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE` | 1: only what is in the cache | 0 |
/// | `HF_HUB_ETAG_TIMEOUT` | seconds until an answer must begin | 10 |
/// | `HF_HUB_DOWNLOAD_TIMEOUT` | seconds without data that end an attempt | 10 |
/// | `HF_HUB_DISABLE_PROGRESS_BARS` | 1: no lines are printed | 0 |
///
/// 1 can also be `true`, `yes` or `on`. Proxies are those of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`;
/// certificates must go back to an authority that Mozilla trusts.
///
/// Nothing is asked of the hub before a file or a list is. A hub that does not answer, that answers 5xx or 429,
/// or that breaks off is asked again, after a pause that grows or that it names.
/// The token goes to the endpoint only, and is in no error and no line.
#[derive(Clone)]
pub struct Hub {
    pub(super) endpoint: String,
    cache: PathBuf,
    pub(super) token: Option<String>,
    /// What forbids the network.
    offline: Option<String>,
    progress: bool,
    pub(super) retries: u32,
    /// Before the second attempt.
    pub(super) pause: Duration,
    /// Until an answer begins.
    pub(super) answer: Duration,
    /// Without data.
    pub(super) stall: Duration,
    pub(super) agent: ureq::Agent,
    lines: Arc<Mutex<VecDeque<String>>>,
}

impl Hub {
    /// The hub as the environment sets it; see [`Hub`].
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
    /// [`Error::Invalid`] for a variable that cannot be used, or where there is no home folder.
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
                            "the hub's token is not used: {}: {e}",
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

    /// The same with another address: a mirror, or a hub of one's own.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no address of `http://` or `https://`, or holds a password.
    pub fn with_endpoint(&self, endpoint: &str) -> Result<Self> {
        let endpoint = endpoint.trim().trim_end_matches('/');
        let uri = parse(endpoint)?;
        if uri.query().is_some() {
            return Err(Error::invalid("the hub's address must not hold a “?”"));
        }
        Ok(Self {
            endpoint: endpoint.into(),
            ..self.clone()
        })
    }

    /// The same with another cache: the folder in which `models--…` and `datasets--…` lie.
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

    /// The same with another token; `""` for none.
    ///
    /// # Errors
    /// [`Error::Invalid`] where it has characters that no token has. The error does not show it.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        let token = token.trim();
        if !token.bytes().all(|b| b.is_ascii_graphic()) || token.len() > 4096 {
            return Err(Error::invalid(
                "the hub's token (HF_TOKEN, or the file of HF_TOKEN_PATH) must be one word of plain letters, such as hf_…; copy it again",
            ));
        }
        Ok(Self {
            token: (!token.is_empty()).then(|| token.to_owned()),
            ..self.clone()
        })
    }

    /// The same, only with what is in the cache, or with the network again.
    pub fn with_offline(&self, offline: bool) -> Self {
        Self {
            offline: offline.then(|| "with_offline(true)".into()),
            ..self.clone()
        }
    }

    /// The same, offline, with what an error is to name as the reason.
    pub fn with_offline_for(&self, reason: &str) -> Self {
        Self {
            offline: Some(reason.into()),
            ..self.clone()
        }
    }

    /// The same, printing lines or not. They can be had from [`Hub::lines`] in either case.
    pub fn with_progress(&self, progress: bool) -> Self {
        Self {
            progress,
            ..self.clone()
        }
    }

    /// The same with another number of further attempts, and another pause before the first of them,
    /// which doubles up to ten seconds.
    pub fn with_retries(&self, retries: u32, pause: Duration) -> Self {
        Self {
            retries,
            pause,
            ..self.clone()
        }
    }

    /// The same with other times: until an answer begins, and without data while a file arrives.
    /// Both are a millisecond at least.
    pub fn with_timeouts(&self, answer: Duration, stall: Duration) -> Self {
        let least = Duration::from_millis(1);
        Self {
            answer: answer.max(least),
            stall: stall.max(least),
            ..self.clone()
        }
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The folder of the cache.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether only what is in the cache can be had.
    pub fn offline(&self) -> bool {
        self.offline.is_some()
    }

    /// What was said so far, here and by all that were made of this by `with_…`: what was fetched, each
    /// further attempt, each file that was taken from the cache since the hub could not be asked.
    /// The last thousand lines.
    pub fn lines(&self) -> Vec<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// A model: `timm/resnet50.tv_in1k`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what cannot be a repository's name.
    pub fn model(&self, id: &str) -> Result<Repo> {
        Repo::new(self, Kind::Model, id)
    }

    /// A dataset: `ylecun/mnist`.
    ///
    /// # Errors
    /// As [`Hub::model`].
    pub fn dataset(&self, id: &str) -> Result<Repo> {
        Repo::new(self, Kind::Dataset, id)
    }

    /// Fetches any file of the web to `path`, unless it is there with this hash: an MD5, or the 8 digits and
    /// more with which a SHA-256 begins. Where none is given, a file that is there is taken as it is.
    ///
    /// What arrived before a cut is kept as `path.incomplete` and resumed. `path` is whole or not there.
    /// No token is sent, unless the address is the hub's.
    ///
    /// # Errors
    /// [`Error::Download`] where it cannot be had or is another file than the hash says, with what to do;
    /// [`Error::Invalid`] for what is no address, [`Error::Io`] where it cannot be written.
    pub fn download(&self, url: &str, path: impl AsRef<Path>, hash: Option<&str>) -> Result<()> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or_default();
        let what = shown(&name.to_string_lossy());
        parse(url)?;
        let hash = match hash {
            Some(text) => Hash::published(text)?,
            None => Hash::Unknown,
        };
        let is_there = |tell: bool| -> Result<bool> {
            if !path.is_file() {
                return Ok(false);
            }
            let differs = hash.differs(path)?;
            if let Some((expected, found)) = differs.as_ref().filter(|_| tell) {
                self.say(format!(
                    "{what}: expected {} {expected}, found {found}; fetched again",
                    hash.name()
                ));
            }
            Ok(differs.is_none())
        };
        if is_there(false)? {
            return Ok(());
        }
        if let Some(reason) = &self.offline {
            let found = match path.is_file() {
                true => "has another hash at",
                false => "is not at",
            };
            return Err(Error::download(format!(
                "{what} {found} {}, and nothing is fetched, as {reason} says; unset that, or put the file of {} there",
                path.display(),
                bare(url)
            )));
        }
        let _lock = lock(&beside(path, ".lock"), &what, self)?;
        if is_there(true)? {
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
                "{what} cannot be fetched: {}. {}{}",
                failure.why(),
                match &failure {
                    Failure::Refused(r) if matches!(r.status, 401 | 403 | 404 | 410) =>
                        "It seems to have moved: look for it from its authors, and put it at the same place",
                    _ => "Check the connection (HTTPS_PROXY, where there is a proxy) and try again",
                },
                transfer.kept()
            )),
        })
    }

    /// What forbids the network.
    pub(super) fn offline_reason(&self) -> Option<&str> {
        self.offline.as_deref()
    }

    /// Says a line.
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

    /// The headers of an answer, without the file.
    pub(super) fn head(&self, url: &str) -> Result<Answer, Failure> {
        self.ask(Ask {
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

/// A variable that holds something.
fn set(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Error::invalid(format!(
            "{name} must be plain text in UTF-8"
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
            "{name} must be a number of seconds from 1 to 86400, found “{}”",
            shown(&text)
        ))),
    }
}

fn user_home() -> Result<PathBuf> {
    std::env::home_dir()
        .filter(|home| !home.as_os_str().is_empty())
        .ok_or_else(|| {
            Error::invalid("no folder for the hub's files: neither HF_HOME nor HOME is set; set HF_HOME to a folder")
        })
}

/// A path as Python's library reads it: `~` is the home folder, and `$NAME` another variable.
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
