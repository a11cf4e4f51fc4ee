//! Files from the hub, from a hub on loopback: what arrives, what is kept, and what is said when it fails.

#[path = "common/hub.rs"]
mod loopback;

use invariances::hub::{Hub, Published, RepoFile, published};
use invariances::notebook::Lab;
use invariances::ops::Rng;
use invariances::{Error, Result, hf_hub};
use loopback::{COMMIT, Fault, LoopbackHub, Repo, git_name, sha256};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba98";
const README: &[u8] = b"# A model\n";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Bytes that are nowhere alike.
fn content(seed: usize, len: usize) -> Vec<u8> {
    let mut rng = Rng::at(seed as u64, "content", 0);
    (0..len).map(|_| rng.below(256) as u8).collect()
}

fn weights() -> Vec<u8> {
    static WEIGHTS: LazyLock<Vec<u8>> = LazyLock::new(|| content(1, 100_000));
    WEIGHTS.clone()
}

fn models() -> Vec<Repo> {
    vec![
        Repo::model("timm/net")
            .large("model.safetensors", weights())
            .large("onnx/model.onnx", content(2, 500))
            .file("README.md", README)
            .file("a folder/with #1 & ü?.txt", "strange"),
    ]
}

/// Whatever the environment says of the hub: this server, this cache, no token, no lines, quick attempts.
fn client(server: &LoopbackHub, cache: &Path) -> Result<Hub> {
    Ok(Hub::open()?
        .with_offline(false)
        .with_endpoint(server.endpoint())?
        .with_cache(cache)?
        .with_token("")?
        .with_progress(false)
        .with_retries(3, Duration::from_millis(1))
        .with_timeouts(Duration::from_secs(20), Duration::from_secs(20)))
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The text of the error, which must hold all of these.
#[track_caller]
fn says<T: std::fmt::Debug>(outcome: Result<T>, parts: &[&str]) -> String {
    let error = outcome.expect_err("expected an error").to_string();
    for part in parts {
        assert!(error.contains(part), "expected {part:?} in: {error}");
    }
    error
}

#[track_caller]
fn said(hub: &Hub, part: &str) {
    let lines = hub.lines();
    assert!(
        lines.iter().any(|l| l.contains(part)),
        "expected {part:?} in {lines:#?}"
    );
}

/// Every file below a folder, by its path from there; a link is what it leads to.
fn below(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => folders.push(path),
                path => all.push(path.strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    all.sort();
    all
}

fn asked(server: &LoopbackHub) -> Vec<String> {
    let requests = server.requests();
    let each = requests
        .iter()
        .map(|r| format!("{} {}:{}", r.method, r.host, r.path));
    each.collect()
}

#[test]
fn a_file_comes_into_the_shared_layout_and_is_not_asked_for_again() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let model = hub.model("timm/net")?;
    let repo = cache.path().join("models--timm--net");

    let path = model.file("model.safetensors")?;
    assert_eq!(
        path,
        repo.join("snapshots")
            .join(COMMIT)
            .join("model.safetensors")
    );
    assert_eq!(read(&path), weights());
    let hash = sha256(&weights());
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(&path).unwrap(),
        PathBuf::from(format!("../../blobs/{hash}"))
    );
    assert_eq!(read(repo.join("refs/main")), COMMIT.as_bytes());
    assert_eq!(
        asked(&server),
        [
            "HEAD hub:/timm/net/resolve/main/model.safetensors".to_string(),
            format!("GET hub:/timm/net/resolve/{COMMIT}/model.safetensors"),
            format!("GET cdn:/blob/{hash}?signed=key"),
        ]
    );
    said(
        &hub,
        "model.safetensors of the model timm/net: downloading, 100 kB",
    );

    let readme = model.file("README.md")?;
    assert_eq!(read(&readme), README);
    assert_eq!(read(repo.join("blobs").join(git_name(README))), README);
    let strange = model.file("a folder/with #1 & ü?.txt")?;
    assert_eq!(read(&strange), b"strange");
    #[cfg(unix)]
    assert!(
        std::fs::read_link(&strange)
            .unwrap()
            .starts_with("../../../blobs")
    );
    server.publish(models().into_iter().map(|r| r.file("empty", "")).collect());
    assert!(read(model.file("empty")?).is_empty());
    let nested = model.file("onnx/model.onnx")?;
    assert_eq!(read(nested), content(2, 500));

    let before = server.requests().len();
    assert_eq!(model.file("model.safetensors")?, path);
    assert_eq!(
        hub.with_offline(true)
            .model("timm/net")?
            .file("README.md")?,
        readme
    );
    assert_eq!(model.at(COMMIT)?.file("README.md")?, readme);
    assert_eq!(
        server.requests().len(),
        before,
        "a file in the cache is taken without asking"
    );
    // Nothing is left over beside the five contents.
    assert_eq!(below(&repo.join("blobs")).len(), 5);
    Ok(())
}

#[test]
fn hf_hub_and_this_share_a_cache() -> Result<()> {
    let (server, ours, theirs) = (LoopbackHub::start(models()), folder(), folder());
    let path = client(&server, ours.path())?
        .model("timm/net")?
        .file("model.safetensors")?;
    let found = hf_hub::Cache::new(ours.path().into()).model("timm/net".into());
    assert_eq!(found.get("model.safetensors"), Some(path));

    let api = hf_hub::api::sync::ApiBuilder::new()
        .with_endpoint(server.endpoint().into())
        .with_cache_dir(theirs.path().into())
        .with_token(None)
        .with_progress(false)
        .build()
        .unwrap();
    let path = api
        .model("timm/net".into())
        .get("model.safetensors")
        .unwrap();
    let hub = client(&server, theirs.path())?.with_offline(true);
    assert_eq!(hub.model("timm/net")?.file("model.safetensors")?, path);
    assert_eq!(read(path), weights());
    Ok(())
}

#[test]
fn a_cut_is_resumed() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    server.fault("GET cdn:", 1, Fault::Cut(30_000));
    server.fault("GET cdn:", 1, Fault::Cut(20_000));
    let path = hub.model("timm/net")?.file("model.safetensors")?;
    assert_eq!(read(path), weights());
    let ranges: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|r| r.host == "cdn")
        .map(|r| r.range)
        .collect();
    assert_eq!(
        ranges,
        [
            None,
            Some("bytes=30000-".to_string()),
            Some("bytes=50000-".to_string())
        ]
    );
    said(&hub, "early, after 30 kB of 100 kB; attempt 2 of 4 in 1 ms");
    said(&hub, "resumed after 50 kB, 100 kB");
    Ok(())
}

#[test]
fn a_cut_is_resumed_by_the_next_call() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?.with_retries(0, Duration::ZERO);
    let model = hub.model("timm/net")?;
    server.fault("GET cdn:", 1, Fault::Cut(70_000));
    says(
        model.file("model.safetensors"),
        &[
            "cannot download model.safetensors of the model timm/net",
            "after 70 kB of 100 kB",
            "Check the connection",
            "try again; 70 kB were received and are kept",
        ],
    );
    let blobs = cache.path().join("models--timm--net/blobs");
    assert_eq!(
        below(&blobs),
        [format!("{}.incomplete", sha256(&weights()))]
    );
    assert!(!cache.path().join("models--timm--net/snapshots").exists());

    assert_eq!(read(model.file("model.safetensors")?), weights());
    let last = server.requests().pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=70000-"));

    // A part that is whole is compared, and not fetched again.
    let blob = blobs.join(sha256(&weights()));
    std::fs::rename(
        &blob,
        blobs.join(format!("{}.incomplete", sha256(&weights()))),
    )
    .unwrap();
    let before = server.requests().len();
    assert_eq!(read(model.file("model.safetensors")?), weights());
    let since = &asked(&server)[before..];
    assert_eq!(since, ["HEAD hub:/timm/net/resolve/main/model.safetensors"]);
    Ok(())
}

/// Servers that do not keep to what was asked, and parts that are not what they seem.
#[test]
fn what_does_not_fit_is_fetched_anew() -> Result<()> {
    let hash = sha256(&weights());
    let range = |value: &str| Fault::Change(vec![("Content-Range".into(), value.into())]);
    let cases: [(&str, Vec<u8>, Option<Fault>); 7] = [
        (
            "the whole file",
            weights()[..40_000].to_vec(),
            Some(Fault::Whole),
        ),
        (
            "another range",
            weights()[..40_000].to_vec(),
            Some(range("bytes 0-59999/100000")),
        ),
        (
            "another length",
            weights()[..40_000].to_vec(),
            Some(range("bytes 40000-99999/100001")),
        ),
        (
            "no range",
            weights()[..40_000].to_vec(),
            Some(range("elephants")),
        ),
        ("other bytes", content(7, 40_000), None),
        ("too many bytes", content(8, 100_001), None),
        ("a whole part of other bytes", content(9, 100_000), None),
    ];
    for (name, part, fault) in cases {
        let (server, cache) = (LoopbackHub::start(models()), folder());
        let blobs = cache.path().join("models--timm--net/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join(format!("{hash}.incomplete")), part).unwrap();
        if let Some(fault) = fault {
            server.fault("GET cdn:", 1, fault);
        }
        let hub = client(&server, cache.path())?;
        let path = hub.model("timm/net")?.file("model.safetensors")?;
        assert_eq!(read(path), weights(), "{name}");
        assert_eq!(below(&blobs), [hash.as_str()], "{name}");
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_part_that_is_a_link_is_not_written_through() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let blobs = cache.path().join("models--timm--net/blobs");
    let precious = cache.path().join("precious");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(&precious, "mine").unwrap();
    let part = blobs.join(format!("{}.incomplete", sha256(&weights())));
    std::os::unix::fs::symlink(&precious, part).unwrap();
    let path = client(&server, cache.path())?
        .model("timm/net")?
        .file("model.safetensors")?;
    assert_eq!((read(path), read(precious)), (weights(), b"mine".to_vec()));
    Ok(())
}

#[test]
fn a_wrong_hash_leaves_nothing() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let model = hub.model("timm/net")?;
    let mut changed = weights();
    changed[0] ^= 1;
    server.fault("GET cdn:", 1, Fault::Wrong);
    let error = says(
        model.file("model.safetensors"),
        &[
            "model.safetensors of the model timm/net: expected SHA-256",
            &sha256(&weights()),
            &format!("found {}", sha256(&changed)),
            "nothing was kept. Try again",
        ],
    );
    assert!(
        !error.contains("signed"),
        "a signed address is a key: {error}"
    );
    server.fault("GET hub:/api/resolve-cache", 1, Fault::Wrong);
    says(
        model.file("README.md"),
        &[
            "expected Git hash",
            &git_name(README),
            &format!("found {}", git_name(b"\" A model\n")),
        ],
    );
    assert!(below(&cache.path().join("models--timm--net")).is_empty());
    // A page of a proxy is known as one.
    let page = format!("<!DOCTYPE html>{}", "x".repeat(99_985));
    server.fault("GET cdn:", 1, Fault::Other(page.into_bytes()));
    says(
        model.file("model.safetensors"),
        &["Received a web page instead of the file"],
    );
    // Both are whole the next time.
    assert_eq!(read(model.file("model.safetensors")?), weights());
    assert_eq!(read(model.file("README.md")?), README);
    Ok(())
}

#[test]
fn a_length_that_is_not_kept_is_an_error() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let model = hub.model("timm/net")?;
    let announce = |n: &str| Fault::Change(vec![("X-Linked-Size".into(), n.into())]);
    server.fault("HEAD hub:", 1, announce("99999"));
    says(
        model.file("model.safetensors"),
        &[
            "the hub announced 99999 bytes",
            "has 100000 bytes; nothing was kept",
        ],
    );
    server.fault("GET cdn:", 1, Fault::Other(content(3, 100_001)));
    says(
        model.file("model.safetensors"),
        &["sent more than the announced 100000 bytes; nothing was kept"],
    );
    // An end without a length that comes too soon is a cut.
    server.fault("GET cdn:", 4, Fault::Other(weights()[..5].to_vec()));
    says(
        model.file("model.safetensors"),
        &["after 20 bytes of 100 kB"],
    );
    assert_eq!(read(model.file("model.safetensors")?), weights());
    // A content in the cache that is too short is not believed.
    let blob = cache
        .path()
        .join("models--timm--net/blobs")
        .join(sha256(&weights()));
    std::fs::write(&blob, "short").unwrap();
    assert_eq!(read(model.newest().file("model.safetensors")?), weights());
    Ok(())
}

#[test]
fn what_is_not_there_is_named() -> Result<()> {
    let mut repos = models();
    repos.push(
        Repo::model("timm/net")
            .at("v1.0", OTHER)
            .file("config.json", "{}"),
    );
    repos.push(Repo::dataset("ylecun/mnist").file("README.md", "digits"));
    let (server, cache) = (LoopbackHub::start(repos), folder());
    let hub = client(&server, cache.path())?;
    let model = hub.model("timm/net")?;
    says(
        model.file("model.safetensor"),
        &[
            "model.safetensor of the model timm/net: this file does not exist; did you mean \"model.safetensors\"?",
        ],
    );
    says(
        model.file("model.onnx"),
        &["did you mean \"onnx/model.onnx\"?"],
    );
    says(
        model.file("weights.bin"),
        &["this file does not exist; the files are README.md, a folder/"],
    );
    says(
        model.at("v2.0")?.file("config.json"),
        &[
            "config.json of the model timm/net at v2.0: the revision “v2.0” does not exist; the revisions are main, v1.0",
        ],
    );
    says(
        model.at("v2.0")?.files(),
        &["the files of the model timm/net at v2.0: the revision “v2.0” does not exist"],
    );
    says(
        hub.model("timm/nett")?.file("config.json"),
        &[
            "this model does not exist or is private (401",
            "Check the name “timm/nett”; for a private model, set HF_TOKEN",
        ],
    );
    let with = hub.with_token("hf_secret")?;
    says(
        with.model("timm/nett")?.file("config.json"),
        &[
            "this model does not exist at http://127.0.0.1",
            "Check the name “timm/nett”",
        ],
    );
    says(
        hub.model("ylecun/mnist")?.file("README.md"),
        &["there is a dataset with this name: hub.dataset(\"ylecun/mnist\")"],
    );

    // A mirror that gives no reasons: they are found out.
    server.fault("HEAD hub:", 1, Fault::Status(404));
    says(
        model.file("config.json"),
        &["this file does not exist; the files are README.md"],
    );
    server.fault("HEAD hub:", 1, Fault::Status(404));
    says(
        model.at("v2.0")?.file("config.json"),
        &["the revision “v2.0” does not exist"],
    );
    server.fault("HEAD hub:", 1, Fault::Status(404));
    says(
        hub.model("no/such")?.file("config.json"),
        &["this model does not exist at"],
    );
    assert!(below(cache.path()).is_empty());
    Ok(())
}

#[test]
fn what_needs_a_token_says_so() -> Result<()> {
    let private = Repo::model("me/mine")
        .large("w.bin", weights())
        .private("hf_right");
    let gated = Repo::model("meta/gated")
        .large("w.bin", weights())
        .gated("hf_right");
    let (server, cache) = (LoopbackHub::start(vec![private, gated]), folder());
    let hub = client(&server, cache.path())?;
    says(
        hub.model("me/mine")?.file("w.bin"),
        &[
            "this model does not exist or is private",
            "set HF_TOKEN to your token",
            "/settings/tokens",
        ],
    );
    says(
        hub.model("meta/gated")?.file("w.bin"),
        &[
            "the repository is gated",
            "Request access at http://127.0.0.1",
            "/meta/gated, then set HF_TOKEN",
        ],
    );
    let wrong = hub.with_token("hf_wrong")?;
    says(
        wrong.model("me/mine")?.file("w.bin"),
        &["invalid token (401, “Invalid credentials"],
    );
    says(
        wrong.model("meta/gated")?.file("w.bin"),
        &[
            "the account of this token does not have access (403, “You are not on the authorized list.”)",
        ],
    );
    server.fault("HEAD hub:", 1, Fault::Status(403));
    says(
        hub.model("me/mine")?.file("w.bin"),
        &["access denied (403). See", "then set HF_TOKEN"],
    );

    let right = hub.with_token(" hf_right\n")?;
    assert_eq!(read(right.model("me/mine")?.file("w.bin")?), weights());
    assert_eq!(read(right.model("meta/gated")?.file("w.bin")?), weights());
    for request in server.requests() {
        if request.host == "cdn" {
            assert_eq!(
                request.authorization, None,
                "the token goes to the hub only"
            );
        }
    }
    Ok(())
}

#[test]
fn a_token_is_in_no_text() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?.with_token("hf_secret")?;
    let echo = |status| {
        Fault::Headers(
            status,
            vec![("X-Error-Message".into(), "no hf_secret\u{7f} here".into())],
        )
    };
    let mut texts = vec![format!("{hub:?} {:?}", hub.model("timm/net")?)];
    for status in [400, 401, 403, 404, 429, 500] {
        server.fault("hub:", 4, echo(status));
        texts.push(says(hub.model("timm/net")?.file("README.md"), &[]));
        // Of 404, the list was asked for, too.
        server.fault("hub:", 0, echo(status));
    }
    texts.push(says(
        hub.with_token("hf secret"),
        &["the hub's token", "copy it again"],
    ));
    texts.extend(hub.lines());
    for text in texts {
        assert!(!text.contains("secret"), "{text}");
    }
    Ok(())
}

#[test]
fn a_busy_hub_is_asked_again() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let model = hub.model("timm/net")?;
    let busy = |name: &str, value: &str| Fault::Headers(429, vec![(name.into(), value.into())]);

    server.fault("HEAD hub:", 1, busy("Retry-After", "0"));
    server.fault("HEAD hub:", 1, Fault::Status(503));
    server.fault("GET hub:", 1, Fault::Status(502));
    server.fault("GET cdn:", 1, busy("RateLimit", "\"resolvers\";r=0;t=0"));
    assert_eq!(read(model.file("model.safetensors")?), weights());
    said(&hub, "returned status 429; attempt 2 of 4 at once");
    said(&hub, "returned status 503; attempt 3 of 4 in 2 ms");

    // Patience has an end.
    let before = server.requests().len();
    server.fault("HEAD hub:", 1, busy("Retry-After", "3600"));
    says(
        model.file("README.md"),
        &[
            "(429); the server requests a wait of 1 h 0 min",
            "a token in HF_TOKEN raises the limit",
        ],
    );
    server.fault("HEAD hub:", 1, busy("RateLimit", "\"api\";r=0;t=299"));
    says(
        model.file("README.md"),
        &["the server requests a wait of 4 min 59 s"],
    );
    assert_eq!(server.requests().len(), before + 2);

    server.fault("HEAD hub:", 4, Fault::Status(500));
    says(
        model.file("README.md"),
        &[
            "cannot download README.md of the model timm/net",
            "reports a server error (500). Try again later",
        ],
    );
    assert_eq!(server.requests().len(), before + 6, "four attempts");
    // What no repetition mends is not repeated.
    server.fault("HEAD hub:", 1, Fault::Status(418));
    says(model.file("README.md"), &["returned status 418"]);
    assert_eq!(server.requests().len(), before + 7);
    Ok(())
}

#[test]
fn a_slow_hub_is_given_up() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let short = Duration::from_millis(300);
    let silent = hub
        .with_timeouts(short, Duration::from_secs(20))
        .with_retries(0, short);
    server.fault("HEAD hub:", 1, Fault::Silence);
    says(
        silent.model("timm/net")?.file("README.md"),
        &["no response from 127.0.0.1", "within 300 ms"],
    );

    let stalled = hub
        .with_timeouts(Duration::from_secs(20), short)
        .with_retries(9, Duration::ZERO);
    server.fault("GET cdn:", 1, Fault::Stall(40_000));
    let path = stalled.model("timm/net")?.file("model.safetensors")?;
    assert_eq!(read(path), weights());
    said(&hub, "for 300 ms, after 40 kB of 100 kB");
    Ok(())
}

#[test]
fn offline_is_what_the_cache_has() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let offline = hub.with_offline(true);
    says(
        offline.model("timm/net")?.file("README.md"),
        &[
            "README.md of the model timm/net: not in the cache",
            &format!(
                "expected in {}",
                cache.path().join("models--timm--net").display()
            ),
            "downloads are disabled by with_offline(true)",
            "HF_HOME sets another cache folder",
        ],
    );
    says(
        offline.model("timm/net")?.files(),
        &["the files of the model timm/net: not in the cache"],
    );
    assert!(server.requests().is_empty() && offline.offline());

    let path = hub.model("timm/net")?.file("README.md")?;
    let before = server.requests().len();
    let model = offline.model("timm/net")?;
    assert_eq!(
        (model.file("README.md")?, model.newest().file("README.md")?),
        (path.clone(), path)
    );
    assert_eq!(
        model.files()?,
        [RepoFile {
            path: "README.md".into(),
            size: Some(README.len() as u64)
        }]
    );
    says(
        model.file("model.safetensors"),
        &[&format!("snapshots/{COMMIT}/model.safetensors")],
    );
    assert_eq!(server.requests().len(), before);
    Ok(())
}

#[test]
fn the_newest_is_asked_for_and_the_cache_serves_where_there_is_no_answer() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let model = hub.model("timm/net")?;
    let old = model.file("README.md")?;
    server.publish(vec![
        Repo::model("timm/net")
            .at("main", OTHER)
            .file("README.md", "new")
            .file("model.txt", "x"),
    ]);
    assert_eq!(model.file("README.md")?, old, "the cache's, unless asked");
    let new = model.newest().file("README.md")?;
    assert_eq!((read(&new), read(&old)), (b"new".to_vec(), README.to_vec()));
    assert_eq!(model.file("README.md")?, new, "from now on");
    assert_eq!(
        model.at(COMMIT)?.file("README.md")?,
        old,
        "the older commit stays"
    );

    for (fault, why) in [
        (Fault::Status(503), "returned status 503"),
        (Fault::Status(401), "returned status 401"),
        (Fault::Cut(0), "cache"),
    ] {
        server.fault("hub:", 1, fault);
        assert_eq!(model.newest().file("README.md")?, new);
        said(
            &hub,
            "README.md of the model timm/net: using the cached file, because the request to the hub failed",
        );
        said(&hub, why);
    }
    drop(server);
    assert_eq!(model.newest().file("README.md")?, new);
    says(
        model.file("model.txt"),
        &[
            "cannot download model.txt of the model timm/net",
            "Check the connection",
        ],
    );
    assert_eq!(model.files()?.len(), 1);
    said(
        &hub,
        "the files of the model timm/net: using the cached list, because the request to the hub failed",
    );
    Ok(())
}

#[test]
fn names_do_not_lead_out_of_the_cache() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let inner = cache.path().join("a/b/c/d");
    let hub = client(&server, &inner)?;
    let model = hub.model("timm/net")?;
    for name in [
        "",
        "..",
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/.",
        "a\\..\\b",
        "a\0b",
        "a/",
        "x\ny",
    ] {
        says(
            model.file(name),
            &["expected the path of a file in the repository"],
        );
    }
    for name in [
        "", "..", "../main", "/main", "a b", "a\\b", "refs//x", "x\0",
    ] {
        says(
            model.at(name),
            &["expected a revision (a branch, a tag, a commit"],
        );
    }
    for name in [
        "",
        "a/b/c",
        "../x",
        "a/..",
        "a/",
        "/a",
        "a b/c",
        "a--b/c",
        "a\\b",
        "https://huggingface.co/timm/net",
    ] {
        says(
            hub.model(name),
            &["expected the name of a repository as owner/name"],
        );
    }
    says(
        hub.model("datasets/ylecun/mnist"),
        &["for a dataset use hub.dataset(\"ylecun/mnist\")"],
    );
    assert!(server.requests().is_empty());

    let change = |name: &str, value: &str| Fault::Change(vec![(name.into(), value.into())]);
    for value in [
        "\"../../../../x\"",
        "\"/tmp/x\"",
        "\"..\"",
        "\"a/b\"",
        "\"\"",
        "\"a b\"",
        &"x".repeat(200),
    ] {
        server.fault("HEAD hub:", 1, change("X-Linked-Etag", value));
        says(model.file("model.safetensors"), &["the ETag “"]);
    }
    for value in ["../../../x", "/tmp/x", "."] {
        server.fault("HEAD hub:", 1, change("X-Repo-Commit", value));
        says(model.file("model.safetensors"), &["the commit “"]);
    }
    server.fault("HEAD hub:", 2, change("X-Repo-Commit", ""));
    says(
        model.file("README.md"),
        &["the header X-Repo-Commit with the commit is missing; check HF_ENDPOINT"],
    );
    server.fault("HEAD hub:", 2, change("ETag", ""));
    says(model.file("README.md"), &["the header ETag is missing"]);
    assert!(below(cache.path()).is_empty(), "{:?}", below(cache.path()));

    // Names from the API are not believed either.
    let evil = Repo::dataset("a/b").file("../test.parquet", "x");
    server.publish(vec![evil]);
    says(
        hub.dataset("a/b")?.parquet("test"),
        &["expected the path of a file in the repository"],
    );
    Ok(())
}

#[test]
fn redirects_lead_to_the_web_only() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?.with_token("hf_secret")?;
    let model = hub.model("timm/net")?;
    let to = |place: &str| Fault::Headers(302, vec![("Location".into(), place.into())]);
    for place in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://me:secret@127.0.0.1/x",
        "",
        "http://",
        "http://a b/",
    ] {
        server.fault("HEAD hub:", 1, to(place));
        let error = says(model.file("README.md"), &["which is not followed"]);
        assert!(!error.contains("secret"), "{error}");
    }
    server.fault("HEAD hub:", 99, to("/timm/net/resolve/main/README.md"));
    says(model.file("README.md"), &["expected at most 10 redirects"]);
    server.fault("HEAD hub:", 0, Fault::Silence);
    Ok(())
}

#[test]
fn a_connection_that_is_not_secure_is_refused_at_once() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut stream = listener.accept()?.0;
        stream.write_all(b"HTTP/1.1 400 .\r\n\r\n")?;
        // A connection that is closed with something unread is reset, and the answer lost.
        stream.read_to_end(&mut Vec::new())
    });
    let hub = client(&server, cache.path())?.with_endpoint(&endpoint)?;
    says(
        hub.model("timm/net")?.file("README.md"),
        &["secure connection to 127.0.0.1"],
    );
    assert!(hub.lines().is_empty(), "no second attempt");
    Ok(())
}

#[test]
fn an_api_that_is_none_is_an_error() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let hub = client(&server, cache.path())?;
    let model = hub.model("timm/net")?;
    let files = model.files()?;
    assert_eq!(files.len(), 4);
    assert_eq!(
        files[2],
        RepoFile {
            path: "model.safetensors".into(),
            size: Some(100_000)
        }
    );
    server.fault(
        "GET hub:/api",
        1,
        Fault::Other(b"<html>login</html>".to_vec()),
    );
    says(
        model.files(),
        &["unexpected response from", "check HF_ENDPOINT"],
    );
    server.fault("GET hub:/api", 1, Fault::Other(b"{}".to_vec()));
    says(model.files(), &["the commit is missing"]);
    server.fault(
        "GET hub:/api",
        1,
        Fault::Other(br#"{"sha": "../../x"}"#.to_vec()),
    );
    says(model.files(), &["the commit is missing"]);
    server.fault("GET hub:/api", 1, Fault::Other(vec![b' '; 65 << 20]));
    says(model.files(), &["at most 64 MB"]);
    Ok(())
}

#[test]
fn the_parquet_files_of_a_split_are_found() -> Result<()> {
    let digits = |split: &str, n: u8| format!("{split}{n}").into_bytes();
    let repos = vec![
        Repo::dataset("ylecun/mnist")
            .large("mnist/train-00000-of-00001.parquet", digits("train", 0))
            .large("mnist/test-00000-of-00001.parquet", digits("test", 0))
            .file("README.md", "digits"),
        Repo::dataset("ylecun/mnist")
            .at("refs/convert/parquet", OTHER)
            .large("mnist/test/0001.parquet", digits("test", 1))
            .large("mnist/test/0000.parquet", digits("test", 0))
            .large("mnist/partial-train/0000.parquet", digits("train", 0)),
        Repo::dataset("a/shards")
            .large("data/test-00001-of-00002-0a1b2c.parquet", digits("test", 1))
            .large("data/test-00000-of-00002-3d4e5f.parquet", digits("test", 0))
            .large("data/train-00001-of-00002.parquet", digits("train", 1)),
        Repo::dataset("a/plain")
            .large("train.parquet", "0")
            .large("validation/part-0.parquet", "1"),
        Repo::dataset("a/two")
            .large("en/test.parquet", "en")
            .large("de/test.parquet", "de"),
        Repo::dataset("a/none").file("train.csv", "1,2"),
    ];
    let (server, cache) = (LoopbackHub::start(repos), folder());
    let hub = client(&server, cache.path())?;
    let contents = |paths: Vec<PathBuf>| -> Vec<String> {
        paths
            .iter()
            .map(|p| String::from_utf8(read(p)).unwrap())
            .collect()
    };
    let mnist = hub.dataset("ylecun/mnist")?;
    assert_eq!(contents(mnist.parquet("test")?), ["test0"]);
    assert_eq!(contents(mnist.parquet("mnist/test")?), ["test0"]);
    let converted = mnist.at("refs/convert/parquet")?;
    assert_eq!(contents(converted.parquet("test")?), ["test0", "test1"]);
    assert_eq!(contents(converted.parquet("train")?), ["train0"]);
    assert!(
        cache
            .path()
            .join("datasets--ylecun--mnist/refs/refs/convert/parquet")
            .is_file()
    );
    assert_eq!(
        contents(hub.dataset("a/shards")?.parquet("test")?),
        ["test0", "test1"]
    );
    assert_eq!(contents(hub.dataset("a/plain")?.parquet("train")?), ["0"]);
    assert_eq!(
        contents(hub.dataset("a/plain")?.parquet("validation")?),
        ["1"]
    );
    assert_eq!(contents(hub.dataset("a/two")?.parquet("de/test")?), ["de"]);

    says(
        mnist.parquet("validation"),
        &[
            "the dataset ylecun/mnist has no split \"validation\"; its splits are mnist/test, mnist/train",
        ],
    );
    says(
        hub.dataset("a/two")?.parquet("test"),
        &["has several splits \"test\"; choose one of de/test, en/test"],
    );
    says(
        hub.dataset("a/shards")?.parquet("train"),
        &["expected 2 files of the split \"train\", found data/train-00001-of-00002.parquet"],
    );
    says(
        hub.dataset("a/none")?.parquet("train"),
        &[
            "has no parquet file; its files are train.csv",
            ".at(\"refs/convert/parquet\")",
        ],
    );

    // Without a network, what is whole in the cache.
    drop(server);
    for hub in [hub.with_offline(true), hub.clone()] {
        let mnist = hub.dataset("ylecun/mnist")?;
        assert_eq!(contents(mnist.parquet("test")?), ["test0"]);
        assert_eq!(
            contents(mnist.at("refs/convert/parquet")?.parquet("test")?),
            ["test0", "test1"]
        );
        says(mnist.parquet("train"), &["its splits are mnist/test"]);
    }
    said(
        &hub,
        "using the cached list, because the request to the hub failed",
    );
    Ok(())
}

#[test]
fn two_that_want_the_same_file_wait_for_each_other() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    server.fault("GET cdn:", 1, Fault::Wait);
    let (first, second) = (
        client(&server, cache.path())?,
        client(&server, cache.path())?,
    );
    let fetch = |hub: &Hub| {
        let hub = hub.clone();
        std::thread::spawn(move || hub.model("timm/net")?.file("model.safetensors"))
    };
    let wait_for = |done: &dyn Fn() -> bool| {
        while !done() {
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let one = fetch(&first);
    wait_for(&|| server.requests().iter().any(|r| r.host == "cdn"));
    let two = fetch(&second);
    wait_for(&|| {
        second
            .lines()
            .iter()
            .any(|l| l.contains("waiting for a download in progress"))
    });
    server.go_on();
    let (one, two) = (one.join().unwrap()?, two.join().unwrap()?);
    assert_eq!((read(&one), &one), (weights(), &two));
    assert_eq!(
        server.requests().iter().filter(|r| r.host == "cdn").count(),
        1
    );
    Ok(())
}

#[test]
fn a_cache_that_cannot_be_written_says_so() -> Result<()> {
    let (server, cache) = (LoopbackHub::start(models()), folder());
    let file = cache.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let hub = client(&server, &file)?;
    says(
        hub.model("timm/net")?.file("README.md"),
        &[
            &file.display().to_string(),
            "the cache must be a writable folder; set another one with HF_HOME",
        ],
    );
    let path = file.join("x.ckpt");
    says(
        hub.download(&server.share("x", "y"), path, None),
        &["the cache must be a writable folder"],
    );
    Ok(())
}

fn md5(bytes: &[u8]) -> String {
    format!("{:x}", md5::compute(bytes))
}

#[test]
fn a_file_of_the_web_is_fetched_and_compared() -> Result<()> {
    let (server, folder) = (LoopbackHub::start(vec![]), folder());
    let hub = client(&server, folder.path())?.with_token("hf_secret")?;
    let url = server.share("cinn", weights());
    let path = folder.path().join("checkpoints/cinn.ckpt");
    let hash = md5(&weights());
    hub.download(&url, &path, Some(&hash))?;
    assert_eq!(read(&path), weights());
    let before = server.requests().len();
    hub.download(&url, &path, Some(&hash))?;
    hub.with_offline(true).download(&url, &path, Some(&hash))?;
    hub.download(&url, &path, None)?;
    assert_eq!(server.requests().len(), before);
    assert_eq!(below(folder.path()), ["checkpoints/cinn.ckpt"]);

    // A damaged one is replaced once another is here.
    std::fs::write(&path, "damaged").unwrap();
    says(
        hub.with_offline(true).download(&url, &path, Some(&hash)),
        &[
            "cinn.ckpt has another hash at",
            "downloads are disabled by with_offline(true)",
        ],
    );
    server.fault("cdn:", 1, Fault::Status(404));
    says(
        hub.download(&url, &path, Some(&hash)),
        &[
            "cannot download cinn.ckpt",
            "returned status 404",
            "The file may have moved",
        ],
    );
    assert_eq!(read(&path), b"damaged");
    hub.download(&url, &path, Some(&hash))?;
    assert_eq!(read(&path), weights());
    said(
        &hub,
        &format!(
            "cinn.ckpt: expected MD5 {hash}, found {}; downloading it again",
            md5(b"damaged")
        ),
    );

    let other = folder.path().join("other.ckpt");
    says(
        hub.download(&url, &other, Some(&md5(b"x"))),
        &["expected MD5", &hash, "nothing was kept"],
    );
    server.share("page", "<html>gone</html>");
    says(
        hub.download(&url.replace("cinn", "page"), &other, Some(&hash)),
        &["Received a web page instead of the file: the file may have moved"],
    );
    assert!(!other.exists());
    says(
        hub.download("ftp://x/y", &other, None),
        &["it must begin with https:// or http://"],
    );
    says(
        hub.with_offline(true).download(&url, &other, None),
        &["other.ckpt is not at", "download http://127.0.0.1"],
    );
    for request in server.requests() {
        assert!(request.host == "hub" || request.authorization.is_none());
    }
    Ok(())
}

#[test]
fn a_file_of_the_web_is_resumed_only_from_the_same_version() -> Result<()> {
    for known in [true, false] {
        let (server, folder) = (LoopbackHub::start(vec![]), folder());
        let hub = client(&server, folder.path())?.with_retries(0, Duration::ZERO);
        let url = server.share("cinn", weights());
        let path = folder.path().join("cinn.ckpt");
        let hash = md5(&weights());
        let hash = known.then_some(hash.as_str());
        server.fault("cdn:", 1, Fault::Cut(60_000));
        says(
            hub.download(&url, &path, hash),
            &["after 60 kB of 100 kB", "60 kB were received and are kept"],
        );
        assert!(!path.exists());
        hub.download(&url, &path, hash)?;
        let last = server.requests().pop().unwrap();
        assert_eq!(last.range.as_deref(), Some("bytes=60000-"));
        assert_eq!(
            last.if_range,
            Some(format!("\"{}\"", &sha256(&weights())[..16]))
        );
        assert_eq!(read(&path), weights());

        // It changes between two attempts.
        std::fs::remove_file(&path).unwrap();
        server.fault("cdn:", 1, Fault::Cut(60_000));
        says(hub.download(&url, &path, hash), &["are kept"]);
        let changed = content(5, 80_000);
        server.share("cinn", changed.clone());
        let hash = md5(&changed);
        hub.download(&url, &path, known.then_some(hash.as_str()))?;
        assert_eq!(read(&path), changed);
        assert_eq!(below(folder.path()), ["cinn.ckpt"]);

        // A server without versions: only a hash can tell whether parts fit.
        std::fs::remove_file(&path).unwrap();
        let nameless = || {
            Fault::Change(vec![
                ("ETag".into(), String::new()),
                ("Content-Length".into(), "90000".into()),
            ])
        };
        server.fault("cdn:", 1, nameless());
        says(
            hub.download(&url, &path, known.then_some(hash.as_str())),
            &["after 80 kB of 90 kB"],
        );
        hub.download(&url, &path, known.then_some(hash.as_str()))?;
        let last = server.requests().pop().unwrap();
        assert_eq!((last.range.is_some(), last.if_range), (known, None));
        assert_eq!(read(&path), changed);
    }
    Ok(())
}

#[test]
fn a_file_of_the_web_that_changes_meanwhile_is_the_new_one() -> Result<()> {
    let (server, folder) = (LoopbackHub::start(vec![]), folder());
    let hub = client(&server, folder.path())?;
    let (url, path) = (
        server.share("cinn", weights()),
        folder.path().join("cinn.ckpt"),
    );
    server.fault("GET cdn:", 1, Fault::Cut(60_000));
    server.fault("GET hub:/f/", 1, Fault::Change(vec![]));
    server.fault("GET hub:/f/", 1, Fault::Wait);
    let (fetcher, to) = (hub.clone(), path.clone());
    let fetching = std::thread::spawn(move || fetcher.download(&url, to, None));
    while server.requests().len() < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let changed = content(5, 80_000);
    server.share("cinn", changed.clone());
    server.go_on();
    fetching.join().unwrap()?;
    assert_eq!(read(path), changed);
    said(&hub, "cinn.ckpt: downloading, 80 kB");
    Ok(())
}

/// Whatever goes wrong, in whatever order: the file is right, or there is an error and no file.
/// `INVARIANCES_FUZZ` is the number of sequences.
#[test]
fn no_sequence_of_faults_gives_a_wrong_file() -> Result<()> {
    let header = |name: &str, value: &str| Fault::Change(vec![(name.into(), value.into())]);
    let (mut whole, mut failed) = (0, 0);
    let count = std::env::var("INVARIANCES_FUZZ").map_or(150, |v| v.parse().unwrap());
    for seed in 0..count {
        let (server, cache) = (LoopbackHub::start(models()), folder());
        let hub = client(&server, cache.path())?.with_retries(4, Duration::ZERO);
        let mut rng = Rng::at(seed, "faults", 0);
        for _ in 0..rng.below(7) {
            let at = rng.below(110_000);
            let junk = content(rng.below(99), at.min(3000));
            let fault = match rng.below(14) {
                0 => Fault::Status(
                    [200, 204, 206, 301, 304, 400, 404, 416, 429, 500, 503][rng.below(11)],
                ),
                1..4 => Fault::Cut(at),
                4 => Fault::Wrong,
                5 => Fault::Whole,
                6 => Fault::Other(junk),
                7 => Fault::Other(weights()[..at.min(100_000)].to_vec()),
                8 => header(
                    "Content-Range",
                    &format!("bytes {}-99999/100000", rng.below(100_000)),
                ),
                9 => header("Content-Length", &rng.below(usize::MAX).to_string()),
                10 => header("X-Linked-Size", &rng.below(200_000).to_string()),
                11 => header("X-Linked-Etag", &format!("\"{}\"", sha256(&junk))),
                12 => header("Content-Encoding", "gzip"),
                _ => header(
                    "Location",
                    ["/", "//", "x", "http://127.0.0.1:1/", "?"][rng.below(5)],
                ),
            };
            let on = ["hub:", "cdn:", "GET cdn:", "HEAD"][rng.below(4)];
            server.fault(on, 1, fault);
        }
        for _ in 0..2 {
            match hub.model("timm/net")?.file("model.safetensors") {
                Ok(path) => {
                    assert_eq!(read(path), weights(), "seed {seed}");
                    whole += 1;
                }
                Err(Error::Download(_)) => failed += 1,
                Err(other) => panic!("seed {seed}: {other:?}"),
            }
        }
        for name in below(&cache.path().join("models--timm--net/blobs")) {
            let is_part = name.ends_with(".incomplete");
            assert!(is_part || name == sha256(&weights()), "seed {seed}: {name}");
        }
    }
    assert!(
        whole > count / 3 && failed > count / 3,
        "{whole} whole, {failed} failed: faults of both kinds"
    );
    Ok(())
}

/// A process whose files may not be longer than 25 or 50 kB has a full disk, as it were.
#[cfg(unix)]
fn full_disk(endpoint: &str) {
    let (program, home) = (std::env::current_exe().unwrap(), folder());
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 50; exec \"$0\" \"$@\""])
        .arg(program)
        .args([
            "--exact",
            "the_environment_is_the_ecosystems",
            "--nocapture",
        ])
        .env("INVARIANCES_HUB_INSIDE", "weights")
        .env("HF_HOME", home.path())
        .env("HF_ENDPOINT", endpoint)
        .env_remove("HF_HUB_CACHE")
        .env_remove("HUGGINGFACE_HUB_CACHE")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("100 kB are needed; free some space, or set another cache folder (HF_HOME"),
        "{text}"
    );
}

#[cfg(not(unix))]
fn full_disk(_: &str) {}

/// What the environment sets is read in a process of its own.
#[test]
fn the_environment_is_the_ecosystems() -> Result<()> {
    const INSIDE: &str = "INVARIANCES_HUB_INSIDE";
    if let Ok(inside) = std::env::var(INSIDE) {
        return match inside.as_str() {
            "open" => {
                match Hub::open() {
                    Ok(hub) => println!(
                        "endpoint={} cache={} offline={} token={}",
                        hub.endpoint(),
                        hub.cache().display(),
                        hub.offline(),
                        format!("{hub:?}").contains("Some")
                    ),
                    Err(error) => println!("error={error}"),
                }
                Ok(())
            }
            "lab" => {
                let hub = Lab::open("test")?.hub()?;
                println!("{}", says(hub.model("a/b")?.file("c"), &[]));
                Ok(())
            }
            "weights" => {
                let hub = Hub::open()?;
                println!(
                    "{}",
                    says(hub.model("timm/net")?.file("model.safetensors"), &[])
                );
                Ok(())
            }
            "file" => {
                println!(
                    "{}",
                    Hub::open()?.model("timm/net")?.file("README.md")?.display()
                );
                Ok(())
            }
            _ => {
                let known = published("cinn_alexnet_aae_fc6")?;
                let file = Published {
                    url: inside,
                    md5: Some(md5(&weights())),
                    ..known
                };
                println!("{}", says(file.open(), &["call `Published::fetch`"]));
                let path = file.fetch(&Hub::open()?)?;
                file.check(&path)?;
                println!("path={}", path.display());
                Ok(())
            }
        };
    }
    let run = |inside: &str, set: &[(&str, &str)]| -> String {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "--exact",
            "the_environment_is_the_ecosystems",
            "--nocapture",
        ]);
        for (name, _) in std::env::vars() {
            let ours = name.starts_with("HF_") || name.starts_with("INVARIANCES_");
            let theirs = [
                "HUGGINGFACE_HUB_CACHE",
                "HUGGING_FACE_HUB_TOKEN",
                "TRANSFORMERS_OFFLINE",
                "XDG_CACHE_HOME",
            ];
            if ours || theirs.contains(&name.as_str()) {
                command.env_remove(name);
            }
        }
        command.env(INSIDE, inside).env("HOME", "/home/me");
        let output = command.envs(set.iter().copied()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let has = |set: &[(&str, &str)], part: &str| {
        let text = run("open", set);
        assert!(
            text.contains(part),
            "expected {part:?} with {set:?} in: {text}"
        );
    };
    has(
        &[],
        "endpoint=https://huggingface.co cache=/home/me/.cache/huggingface/hub offline=false token=false",
    );
    has(&[("XDG_CACHE_HOME", "/c")], "cache=/c/huggingface/hub ");
    has(
        &[("XDG_CACHE_HOME", "/c"), ("HF_HOME", "~/hf")],
        "cache=/home/me/hf/hub ",
    );
    has(
        &[
            ("HF_HOME", "$HOME/${XDG_CACHE_HOME}/$no"),
            ("XDG_CACHE_HOME", "x"),
        ],
        "cache=/home/me/x/$no/hub ",
    );
    has(
        &[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")],
        "cache=/old ",
    );
    has(
        &[
            ("HF_HOME", "/h"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HUB_CACHE", "/new"),
        ],
        "cache=/new ",
    );
    has(
        &[("HF_ENDPOINT", "https://hf-mirror.com/")],
        "endpoint=https://hf-mirror.com cache",
    );
    for (value, offline) in [
        ("1", true),
        ("ON", true),
        ("yes", true),
        ("True", true),
        ("0", false),
        ("", false),
        ("2", false),
    ] {
        has(&[("HF_HUB_OFFLINE", value)], &format!("offline={offline}"));
    }
    has(&[("TRANSFORMERS_OFFLINE", "1")], "offline=true");
    has(&[("HF_TOKEN", "hf_x")], "token=true");
    has(&[("HUGGING_FACE_HUB_TOKEN", "hf_x")], "token=true");
    has(
        &[("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")],
        "token=false",
    );
    has(
        &[("HF_TOKEN", "two words")],
        "error=expected the hub's token (HF_TOKEN",
    );
    has(
        &[("HF_ENDPOINT", "huggingface.co")],
        "error=HF_ENDPOINT: expected an address such as https://huggingface.co",
    );
    has(
        &[("HF_ENDPOINT", "https://me:pw@hub")],
        "https://hub”: it must not contain a user name or a password",
    );
    has(
        &[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")],
        "error=HF_HUB_DOWNLOAD_TIMEOUT: expected a number of seconds",
    );
    let home = folder();
    let at = home.path().display().to_string();
    std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
    has(&[("HF_HOME", &at)], "token=true");
    has(&[("HF_TOKEN_PATH", &format!("{at}/token"))], "token=true");
    has(&[("HF_TOKEN_PATH", &format!("{at}/none"))], "token=false");

    let server = LoopbackHub::start(models());
    let set = [("HF_HOME", at.as_str()), ("HF_ENDPOINT", server.endpoint())];
    let text = run("file", &set);
    assert!(
        text.contains("README.md of the model timm/net: downloading, 10 bytes\n"),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "{at}/hub/models--timm--net/snapshots/{COMMIT}/README.md"
        )),
        "{text}"
    );
    assert_eq!(
        server.requests()[0].authorization.as_deref(),
        Some("Bearer hf_file")
    );
    let text = run(
        "file",
        &[
            ("HF_HOME", "/nowhere"),
            ("HF_HUB_CACHE", &format!("{at}/hub")),
            ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ],
    );
    assert!(
        text.contains(COMMIT) && !text.contains("downloading"),
        "{text}"
    );

    let text = run(
        "lab",
        &[
            ("INVARIANCES_OFFLINE", "1"),
            ("INVARIANCES_OUT", &at),
            ("INVARIANCES_CACHE", &at),
        ],
    );
    assert!(
        text.contains("downloads are disabled by INVARIANCES_OFFLINE"),
        "{text}"
    );
    let text = run(
        "lab",
        &[
            ("HF_HUB_OFFLINE", "1"),
            ("INVARIANCES_OUT", &at),
            ("INVARIANCES_CACHE", &at),
        ],
    );
    assert!(
        text.contains("downloads are disabled by HF_HUB_OFFLINE"),
        "{text}"
    );

    full_disk(server.endpoint());
    let url = server.share("cinn", weights());
    let text = run(&url, &[("INVARIANCES_CACHE", &at)]);
    let path = home.path().join("checkpoints/cinn_alexnet_aae_fc6.ckpt");
    assert!(text.contains(&format!("path={}", path.display())), "{text}");
    assert_eq!(read(path), weights());
    Ok(())
}
