//! Downloads a file: resumes an interrupted download, checks length and hash, and puts the file
//! in its place only when it is complete.

use super::Hub;
use super::cache::CACHE_HINT;
use super::hash::Hash;
use super::http::{Failure, Request, bare};
use super::progress::{Progress, amount};
use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Largest download without an announced length, in bytes.
const UNANNOUNCED: u64 = 16 << 30;
/// An attempt that received at least this many bytes resets the number of failed attempts.
const BROUGHT: u64 = 1 << 20;
/// Number of bytes that are read and written at a time.
pub(super) const PIECE: usize = 256 << 10;

/// A file that is to be fetched.
pub(super) struct Transfer<'a> {
    /// Its name in printed lines and errors.
    pub what: &'a str,
    pub url: &'a str,
    /// The final path. The received part is in the same folder, with `.incomplete` after its name.
    pub target: &'a Path,
    /// Its length in bytes, if it is known before the request.
    pub size: Option<u64>,
    pub hash: Hash,
    /// Whether the server's ETag is stored with the part, so that parts of two versions are never
    /// joined. Not needed for a file that is named by its ETag.
    pub versions: bool,
}

/// State of a download.
struct State {
    size: Option<u64>,
    /// Whether the part contains bytes of more than one response.
    joined: bool,
    /// Whether the download must start again instead of resuming the part.
    restart: bool,
    progress: Progress,
}

impl Transfer<'_> {
    pub fn part(&self) -> PathBuf {
        beside(self.target, ".incomplete")
    }

    /// Describes the part that is kept after an error, for the error message.
    pub fn kept_note(&self) -> String {
        match self.arrived() {
            0 => String::new(),
            bytes => format!("; {} were received and are kept", amount(bytes)),
        }
    }

    fn version(&self) -> PathBuf {
        beside(self.target, ".incomplete.etag")
    }

    /// Fetches the file to its final path. The caller must hold the lock of the file.
    pub fn run(&self, hub: &Hub) -> Result<(), Failure> {
        let mut state = State {
            size: self.size,
            joined: false,
            restart: false,
            progress: Progress::new(self.what),
        };
        let (mut tried, mut before, mut renewed) = (0, self.arrived(), false);
        loop {
            if let Err(failure) = self.attempt(hub, &mut state) {
                let now = self.arrived();
                if now >= before + BROUGHT {
                    tried = 0;
                }
                before = now;
                if hub.pause(self.what, &failure, tried, hub.retries).is_none() {
                    return Err(failure);
                }
                tried += 1;
                continue;
            }
            match self.hash.differs(&self.part())? {
                None => break,
                Some(_) if state.joined && !renewed => {
                    hub.say(format!(
                        "{}: the received parts do not match; downloading it again",
                        self.what
                    ));
                    (state.restart, renewed) = (true, true);
                }
                Some((expected, found)) => {
                    let page = self.is_page();
                    self.remove_part();
                    let hint = match page {
                        true => {
                            "Received a web page instead of the file: the file may have moved, or a proxy may require a login"
                        }
                        false => {
                            "Try again; if it fails again, a server or a proxy changes the file"
                        }
                    };
                    return Err(Failure::Final(Error::download(format!(
                        "{}: expected {} {expected}, found {found}, from {}; nothing was kept. {hint}",
                        self.what,
                        self.hash.name(),
                        bare(self.url),
                    ))));
                }
            }
        }
        let keep = || -> std::io::Result<()> {
            OpenOptions::new()
                .append(true)
                .open(self.part())?
                .sync_all()?;
            std::fs::rename(self.part(), self.target)
        };
        keep().map_err(|e| self.unwritable(e))?;
        let _ = std::fs::remove_file(self.version());
        state.progress.done(hub);
        Ok(())
    }

    fn arrived(&self) -> u64 {
        std::fs::metadata(self.part()).map_or(0, |m| m.len())
    }

    fn remove_part(&self) {
        let _ = std::fs::remove_file(self.part());
        let _ = std::fs::remove_file(self.version());
    }

    /// Sends one request for the missing bytes and writes them to the part.
    fn attempt(&self, hub: &Hub, state: &mut State) -> Result<(), Failure> {
        let mut file = self.open().map_err(|e| self.unwritable(e))?;
        let mut at = file.metadata().map_err(|e| self.unwritable(e))?.len();
        let version = self.stored_version();
        let checked = self.hash != Hash::Unknown || version.is_some();
        if state.restart || !checked || state.size.is_some_and(|s| at > s) {
            at = 0;
        }
        if at == 0 {
            empty(&mut file).map_err(|e| self.unwritable(e))?;
        }
        state.joined = at > 0;
        if state.size == Some(at) {
            return Ok(());
        }
        let mut headers = Vec::new();
        if at > 0 {
            headers.push(("Range", format!("bytes={at}-")));
            if let Some(version) = version {
                headers.push(("If-Range", version));
            }
        }
        let mut response = hub.request(Request {
            head: false,
            url: self.url,
            headers: &headers,
        })?;
        let text = |name: &str| response.headers.get(name)?.to_str().ok();
        let coded = text("content-encoding").is_some_and(|e| !e.eq_ignore_ascii_case("identity"));
        let range = text("content-range").and_then(content_range);
        let total = match response.status {
            206 => match range {
                Some((Some(start), total))
                    if at > 0 && start == at && state.size.is_none_or(|s| total == Some(s)) =>
                {
                    total
                }
                _ => {
                    state.restart = true;
                    return Err(Failure::Unreachable(
                        "the server sent another range of bytes than requested".into(),
                    ));
                }
            },
            416 => {
                // Either nothing is missing, or the file on the server has changed.
                if at > 0 && range.is_some_and(|(_, total)| total == Some(at)) {
                    state.size = Some(at);
                    return Ok(());
                }
                state.restart = true;
                return Err(Failure::Unreachable(
                    "the file on the server is shorter than the received part".into(),
                ));
            }
            _ => {
                // The whole file, perhaps in another version with another length.
                at = 0;
                state.size = self.size;
                empty(&mut file).map_err(|e| self.unwritable(e))?;
                state.joined = false;
                if self.versions {
                    self.keep_version(text("etag"))
                        .map_err(|e| self.unwritable(e))?;
                }
                text("content-length")
                    .filter(|_| !coded)
                    .and_then(|l| l.parse().ok())
            }
        };
        state.restart = false;
        if let (Some(size), Some(total)) = (state.size, total)
            && size != total
        {
            self.remove_part();
            return Err(Failure::Final(Error::download(format!(
                "{}: the hub announced {size} bytes, but {} has {total} bytes; nothing was kept. Try again later",
                self.what,
                bare(self.url)
            ))));
        }
        let size = state.size.or(total);
        state.size = size;
        state.progress.begin(hub, at, size);
        let mut reader = response.body.as_reader();
        let mut piece = vec![0; PIECE];
        file.seek(SeekFrom::Start(at))
            .map_err(|e| self.unwritable(e))?;
        loop {
            let count = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(match hub.failed(ureq::Error::from(e), &bare(self.url)) {
                        Failure::Unreachable(why) => self.cut(&why, at, size),
                        other => other,
                    });
                }
            };
            if at + count as u64 > size.unwrap_or(UNANNOUNCED) {
                self.remove_part();
                let limit = match size {
                    Some(size) => format!("more than the announced {size} bytes"),
                    None => format!(
                        "more than {} without an announced length",
                        amount(UNANNOUNCED)
                    ),
                };
                return Err(Failure::Final(Error::download(format!(
                    "{}: {} sent {limit}; nothing was kept. Try again later",
                    self.what,
                    bare(self.url)
                ))));
            }
            file.write_all(&piece[..count])
                .map_err(|e| self.unwritable(e))?;
            at += count as u64;
            state.progress.at(hub, at, size);
        }
        match size {
            Some(size) if at < size => Err(self.cut("the connection ended early", at, Some(size))),
            _ => {
                state.size = Some(at);
                Ok(())
            }
        }
    }

    fn cut(&self, why: &str, at: u64, size: Option<u64>) -> Failure {
        let of = size.map_or(String::new(), |s| format!(" of {}", amount(s)));
        Failure::Unreachable(format!("{why}, after {}{of}", amount(at)))
    }

    /// Whether the received content is a web page.
    fn is_page(&self) -> bool {
        let mut head = [0; 64];
        let read = File::open(self.part()).and_then(|mut f| f.read(&mut head));
        let head = String::from_utf8_lossy(&head[..read.unwrap_or(0)]).to_lowercase();
        let head = head.trim_start();
        head.starts_with("<!doctype") || head.starts_with("<html")
    }

    /// Opens the part, or creates it. Anything there that is not a regular file is removed first.
    fn open(&self) -> std::io::Result<File> {
        let part = self.part();
        if std::fs::symlink_metadata(&part).is_ok_and(|m| !m.is_file()) {
            std::fs::remove_file(&part)?;
        }
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
    }

    fn stored_version(&self) -> Option<String> {
        if !self.versions {
            return None;
        }
        let text = std::fs::read_to_string(self.version()).ok()?;
        is_strong(&text).then_some(text)
    }

    fn keep_version(&self, etag: Option<&str>) -> std::io::Result<()> {
        match etag.filter(|e| is_strong(e)) {
            Some(etag) => std::fs::write(self.version(), etag),
            None => match std::fs::remove_file(self.version()) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            },
        }
    }

    fn unwritable(&self, error: std::io::Error) -> Failure {
        let hint = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                let size = self
                    .size
                    .map_or(String::new(), |s| format!("{} are needed; ", amount(s)));
                format!(
                    "{size}free some space, or set another cache folder (HF_HOME for the hub's files, INVARIANCES_CACHE for the authors' files)"
                )
            }
            _ => CACHE_HINT.into(),
        };
        Failure::Final(Error::io(self.part(), error).with_hint(hint))
    }
}

/// Whether an ETag is strong, so that it identifies one version, and is safe to send in a header.
fn is_strong(etag: &str) -> bool {
    etag.len() <= 256
        && etag.len() >= 2
        && etag.starts_with('"')
        && etag.ends_with('"')
        && etag.bytes().all(|b| b.is_ascii_graphic())
}

fn empty(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()
}

/// Parses `bytes 10-99/100` or `bytes */100`: the first byte and the total length, if given.
fn content_range(text: &str) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let total = total.trim().parse().ok();
    if range.trim() == "*" {
        return Some((None, total));
    }
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let fits = first <= last && total.is_none_or(|t| last < t);
    fits.then_some((Some(first), total))
}

/// Appends `ending` to a path's file name.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
