//! Pulling from a real registry.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use orlop_cri::image::{Credentials, Error, Progress, Reference, RegistryConfig};
use tar::EntryType;
use tokio::sync::watch;

use super::build::{GZIP, Layout, PLAIN, Tar, ZSTD, digest, layer, noise};
use super::fixture::{Scratch, have};
use super::registry::Registry;

const TOOLS: [&str; 2] = ["docker-registry", "skopeo"];

fn reference(registry: &Registry, name: &str) -> Reference {
    Reference::parse(&format!("{}/{name}", registry.host)).unwrap()
}

/// Two platforms; for ours a gzip and a zstd layer.
fn multi(layout: &Layout<'_>) -> serde_json::Value {
    let arm = layout.image("arm64", &[layer(Tar::default().file("arm64", "x"), GZIP)]);
    let layers = [layer(Tar::default().file("one", "gzip"), GZIP), layer(Tar::default().file("two", "zstd"), ZSTD)];
    layout.index(&[arm, layout.image("amd64", &layers)])
}

fn single(layout: &Layout<'_>) -> serde_json::Value {
    layout.image("amd64", &[layer(Tar::default().file("one", "one"), GZIP)])
}

/// One layer of 32 MiB.
fn large(layout: &Layout<'_>) -> serde_json::Value {
    let tar = Tar::default().entry(EntryType::Regular, "noise", "", 0o644, &noise(32 << 20));
    layout.image("amd64", &[layer(tar, GZIP)])
}

#[tokio::test]
async fn by_tag_by_digest_and_no_download_twice() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = Scratch::new();
    let registry = Registry::start(scratch.path("registry"), None);
    registry.push("a/app:1", None, multi);
    let store = scratch.store();
    let app = reference(&registry, "a/app:1");
    let (sender, progress) = watch::channel(Progress::default());
    let id = store.pull(&app, None, Some(sender)).await.unwrap();
    let done = *progress.borrow();
    assert_eq!((done.layers_done, done.layers_total), (2, 2));
    assert!(done.bytes_done > 0 && done.bytes_done == done.bytes_total);
    let layers = store.layers(&id).unwrap();
    assert_eq!(std::fs::read_to_string(layers[0].join("two")).unwrap(), "zstd");
    assert_eq!(std::fs::read_to_string(layers[1].join("one")).unwrap(), "gzip");

    let image = store.find(&app.to_string()).unwrap().unwrap();
    assert_eq!((image.id, &image.tags), (id, &vec![app.to_string()]));
    let by_digest = &image.repo_digests[0];
    assert_eq!(registry.count("GET", "/blobs/"), 3, "a config and two layers");
    for name in [
        app.to_string(),
        by_digest.clone(),
        format!("{}/a/app:1@{}", registry.host, &by_digest[by_digest.find("sha").unwrap()..]),
    ] {
        let again = store.pull(&Reference::parse(&name).unwrap(), None, None).await.unwrap();
        assert_eq!(again, id);
        assert_eq!(store.find(&name).unwrap().unwrap().id, id);
    }
    assert_eq!(registry.count("GET", "/blobs/"), 3, "nothing is downloaded twice");
    assert_eq!(store.list().len(), 1);

    // A moved tag takes the name along, and shares what it can.
    registry.push("a/app:1", None, |layout| {
        layout.image(
            "amd64",
            &[layer(Tar::default().file("one", "gzip"), GZIP), layer(Tar::default().file("new", "x"), GZIP)],
        )
    });
    let moved = store.pull(&app, None, None).await.unwrap();
    assert_ne!(moved, id);
    assert_eq!(registry.count("GET", "/blobs/"), 5, "the new config and the new layer");
    assert!(store.find(&id.to_string()).unwrap().unwrap().tags.is_empty());
    drop(store);
    let store = scratch.store();
    assert_eq!(store.list().len(), 2);
    for image in store.list() {
        store.remove(&image.id.to_string()).await.unwrap();
    }
    scratch.empty();
}

#[tokio::test]
async fn a_dropped_pull_leaves_nothing() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = Scratch::new();
    let registry = Registry::start(scratch.path("registry"), None);
    registry.push("app:1", None, large);
    let store = scratch.store();
    let (sender, mut progress) = watch::channel(Progress::default());
    let app = reference(&registry, "app:1");
    tokio::select! {
        biased;
        begun = progress.wait_for(|p| p.bytes_done > 0) => assert!(begun.is_ok()),
        result = store.pull(&app, None, Some(sender)) => panic!("too quick to be cancelled: {result:?}"),
    }
    assert!(store.list().is_empty());
    scratch.empty();
    store.pull(&app, None, None).await.unwrap();
}

#[tokio::test]
async fn concurrent_pulls_share_the_work() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = Scratch::new();
    let registry = Registry::start(scratch.path("registry"), None);
    registry.push("app:1", None, large);
    let store = scratch.store();
    let app = reference(&registry, "app:1");
    let pulls = (0..4).map(|_| {
        let (store, app) = (store.clone(), app.clone());
        tokio::spawn(async move { store.pull(&app, None, None).await })
    });
    let ids: Vec<_> = futures::future::join_all(pulls).await.into_iter().map(|done| done.unwrap().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    let layer = std::fs::read_dir(scratch.path("store/blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|entry| entry.metadata().unwrap().len() > 1 << 20)
        .unwrap();
    assert_eq!(registry.count("GET", layer.file_name().to_str().unwrap()), 1);

    // One of two is dropped: the other takes over.
    store.remove(&app.to_string()).await.unwrap();
    scratch.empty();
    let (sender, mut begun) = watch::channel(Progress::default());
    let mut first = Box::pin(store.pull(&app, None, Some(sender)));
    tokio::select! {
        biased;
        begun = begun.wait_for(|p| p.bytes_done > 0) => assert!(begun.is_ok()),
        result = &mut first => panic!("too quick to be cancelled: {result:?}"),
    }
    let (sender, mut waits) = watch::channel(Progress::default());
    let mut second = Box::pin(store.pull(&app, None, Some(sender)));
    tokio::select! {
        biased;
        waits = waits.wait_for(|p| p.layers_total > 0) => assert!(waits.is_ok()),
        result = &mut second => panic!("too quick to wait: {result:?}"),
    }
    drop(first);
    assert_eq!(second.await.unwrap(), ids[0]);
}

#[tokio::test]
async fn corrupt_content_is_refused() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = Scratch::new();
    let registry = Registry::start(scratch.path("registry"), None);
    registry.push("app:1", None, |layout| {
        layout.image("amd64", &[layer(Tar::default().file("f", &"x".repeat(5000)), GZIP)])
    });
    let store = scratch.store();
    let whole: Vec<_> = registry.blobs().into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    for (bytes, path) in &whole {
        let mut bad = bytes.clone();
        let at = bad.len() - 5;
        bad[at] ^= 1;
        std::fs::write(path, bad).unwrap();
        let error = store.pull(&reference(&registry, "app:1"), None, None).await.unwrap_err();
        assert!(store.list().is_empty(), "{error}");
        std::fs::write(path, bytes).unwrap();
    }
    assert_eq!(whole.len(), 3, "manifest, config and layer");
    store.pull(&reference(&registry, "app:1"), None, None).await.unwrap();

    // A diff id that the config has wrong.
    registry.push("lie:1", None, |layout| {
        let mut image = layout.image("amd64", &[layer(Tar::default().file("f", "new"), PLAIN)]);
        let read = |d: &serde_json::Value| {
            std::fs::read(scratch.path("registry/push/blobs/sha256").join(&d["digest"].as_str().unwrap()[7..])).unwrap()
        };
        let mut manifest: serde_json::Value = serde_json::from_slice(&read(&image)).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&read(&manifest["config"])).unwrap();
        config["rootfs"]["diff_ids"][0] = digest(b"another").into();
        manifest["config"] = layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        manifest["layers"][0] = layout.blob(GZIP, &{
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&Tar::default().file("f", "new").bytes()).unwrap();
            gzip.finish().unwrap()
        });
        let platform = image["platform"].take();
        image = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
        image["platform"] = platform;
        image
    });
    let error = store.pull(&reference(&registry, "lie:1"), None, None).await.unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error:?}");
    assert_eq!(store.list().len(), 1);
}

#[tokio::test]
async fn mirrors_are_asked_first_and_errors_name_each() {
    if !have(&TOOLS) {
        return;
    }
    let scratch = Scratch::new();
    let mirror = Registry::start(scratch.path("mirror"), None);
    let origin = Registry::start(scratch.path("origin"), None);
    mirror.push("app:mirrored", None, single);
    origin.push("app:origin", None, single);
    let hosts = scratch.path("certs.d/q.example");
    std::fs::create_dir_all(&hosts).unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{gone}\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        origin.host, mirror.host
    );
    std::fs::write(hosts.join("hosts.toml"), text).unwrap();
    let config = RegistryConfig { hosts_dir: Some(scratch.path("certs.d")), ..RegistryConfig::default() };
    let store = scratch.store_with(config);
    let pull = |tag: &str| {
        let name = Reference::parse(&format!("q.example/app:{tag}")).unwrap();
        let store = store.clone();
        async move { store.pull(&name, Some(Credentials::password("ann", "hunter2")), None).await }
    };
    let before = origin.requests();
    pull("mirrored").await.unwrap();
    assert!(mirror.requests().contains("ns=q.example"));
    assert_eq!(origin.requests(), before, "the origin was not needed");
    assert_eq!(store.list()[0].tags, ["q.example/app:mirrored"]);
    pull("origin").await.unwrap();
    assert_eq!(origin.count("GET", "/manifests/origin"), 1);

    let error = pull("nowhere").await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::RegistryNotFound { .. }), "{text}");
    for part in [&gone.to_string(), &mirror.host, &origin.host, "404", "refused"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("hunter2"));
}

#[tokio::test]
async fn passwords_are_proven_each_time() {
    if !have(&["docker-registry", "skopeo", "htpasswd"]) {
        return;
    }
    let scratch = Scratch::new();
    let registry = Registry::start(scratch.path("registry"), Some(("ann", "hunter2")));
    registry.push("app:1", Some("ann:hunter2"), single);
    let store = scratch.store();
    let app = reference(&registry, "app:1");
    for credentials in [None, Some(Credentials::password("ann", "wrong")), Some(foreign())] {
        let error = store.pull(&app, credentials, None).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Denied { .. }) && text.contains(&registry.host), "{text}");
        assert!(!text.contains("wrong") && !text.contains("hunter2"), "{text}");
    }
    let right = || Some(Credentials::password("ann", "hunter2"));
    let id = store.pull(&app, right(), None).await.unwrap();
    assert_eq!(store.pull(&app, right(), None).await.unwrap(), id);
    assert!(store.pull(&app, None, None).await.is_err(), "what is here is no proof of a right to it");
}

/// The right password, but for another registry.
fn foreign() -> Credentials {
    Credentials { server: Some("other.example".to_owned()), ..Credentials::password("ann", "hunter2") }
}

/// The other side of token authentication: a realm that gives a token for a password, and a registry in front of
/// whose blobs stands a redirect to another host.
struct Realm {
    address: String,
    seen: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Realm {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Realm {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut request = Vec::new();
                let mut piece = [0; 4096];
                while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(0) | Err(_) => break,
                        Ok(n) => request.extend_from_slice(&piece[..n]),
                    }
                }
                let text = String::from_utf8_lossy(&request).to_lowercase();
                log.lock().unwrap().push(text.clone());
                let _ = stream.write_all(answer(&text).as_bytes());
            }
        });
        Realm { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn respond(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn tokens_are_fetched_and_go_to_nobody_else() {
    let scratch = Scratch::new();
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[]}}"#,
        digest(config),
        config.len()
    );
    let storage = Realm::start(move |_| respond("200 OK", "", std::str::from_utf8(config).unwrap()));
    let elsewhere = storage.address.clone();
    let tokens = Realm::start(|request| {
        // ann:hunter2, in lower case as the whole request here.
        let right = request.contains("authorization: basic yw5uomh1bnrlcji=");
        assert!(request.contains("get /token?service=test&scope=repository%3aapp%3apull "), "{request}");
        if right { respond("200 OK", "", r#"{"token":"t0ken"}"#) } else { respond("401 Unauthorized", "", "") }
    });
    let realm = tokens.address.clone();
    let challenges = Arc::new(AtomicUsize::new(0));
    let counted = challenges.clone();
    let registry = Realm::start(move |request| {
        if !request.contains("authorization: bearer t0ken") {
            counted.fetch_add(1, Ordering::Relaxed);
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{realm}/token\",service=\"test\",scope=\"repository:app:pull\"\r\n"
            );
            return respond("401 Unauthorized", &challenge, "");
        }
        if request.contains("/manifests/") {
            return respond("200 OK", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", &manifest);
        }
        respond("307 Temporary Redirect", &format!("Location: http://{elsewhere}/blob?signature=s3cret\r\n"), "")
    });
    let store = scratch.store();
    let name = Reference::parse(&format!("{}/app", registry.address)).unwrap();
    let denied = store.pull(&name, Some(Credentials::password("ann", "wrong")), None).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied}");
    assert!(denied.to_string().contains("/token") && !denied.to_string().contains("scope"), "{denied}");
    store.pull(&name, Some(Credentials::password("ann", "hunter2")), None).await.unwrap();
    assert_eq!(
        challenges.load(Ordering::Relaxed),
        2,
        "one challenge for each pull: the token is kept for all its requests"
    );
    assert!(registry.seen().iter().all(|request| !request.contains("basic")), "the password goes to the realm alone");
    let storage = storage.seen();
    assert!(!storage.is_empty() && storage.iter().all(|request| !request.contains("authorization")), "{storage:?}");
}

#[tokio::test]
async fn endless_documents_are_refused() {
    let scratch = Scratch::new();
    let huge = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "a".repeat(5 << 20));
    let registry =
        Realm::start(move |_| respond("200 OK", "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n", &huge));
    let name = Reference::parse(&format!("{}/app", registry.address)).unwrap();
    let error = scratch.store().pull(&name, None, None).await.unwrap_err();
    assert!(error.to_string().contains("limit"), "{error}");
}
