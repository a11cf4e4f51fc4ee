//! A hub on loopback: what huggingface.co answers to those who fetch, and what can go wrong on the way.
//!
//! Two servers, since the hub sends those who want a large file to another host, which has no business with
//! their token: the hub itself, and its "CDN". HTTP/1.1, a connection for each request.

// Each test that has this file needs another part of it.
#![allow(dead_code)]

use ring::digest;
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// The commit of every repository, unless it has another.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[derive(Clone, Debug)]
struct RepoFile {
    name: String,
    bytes: Arc<Vec<u8>>,
    large: bool,
}

/// A repository at one revision.
#[derive(Clone, Debug)]
pub struct Repo {
    kind: &'static str,
    id: String,
    revision: String,
    commit: String,
    files: Vec<RepoFile>,
    token: Option<String>,
    gated: bool,
}

impl Repo {
    fn new(kind: &'static str, id: &str) -> Self {
        Self {
            kind,
            id: id.into(),
            revision: "main".into(),
            commit: COMMIT.into(),
            files: Vec::new(),
            token: None,
            gated: false,
        }
    }

    pub fn model(id: &str) -> Self {
        Self::new("model", id)
    }

    pub fn dataset(id: &str) -> Self {
        Self::new("dataset", id)
    }

    /// At another revision than `main`, and another commit.
    pub fn at(mut self, revision: &str, commit: &str) -> Self {
        (self.revision, self.commit) = (revision.into(), commit.into());
        self
    }

    /// A file that Git keeps: it comes from the hub itself.
    pub fn file(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push(RepoFile {
            name: name.into(),
            bytes: Arc::new(bytes.into()),
            large: false,
        });
        self
    }

    /// A file that LFS keeps: it comes from the CDN.
    pub fn large(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self = self.file(name, bytes);
        if let Some(file) = self.files.last_mut() {
            file.large = true;
        }
        self
    }

    /// Only those who have this token see it.
    pub fn private(mut self, token: &str) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Only those who have this token have its files; the others are told that they may ask.
    pub fn gated(mut self, token: &str) -> Self {
        self.gated = true;
        self.private(token)
    }
}

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and nothing else.
    Status(u16),
    /// This status, with headers.
    Headers(u16, Vec<(String, String)>),
    /// These headers in place of those of the same names; an empty value takes one away.
    Change(Vec<(String, String)>),
    /// The connection ends after so many bytes of the content.
    Cut(usize),
    /// No answer, until the client gives up.
    Silence,
    /// Nothing more after so many bytes of the content, until the client gives up.
    Stall(usize),
    /// The first byte of the content is another.
    Wrong,
    /// The whole file, whatever part is asked for.
    Whole,
    /// Another content, to its end, without a length.
    Other(Vec<u8>),
    /// The answer waits until [`LoopbackHub::go_on`].
    Wait,
}

/// What was asked, in the order in which it was.
#[derive(Clone, Debug)]
pub struct Request {
    /// `hub` or `cdn`.
    pub host: &'static str,
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub authorization: Option<String>,
}

struct Shared {
    repos: Mutex<Vec<Repo>>,
    shared: Mutex<Vec<(String, Arc<Vec<u8>>)>>,
    faults: Mutex<Vec<(String, usize, Fault)>>,
    requests: Mutex<Vec<Request>>,
    waiting: (Mutex<bool>, Condvar),
    stop: AtomicBool,
    cdn: String,
}

/// The servers. They end when this is dropped.
pub struct LoopbackHub {
    endpoint: String,
    shared: Arc<Shared>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl LoopbackHub {
    pub fn start(repos: Vec<Repo>) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
        let cdn = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
        let address = |l: &TcpListener| format!("http://{}", l.local_addr().expect("a port"));
        let endpoint = address(&hub);
        let shared = Arc::new(Shared {
            repos: Mutex::new(repos),
            shared: Mutex::default(),
            faults: Mutex::default(),
            requests: Mutex::default(),
            waiting: Default::default(),
            stop: AtomicBool::new(false),
            cdn: address(&cdn),
        });
        for (name, listener) in [("hub", hub), ("cdn", cdn)] {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let (shared, Ok(stream)) = (shared.clone(), stream) else {
                        continue;
                    };
                    // A client that goes away is no concern of the server's.
                    std::thread::spawn(move || shared.serve(name, stream).ok());
                }
            });
        }
        Self { endpoint, shared }
    }

    /// What belongs in `HF_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        held(&self.shared.requests).clone()
    }

    /// From now on, other repositories.
    pub fn publish(&self, repos: Vec<Repo>) {
        *held(&self.shared.repos) = repos;
    }

    /// The next `times` requests of which this is a part fail so: `GET hub:/org/name/resolve`, `cdn:`.
    pub fn fault(&self, on: &str, times: usize, fault: Fault) {
        held(&self.shared.faults).push((on.into(), times, fault));
    }

    /// Puts a file of a university's share on the web, and gives its address: it leads on to another.
    pub fn share(&self, name: &str, bytes: impl Into<Vec<u8>>) -> String {
        let mut shared = held(&self.shared.shared);
        shared.retain(|(n, _)| n != name);
        shared.push((name.into(), Arc::new(bytes.into())));
        format!("{}/f/{name}/?dl=1", self.endpoint)
    }

    /// Ends [`Fault::Wait`].
    pub fn go_on(&self) {
        *held(&self.shared.waiting.0) = true;
        self.shared.waiting.1.notify_all();
    }
}

impl Drop for LoopbackHub {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.go_on();
        for address in [&self.endpoint, &self.shared.cdn] {
            // So that the loop sees it.
            let _ = TcpStream::connect(address.trim_start_matches("http://"));
        }
    }
}

/// SHA-256, as LFS has it.
pub fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes))
}

/// The name that Git gives to a file.
pub fn git_name(bytes: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", bytes.len()).as_bytes());
    context.update(bytes);
    hex(context.finish())
}

fn hex(digest: digest::Digest) -> String {
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// An answer before it is sent.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<Vec<u8>>,
    /// Whether a part of the body can be asked for.
    ranges: bool,
}

fn answer(status: u16, headers: &[(&str, String)]) -> Answer {
    Answer {
        status,
        headers: headers
            .iter()
            .map(|(n, v)| (n.to_string(), v.clone()))
            .collect(),
        body: Arc::default(),
        ranges: false,
    }
}

fn refused(status: u16, code: &str, message: &str) -> Answer {
    let mut headers = vec![("X-Error-Message", message.to_string())];
    if !code.is_empty() {
        headers.push(("X-Error-Code", code.to_string()));
    }
    answer(status, &headers)
}

fn json_answer(value: serde_json::Value) -> Answer {
    Answer {
        body: Arc::new(value.to_string().into_bytes()),
        ..answer(200, &[("Content-Type", "application/json".into())])
    }
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        let hex = text
            .get(i + 1..i + 3)
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Shared {
    fn serve(&self, host: &'static str, stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, path) = match (words.next(), words.next()) {
            (Some(method), Some(path)) => (method.to_string(), path.to_string()),
            _ => return Ok(()),
        };
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':') {
                headers.push((name.trim().to_lowercase(), value.trim().to_string()));
            }
        }
        let header = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let request = Request {
            host,
            method,
            path,
            range: header("range"),
            if_range: header("if-range"),
            authorization: header("authorization"),
        };
        held(&self.requests).push(request.clone());
        let fault = self.fault(&format!("{} {host}:{}", request.method, request.path));
        let mut out = stream;
        if let Some(Fault::Silence) = fault {
            // Until the client hangs up.
            let _ = reader.read(&mut [0]);
            return Ok(());
        }
        let answer = match &fault {
            Some(Fault::Status(status)) => answer(*status, &[]),
            Some(Fault::Headers(status, headers)) => Answer {
                headers: headers.clone(),
                ..answer(*status, &[])
            },
            _ => self.answer(&request),
        };
        self.send(&mut out, &mut reader, &request, answer, fault)
    }

    fn fault(&self, request: &str) -> Option<Fault> {
        let mut faults = held(&self.faults);
        let found = faults
            .iter_mut()
            .find(|(on, times, _)| *times > 0 && request.contains(&**on));
        found.map(|(_, times, fault)| {
            *times -= 1;
            fault.clone()
        })
    }

    fn answer(&self, request: &Request) -> Answer {
        let (path, _) = request.path.split_once('?').unwrap_or((&request.path, ""));
        if request.host == "cdn" {
            return self.blob(path.trim_start_matches("/blob/"));
        }
        if let Some(name) = path.strip_prefix("/f/") {
            let name = name.trim_end_matches('/');
            return answer(
                302,
                &[("Location", format!("{}/blob/{name}?signed=key", self.cdn))],
            );
        }
        let repos = held(&self.repos).clone();
        let path = path.trim_start_matches('/');
        if let Some(rest) = path.strip_prefix("api/resolve-cache/") {
            // models/ID/COMMIT/FILE
            let repo = repos.iter().find_map(|r| {
                let prefix = format!("{}s/{}/{}/", r.kind, r.id, r.commit);
                Some((r, decoded(rest.strip_prefix(&prefix)?)))
            });
            let file = repo.and_then(|(r, f)| Some((r, r.files.iter().find(|x| x.name == f)?)));
            return match file {
                Some((repo, file)) => Answer {
                    body: file.bytes.clone(),
                    ranges: true,
                    ..answer(200, &self.file_headers(repo, file))
                },
                None => refused(404, "EntryNotFound", "Entry not found"),
            };
        }
        let (kind, rest) = match path.strip_prefix("api/") {
            Some(rest) => match rest.split_once('/') {
                Some(("models", rest)) => ("model", rest),
                Some(("datasets", rest)) => ("dataset", rest),
                _ => return answer(404, &[]),
            },
            None => match path.strip_prefix("datasets/") {
                Some(rest) => ("dataset", rest),
                None => ("model", path),
            },
        };
        let of_kind: Vec<&Repo> = repos.iter().filter(|r| r.kind == kind).collect();
        let inside = |r: &&&Repo| rest == r.id || rest.starts_with(&format!("{}/", r.id));
        let Some(named) = of_kind.iter().find(inside) else {
            return match request.authorization {
                None => refused(401, "RepoNotFound", "Invalid username or password."),
                Some(_) => refused(404, "RepoNotFound", "Repository not found"),
            };
        };
        let api = path.starts_with("api/");
        if let Some(token) = &named.token {
            let given = request.authorization.as_deref();
            let right = given == Some(&format!("Bearer {token}"));
            match (right, named.gated, given) {
                (true, _, _) => {}
                // Whoever may not have the files may still see their names.
                (false, true, _) if api => {}
                (false, true, None) => {
                    return refused(401, "GatedRepo", "Access to this model is restricted.");
                }
                (false, true, Some(_)) => {
                    return refused(403, "GatedRepo", "You are not on the authorized list.");
                }
                (false, false, None) => {
                    return refused(401, "RepoNotFound", "Invalid username or password.");
                }
                (false, false, Some(_)) => {
                    return refused(401, "", "Invalid credentials in Authorization header");
                }
            }
        }
        let id = named.id.clone();
        let rest = rest[id.len()..].trim_start_matches('/');
        let revisions = || of_kind.iter().filter(|r| r.id == id);
        let at = |revision: &str| {
            let revision = decoded(revision);
            revisions()
                .find(|r| r.revision == revision || r.commit == revision)
                .copied()
        };
        let no_revision = || refused(404, "RevisionNotFound", "Invalid rev id");
        if api {
            if rest == "refs" {
                let (converts, branches): (Vec<&Repo>, Vec<&Repo>) = revisions()
                    .copied()
                    .partition(|r| r.revision.starts_with("refs/"));
                let named = |r: &&Repo| json!({"name": r.revision.trim_start_matches("refs/convert/"), "ref": r.revision, "targetCommit": r.commit});
                return json_answer(json!({
                    "branches": branches.iter().map(named).collect::<Vec<_>>(),
                    "converts": converts.iter().map(named).collect::<Vec<_>>(),
                    "tags": [],
                }));
            }
            let repo = match rest.strip_prefix("revision/") {
                Some(revision) => at(revision),
                None => at("main"),
            };
            let Some(repo) = repo else {
                return no_revision();
            };
            let file = |f: &RepoFile| {
                let mut entry = json!({"rfilename": f.name});
                if request.path.ends_with("?blobs=true") {
                    entry["size"] = json!(f.bytes.len());
                    entry["blobId"] = json!(git_name(&f.bytes));
                }
                if f.large && !entry["size"].is_null() {
                    entry["lfs"] = json!({"sha256": sha256(&f.bytes), "size": f.bytes.len(), "pointerSize": 134});
                }
                entry
            };
            return json_answer(json!({
                "id": repo.id, "sha": repo.commit, "private": false, "gated": repo.gated,
                "siblings": repo.files.iter().map(file).collect::<Vec<_>>(),
            }));
        }
        let Some((revision, file)) = rest
            .strip_prefix("resolve/")
            .and_then(|r| r.split_once('/'))
        else {
            return answer(404, &[]);
        };
        let Some(repo) = at(revision) else {
            return no_revision();
        };
        let name = decoded(file);
        let Some(file) = repo.files.iter().find(|f| f.name == name) else {
            let mut missing = refused(404, "EntryNotFound", "Entry not found");
            missing
                .headers
                .push(("X-Repo-Commit".into(), repo.commit.clone()));
            return missing;
        };
        let mut headers = self.file_headers(repo, file);
        if file.large {
            let hash = sha256(&file.bytes);
            headers.push(("X-Linked-Etag", format!("\"{hash}\"")));
            headers.push(("X-Linked-Size", file.bytes.len().to_string()));
            headers.push(("Location", format!("{}/blob/{hash}?signed=key", self.cdn)));
            return answer(302, &headers);
        }
        let (kind, commit) = (repo.kind, &repo.commit);
        let encoded = request.path.rsplit_once("/resolve/").map_or("", |(_, r)| r);
        let encoded = encoded.split_once('/').map_or("", |(_, file)| file);
        let next = format!("/api/resolve-cache/{kind}s/{id}/{commit}/{encoded}");
        headers.push(("Location", next));
        answer(307, &headers)
    }

    fn file_headers(&self, repo: &Repo, file: &RepoFile) -> Vec<(&'static str, String)> {
        // For a large file it is that of LFS's pointer, which nobody wants.
        let etag = match file.large {
            true => git_name(format!("pointer to {}", sha256(&file.bytes)).as_bytes()),
            false => git_name(&file.bytes),
        };
        vec![
            ("X-Repo-Commit", repo.commit.clone()),
            ("ETag", format!("\"{etag}\"")),
        ]
    }

    /// What the CDN has: large files by their hash, shared ones by their name.
    fn blob(&self, name: &str) -> Answer {
        let repos = held(&self.repos);
        let files = repos.iter().flat_map(|r| &r.files);
        let large = files.filter(|f| f.large).find(|f| sha256(&f.bytes) == name);
        let bytes = match large {
            Some(file) => Some(file.bytes.clone()),
            None => {
                let shared = held(&self.shared);
                let found = shared.iter().find(|(n, _)| n == name);
                found.map(|(_, bytes)| bytes.clone())
            }
        };
        match bytes {
            Some(bytes) => {
                let etag = format!("\"{}\"", &sha256(&bytes)[..16]);
                Answer {
                    body: bytes,
                    ranges: true,
                    ..answer(200, &[("ETag", etag)])
                }
            }
            None => answer(404, &[]),
        }
    }

    fn send(
        &self,
        out: &mut TcpStream,
        reader: &mut impl Read,
        request: &Request,
        mut answer: Answer,
        fault: Option<Fault>,
    ) -> std::io::Result<()> {
        let len = answer.body.len();
        let mut from = 0;
        let mut to = len;
        if answer.ranges && !matches!(fault, Some(Fault::Whole)) {
            answer
                .headers
                .push(("Accept-Ranges".into(), "bytes".into()));
            let etag = answer
                .headers
                .iter()
                .find(|(n, _)| n == "ETag")
                .map(|(_, v)| v);
            let same = request.if_range.is_none() || request.if_range.as_ref() == etag;
            let range = request.range.as_deref().filter(|_| same);
            if let Some((first, last)) =
                range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-'))
            {
                from = first.parse().unwrap_or(0);
                to = last.parse::<usize>().map_or(len, |last| len.min(last + 1));
                let range = match from < to {
                    true => {
                        answer.status = 206;
                        format!("bytes {from}-{}/{len}", to - 1)
                    }
                    false => {
                        answer.status = 416;
                        (from, to) = (0, 0);
                        format!("bytes */{len}")
                    }
                };
                answer.headers.push(("Content-Range".into(), range));
            }
        }
        let mut body = answer.body[from..to].to_vec();
        match &fault {
            Some(Fault::Wrong) if !body.is_empty() => body[0] ^= 1,
            Some(Fault::Other(bytes)) => body = bytes.clone(),
            _ => {}
        }
        if !matches!(fault, Some(Fault::Other(_))) {
            answer
                .headers
                .push(("Content-Length".into(), body.len().to_string()));
        }
        answer.headers.push(("Connection".into(), "close".into()));
        if let Some(Fault::Change(changes)) = &fault {
            for (name, value) in changes {
                answer
                    .headers
                    .retain(|(n, _)| !n.eq_ignore_ascii_case(name));
                if !value.is_empty() {
                    answer.headers.push((name.clone(), value.clone()));
                }
            }
        }
        if let Some(Fault::Wait) = fault {
            let mut go = held(&self.waiting.0);
            while !*go {
                go = self.waiting.1.wait(go).unwrap_or_else(|e| e.into_inner());
            }
        }
        let mut head = format!("HTTP/1.1 {} .\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        out.write_all(format!("{head}\r\n").as_bytes())?;
        if request.method == "HEAD" {
            return Ok(());
        }
        let sent = match fault {
            Some(Fault::Cut(bytes) | Fault::Stall(bytes)) => bytes.min(body.len()),
            _ => body.len(),
        };
        out.write_all(&body[..sent])?;
        out.flush()?;
        if let Some(Fault::Stall(_)) = fault {
            let _ = reader.read(&mut [0]);
        }
        Ok(())
    }
}
