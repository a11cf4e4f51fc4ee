//! One HTTP request and its response: redirects, timeouts, the token, and the kinds of failure.

use super::Hub;
use crate::{Error, Result};
use invariances_core::duration as span;
use invariances_core::names::shown;
use std::time::Duration;
use ureq::http::{HeaderMap, Uri};
use ureq::{Body, Timeout};

/// At most this many redirects are followed.
const REDIRECTS: usize = 10;
/// Longest response of the API that is read, in bytes. The list of a dataset with 100 000 files
/// has 20 MB.
const MAX_RESPONSE: u64 = 64 << 20;
/// Longest wait that a server may request; a longer one is an error at once.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// Longest wait before another attempt, if the server requests none.
const PAUSE: Duration = Duration::from_secs(10);

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No response or an incomplete one: no connection, a timeout, an interruption. Another
    /// attempt may succeed.
    Unreachable(String),
    /// A response with an error status.
    Refused(Refusal),
    /// An error that another attempt cannot fix.
    Final(Error),
}

/// A response with an error status.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    /// The hub's error code: `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`, `GatedRepo`;
    /// may be empty.
    pub code: String,
    /// The server's error message, made safe to print on one line; may be empty.
    pub message: String,
    /// The wait that the server requests.
    pub wait: Option<Duration>,
    /// The host that responded.
    pub host: String,
}

impl Refusal {
    /// Whether another attempt may succeed.
    fn passes(&self) -> bool {
        matches!(self.status, 408 | 425 | 429) || self.status >= 500
    }

    /// Returns the status and the server's message.
    pub fn describe(&self) -> String {
        match self.message.is_empty() {
            true => self.status.to_string(),
            false => format!("{}, “{}”", self.status, self.message),
        }
    }
}

impl Failure {
    /// Returns the reason, worded for the middle of a sentence.
    pub fn reason(&self) -> String {
        match self {
            Self::Unreachable(reason) => reason.clone(),
            Self::Refused(refusal) => {
                format!("{} returned status {}", refusal.host, refusal.describe())
            }
            Self::Final(error) => error.to_string(),
        }
    }

    /// Returns the pause after `tried + 1` failed attempts, or `None` if another attempt is
    /// useless. `first` is the pause before the second attempt.
    fn pause(&self, first: Duration, tried: u32) -> Option<Duration> {
        let requested = match self {
            Self::Unreachable(_) => None,
            Self::Refused(refusal) if refusal.passes() => refusal.wait,
            Self::Refused(_) | Self::Final(_) => return None,
        };
        match requested {
            Some(wait) => (wait <= MAX_WAIT).then_some(wait),
            None => Some(first.saturating_mul(1 << tried.min(10)).min(PAUSE)),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// The hub's description of a file, from the headers of a response or of the redirects before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Linked {
    pub commit: Option<String>,
    /// As the server sent it, with quotes.
    pub etag: Option<String>,
    pub size: Option<u64>,
}

/// A response that is not a failure. Its status is 2xx or 416 or, for a HEAD request, that of a
/// redirect to another host.
pub(super) struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub linked: Linked,
    pub body: Body,
}

/// A request.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub head: bool,
    pub url: &'a str,
    /// Additional headers: `Range`, `If-Range`.
    pub headers: &'a [(&'static str, String)],
}

impl Hub {
    /// Sends one request and follows redirects. A HEAD request stops at a redirect to another
    /// host if the commit and the ETag are known by then.
    ///
    /// The token is sent to the endpoint only.
    pub(super) fn request(&self, request: Request) -> Result<Response, Failure> {
        let mut uri = parse(request.url)?;
        let mut linked = Linked::default();
        for _ in 0..=REDIRECTS {
            let response = self.send(request, &uri)?;
            let (parts, body) = response.into_parts();
            let text = |name: &str| {
                let value = parts.headers.get(name)?.to_str().ok()?.trim();
                (!value.is_empty()).then(|| value.to_owned())
            };
            let status = parts.status.as_u16();
            let commit = text("x-repo-commit");
            linked.commit = linked.commit.or(commit);
            let etag = text("x-linked-etag");
            linked.etag = linked.etag.or(etag);
            let size = text("x-linked-size").and_then(|s| s.parse().ok());
            linked.size = linked.size.or(size);
            if matches!(status, 301 | 302 | 303 | 307 | 308) {
                let location = text("location").unwrap_or_default();
                let next = redirected(&uri, &location)?;
                let known = linked.commit.is_some() && linked.etag.is_some();
                if request.head && known && origin(&next) != origin(&uri) {
                    return Ok(Response {
                        status,
                        headers: parts.headers,
                        linked,
                        body,
                    });
                }
                uri = next;
                continue;
            }
            if !(200..300).contains(&status) && status != 416 {
                return Err(Failure::Refused(Refusal {
                    status,
                    code: self.clean(&text("x-error-code").unwrap_or_default()),
                    message: self.clean(&text("x-error-message").unwrap_or_default()),
                    wait: wait(&parts.headers),
                    host: host(&uri),
                }));
            }
            if linked.etag.is_none() {
                linked.etag = text("etag");
            }
            return Ok(Response {
                status,
                headers: parts.headers,
                linked,
                body,
            });
        }
        Err(Failure::Final(Error::download(format!(
            "expected at most {REDIRECTS} redirects, found more from {}",
            bare(request.url)
        ))))
    }

    fn send(&self, request: Request, uri: &Uri) -> Result<ureq::http::Response<Body>, Failure> {
        let builder = match request.head {
            true => self.agent.head(uri),
            false => self.agent.get(uri),
        };
        let (answer, stall) = (self.answer, self.stall);
        let mut config = builder
            .config()
            .timeout_resolve(Some(answer))
            .timeout_connect(Some(answer))
            .timeout_send_request(Some(answer))
            .timeout_recv_response(Some(answer))
            .timeout_per_read(Some(stall));
        if is_local(uri) {
            config = config.proxy(None);
        }
        // A compressed response would have other lengths and byte ranges than the file.
        let mut builder = config.build().header("Accept-Encoding", "identity");
        for (name, value) in request.headers {
            builder = builder.header(*name, value);
        }
        let ours = parse(&self.endpoint).is_ok_and(|e| origin(&e) == origin(uri));
        if let Some(token) = self.token.as_deref().filter(|_| ours) {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        builder.call().map_err(|e| match e {
            // A TLS connection that rustls refuses.
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                Failure::Final(Error::download(format!(
                    "cannot open a secure connection to {}: {}. Check the proxy, the date of this machine, and whether the server supports https",
                    host(uri),
                    self.clean(&e.to_string())
                )))
            }
            e => self.failed(e, &host(uri)),
        })
    }

    /// Sends a request to the API and parses the JSON response.
    pub(super) fn api<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, Failure> {
        let request = Request {
            head: false,
            url,
            headers: &[],
        };
        let mut response = self.request(request)?;
        let wrong = |what: String| {
            Failure::Final(Error::download(format!(
                "unexpected response from {}: {what}; check HF_ENDPOINT",
                bare(url)
            )))
        };
        let text = response
            .body
            .with_config()
            .limit(MAX_RESPONSE)
            .read_to_vec();
        let text = text.map_err(|e| match e {
            ureq::Error::BodyExceedsLimit(_) => wrong(format!(
                "expected at most {} MB, found more",
                MAX_RESPONSE >> 20
            )),
            e => self.failed(e, &bare(url)),
        })?;
        serde_json::from_slice(&text).map_err(|e| wrong(self.clean(&e.to_string())))
    }

    /// Repeats an attempt while another one may succeed, at most `retries` times. The pause
    /// between attempts grows, unless the server requests a certain pause.
    pub(super) fn with_attempts<T>(
        &self,
        what: &str,
        retries: u32,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut tried = 0;
        loop {
            let failure = match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            self.pause(what, &failure, tried, retries).ok_or(failure)?;
            tried += 1;
        }
    }

    /// Waits before another attempt; returns `None` at once if there is to be none.
    pub(super) fn pause(
        &self,
        what: &str,
        failure: &Failure,
        tried: u32,
        retries: u32,
    ) -> Option<()> {
        let pause = failure
            .pause(self.pause, tried)
            .filter(|_| tried < retries)?;
        let when = match pause {
            Duration::ZERO => "at once".into(),
            pause => format!("in {}", span(pause)),
        };
        self.say(format!(
            "{what}: {}; attempt {} of {} {when}",
            failure.reason(),
            tried + 2,
            retries + 1,
        ));
        std::thread::sleep(pause);
        Some(())
    }

    /// Converts an error of the HTTP library.
    pub(super) fn failed(&self, error: ureq::Error, host: &str) -> Failure {
        use ureq::Error as E;
        let permanent = |what: String| Failure::Final(Error::download(what));
        match error {
            E::Timeout(Timeout::Resolve) => Failure::Unreachable(format!(
                "the address of {host} was not found within {}",
                span(self.answer)
            )),
            E::Timeout(Timeout::Connect) => Failure::Unreachable(format!(
                "no connection to {host} within {}",
                span(self.answer)
            )),
            E::Timeout(Timeout::SendRequest | Timeout::RecvResponse) => Failure::Unreachable(
                format!("no response from {host} within {}", span(self.answer)),
            ),
            E::Timeout(_) => {
                Failure::Unreachable(format!("no data from {host} for {}", span(self.stall)))
            }
            E::HostNotFound => Failure::Unreachable(format!("cannot resolve the host {host}")),
            E::Io(e) if e.get_ref().is_some_and(|e| e.is::<E>()) => self.failed(E::from(e), host),
            E::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                Failure::Unreachable(format!("{host} closed the connection early"))
            }
            E::Io(e) => Failure::Unreachable(format!("{host}: {}", self.clean(&e.to_string()))),
            E::ConnectionFailed | E::Protocol(_) | E::BodyStalled => {
                Failure::Unreachable(format!("{host}: {}", self.clean(&error.to_string())))
            }
            E::InvalidProxyUrl | E::ConnectProxyFailed(_) => permanent(format!(
                "cannot connect to {host} through the proxy: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
            )),
            E::LargeResponseHeader(_, _) => {
                permanent(format!("the response headers of {host} are too large"))
            }
            other => permanent(format!("{host}: {}", self.clean(&other.to_string()))),
        }
    }

    /// Makes a text from a server safe to print on one line, and removes the token from it.
    pub(super) fn clean(&self, text: &str) -> String {
        let text = match self.token.as_deref() {
            Some(token) => text.replace(token, "…"),
            None => text.to_owned(),
        };
        shown(text.trim())
    }
}

/// Parses an `http://` or `https://` address. A user name or password in it is an error.
pub(super) fn parse(url: &str) -> Result<Uri> {
    let wrong = |what: &str| {
        Error::invalid(format!(
            "expected an address such as https://huggingface.co, found “{}”: {what}",
            shown(&bare(url))
        ))
    };
    let uri: Uri = url
        .parse()
        .map_err(|_| wrong("it is not a valid address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("it must begin with https:// or http://"));
    }
    match uri.authority() {
        Some(a) if a.as_str().contains('@') => {
            Err(wrong("it must not contain a user name or a password"))
        }
        Some(a) if !a.host().is_empty() => Ok(uri),
        _ => Err(wrong("it has no host")),
    }
}

/// Shortens an address for an error message: without the query, which may contain a key, and
/// without a password.
pub(super) fn bare(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    match path.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or(host);
            format!("{scheme}://{host}{path}")
        }
        None => path.to_owned(),
    }
}

/// Returns the address to which a redirect leads.
fn redirected(from: &Uri, location: &str) -> Result<Uri, Failure> {
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |a| a.as_str());
    let address = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let to = parse(&address).ok().filter(|to| {
        // A redirect from https:// to http:// is not followed, because it would be unencrypted.
        !location.is_empty() && (scheme == "http" || to.scheme_str() == Some("https"))
    });
    to.ok_or_else(|| {
        Failure::Final(Error::download(format!(
            "{} redirects to “{}”, which is not followed: only https:// is followed (or http:// from http://)",
            host(from),
            shown(&bare(location))
        )))
    })
}

/// Returns scheme, host and port. The token is sent only if all three are those of the endpoint.
fn origin(uri: &Uri) -> (String, String, u16) {
    let scheme = uri.scheme_str().unwrap_or_default();
    let port = if scheme == "http" { 80 } else { 443 };
    (
        scheme.to_ascii_lowercase(),
        uri.host().unwrap_or_default().to_ascii_lowercase(),
        uri.port_u16().unwrap_or(port),
    )
}

fn host(uri: &Uri) -> String {
    uri.authority()
        .map_or_else(String::new, |a| shown(a.as_str()))
}

/// Whether the address is the local machine, for which no proxy is used.
fn is_local(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|a| a.is_loopback())
}

/// Reads the wait that a server requests, in seconds: `Retry-After: 30`, or the hub's
/// `RateLimit: "api";r=0;t=30`.
fn wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let seconds = match text("retry-after") {
        Some(after) => after.trim().parse().ok()?,
        None => {
            let parts = || text("ratelimit").into_iter().flat_map(|t| t.split(';'));
            parts().find(|p| p.trim() == "r=0")?;
            let reset = parts().find_map(|p| p.trim().strip_prefix("t="))?;
            reset.parse().ok()?
        }
    };
    Some(Duration::from_secs(seconds))
}
