//! Pulls through a network that misbehaves.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use costrel_image::{
    AuthFiles, BlobError, Image, ImageStore, NoProgress, Proxies, PullError, PullPolicy,
    RegistryConfig, RegistryError, Retry,
};
use costrel_store::Digest;
use support::{
    Told, amd64, chain, lacks, layout, open,
    proxy::{Fault, Proxy, Request},
    reference,
    registry::Registry,
    settings,
};
use tempfile::{TempDir, tempdir};

/// A registry with the sample as `app`, behind a proxy.
struct Scene {
    directory: TempDir,
    registry: Registry,
    proxy: Proxy,
    name: String,
}

impl Scene {
    /// None where a tool is missing.
    async fn new(faults: impl Fn(&Request) -> Fault + Send + Sync + 'static) -> Option<Self> {
        if lacks(&["docker-registry", "skopeo"]) {
            return None;
        }
        let directory = tempdir().unwrap();
        let registry = Registry::start();
        layout::sample(&directory.path().join("layout"));
        registry.push(&directory.path().join("layout"), "app", "app", &["--preserve-digests"]);
        let proxy = Proxy::start(&registry.address, faults).await;
        let name = format!("{}/app", proxy.address);
        Some(Self { directory, registry, proxy, name })
    }

    fn root(&self) -> std::path::PathBuf {
        self.directory.path().join("store")
    }

    fn store(&self, config: RegistryConfig) -> ImageStore {
        open(&self.root(), config)
    }

    async fn pull(&self, store: &ImageStore) -> Result<Image, PullError> {
        store.pull(&reference(&self.name), &amd64(), PullPolicy::Always, &NoProgress).await
    }

    /// The image is whole, and nothing else is left.
    fn check(&self, store: &ImageStore, image: &Image) {
        assert_eq!(image.layers.len(), 3);
        assert!(store.verify_layers(image).is_empty());
        assert!(store.verify().unwrap().is_empty());
        assert!(support::drafts(&self.root()).is_empty());
    }
}

/// The largest blob of the sample.
fn is_first_layer(request: &Request, size: usize) -> bool {
    request.is_blob() && size > 0
}

#[tokio::test]
async fn a_cut_connection_is_resumed() {
    // Every answer with a blob ends after 64 KiB, so that the large layers take several.
    let cut = |request: &Request| match is_first_layer(request, 1) {
        true => Fault::Cut(64 << 10),
        false => Fault::None,
    };
    let Some(scene) = Scene::new(cut).await else { return };
    let store = scene.store(settings());
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
    let ranges: Vec<_> =
        scene.proxy.log().into_iter().filter_map(|request| request.range).collect();
    for start in [64, 128, 192, 256] {
        let range = format!("bytes={}-", start << 10);
        assert!(ranges.contains(&range), "{ranges:?}");
    }
}

#[tokio::test]
async fn a_server_without_ranges_starts_again() {
    let faults = |request: &Request| match (request.is_blob(), request.earlier) {
        (true, 0) => Fault::Cut(1000),
        (true, _) => Fault::IgnoreRange,
        _ => Fault::None,
    };
    let Some(scene) = Scene::new(faults).await else { return };
    let store = scene.store(settings());
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
}

#[tokio::test]
async fn a_connection_that_is_always_cut_is_given_up() {
    let cut = |request: &Request| if request.is_blob() { Fault::Cut(0) } else { Fault::None };
    let Some(scene) = Scene::new(cut).await else { return };
    let store = scene.store(settings());
    let error = scene.pull(&store).await.unwrap_err();
    assert!(matches!(error, PullError::Blob { .. }), "{error:?}");
    assert!(support::drafts(&scene.root()).is_empty());
    let blobs = scene.proxy.log().iter().filter(|request| request.is_blob()).count();
    assert_eq!(blobs, Retry::default().attempts as usize);
}

#[tokio::test]
async fn too_many_requests_and_broken_servers_are_tried_again() {
    let faults = |request: &Request| match request.earlier {
        _ if !request.path.contains("app") => Fault::None,
        0 => Fault::Answer("429 Too Many Requests", "Retry-After: 0\r\n".into(), "slowly".into()),
        1 => Fault::Answer("503 Service Unavailable", String::new(), "<html>".into()),
        2 => Fault::Answer("429 Too Many Requests", String::new(), String::new()),
        _ => Fault::None,
    };
    let Some(scene) = Scene::new(faults).await else { return };
    let store = scene.store(settings());
    let told = Told::default();
    let name = reference(&scene.name);
    let image = store.pull(&name, &amd64(), PullPolicy::Missing, &told).await.unwrap();
    scene.check(&store, &image);
    let notes = told.notes();
    let expected = format!("{} answers 429 Too Many Requests: slowly", scene.proxy.address);
    assert!(notes.contains(&expected), "{notes}");
    assert!(notes.contains("503 Service Unavailable: again in"), "{notes}");
}

#[tokio::test]
async fn who_asks_to_wait_too_long_is_not_waited_for() {
    let faults = |request: &Request| match request.path.contains("manifests") {
        true => {
            Fault::Answer("429 Too Many Requests", "Retry-After: 3600\r\n".into(), String::new())
        }
        false => Fault::None,
    };
    let Some(scene) = Scene::new(faults).await else { return };
    let error = scene.pull(&scene.store(settings())).await.unwrap_err();
    let text = chain(&error);
    assert!(text.ends_with("answers 429 Too Many Requests (try again in 3600 s)"), "{text}");
    let asked = scene.proxy.log().iter().filter(|request| request.path.contains("app")).count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_and_fetched_again() {
    let flip = |request: &Request| match request.earlier {
        0 if request.path.contains("app") => Fault::Flip(7),
        _ => Fault::None,
    };
    let Some(scene) = Scene::new(flip).await else { return };
    let store = scene.store(settings());
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
}

#[tokio::test]
async fn bits_that_always_flip_are_an_error() {
    let flip = |request: &Request| if request.is_blob() { Fault::Flip(7) } else { Fault::None };
    let Some(scene) = Scene::new(flip).await else { return };
    let store = scene.store(settings());
    let error = scene.pull(&store).await.unwrap_err();
    let PullError::Blob { registry, source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*registry, scene.proxy.address);
    assert!(matches!(**source, BlobError::Digest { .. }), "{error:?}");
    assert!(support::drafts(&scene.root()).is_empty());
    assert!(store.list().unwrap().is_empty());

    let flip = |request: &Request| match request.path.contains("manifests") {
        true => Fault::Flip(7),
        false => Fault::None,
    };
    let proxy = Proxy::start(&scene.registry.address, flip).await;
    let name = reference(&format!("{}/app", proxy.address));
    let error = store.pull(&name, &amd64(), PullPolicy::Missing, &NoProgress).await.unwrap_err();
    let PullError::Registry { source, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(**source, RegistryError::ManifestDigest { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_pulls_fetch_each_blob_once() {
    let Some(scene) = Scene::new(|_| Fault::None).await else { return };
    // Each with a store of its own, as in different processes: locks are by open file.
    let (one, two) = (scene.store(settings()), scene.store(settings()));
    let (first, second) = tokio::join!(scene.pull(&one), scene.pull(&two));
    scene.check(&one, &first.unwrap());
    scene.check(&two, &second.unwrap());
    let again =
        scene.proxy.log().into_iter().filter(|request| request.is_blob() && request.earlier > 0);
    assert_eq!(again.count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_dropped_leaves_nothing() {
    let stalls = Arc::new(AtomicBool::new(true));
    let stalling = stalls.clone();
    let large = Digest::of(&layout::tar("three", 9, 3)).to_string();
    let stall = move |request: &Request| {
        let stall = stalling.load(Ordering::Relaxed) && request.path.ends_with(&large);
        if stall { Fault::Stall(100) } else { Fault::None }
    };
    let Some(scene) = Scene::new(stall).await else { return };
    let store = scene.store(settings());
    tokio::select! {
        result = scene.pull(&store) => panic!("{result:?}"),
        () = scene.proxy.stalled() => {}
    }
    // The thread ends on its own: whoever comes next waits for its lock.
    stalls.store(false, Ordering::Relaxed);
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
}

#[tokio::test]
async fn tokens() {
    // In front of the registry, a door that opens to a token only, which soon expires.
    let address = Arc::new(std::sync::OnceLock::<String>::new());
    let door = address.clone();
    let faults = move |request: &Request| {
        let realm = format!("http://{}/token", door.get().unwrap());
        if request.path.starts_with("/token") {
            let expected = "/token?service=test+service&scope=repository%3Aapp%3Apull";
            assert_eq!(request.path, expected);
            let token = format!(r#"{{"token":"t{}"}}"#, request.earlier);
            return Fault::Answer("200 OK", String::new(), token);
        }
        // Blobs want the second token.
        let wanted: &[&str] =
            if request.is_blob() { &["Bearer t1"] } else { &["Bearer t0", "Bearer t1"] };
        match &request.authorization {
            Some(shown) if wanted.contains(&shown.as_str()) => Fault::None,
            _ => Fault::Answer(
                "401 Unauthorized",
                format!(
                    "WWW-Authenticate: Bearer realm=\"{realm}\",service=\"test service\",\
                     scope=\"repository:app:pull\"\r\n"
                ),
                String::new(),
            ),
        }
    };
    let Some(scene) = Scene::new(faults).await else { return };
    address.set(scene.proxy.address.clone()).unwrap();
    let store = scene.store(settings());
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
    let tokens = scene.proxy.log().into_iter().filter(|request| request.path.starts_with("/token"));
    assert_eq!(tokens.count(), 2);
}

#[tokio::test]
async fn a_refresh_token_is_exchanged_and_never_sent_elsewhere() {
    let address = Arc::new(std::sync::OnceLock::<String>::new());
    let door = address.clone();
    let faults = move |request: &Request| {
        if request.path == "/token" {
            assert_eq!((request.method.as_str(), &request.authorization), ("POST", &None));
            return Fault::Answer("200 OK", String::new(), r#"{"access_token":"a"}"#.into());
        }
        if request.authorization.as_deref() == Some("Bearer a") {
            return Fault::None;
        }
        let realm = format!("http://{}/token", door.get().unwrap());
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{realm}\"\r\n");
        Fault::Answer("401 Unauthorized", challenge, String::new())
    };
    let Some(scene) = Scene::new(faults).await else { return };
    address.set(scene.proxy.address.clone()).unwrap();
    let file = scene.directory.path().join("auth.json");
    let entry = serde_json::json!({ "identitytoken": "secret" });
    let config = serde_json::json!({ "auths": { scene.proxy.address.clone(): entry } });
    std::fs::write(&file, config.to_string()).unwrap();
    let auth = AuthFiles { files: vec![file], ..AuthFiles::default() };
    let store = scene.store(RegistryConfig { auth, ..settings() });
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
}

#[tokio::test]
async fn blobs_may_be_elsewhere_without_authorization() {
    let elsewhere = Arc::new(std::sync::OnceLock::<String>::new());
    let target = elsewhere.clone();
    let faults = move |request: &Request| match (request.is_blob(), &request.authorization) {
        (_, None) => Fault::Answer(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"x\"\r\n".into(),
            String::new(),
        ),
        (true, _) => {
            let location =
                format!("Location: http://{}{}\r\n", target.get().unwrap(), request.path);
            Fault::Answer("307 Temporary Redirect", location, String::new())
        }
        _ => Fault::None,
    };
    let Some(scene) = Scene::new(faults).await else { return };
    let other = Proxy::start(&scene.registry.address, |_| Fault::None).await;
    elsewhere.set(other.address.clone()).unwrap();
    let file = scene.directory.path().join("auth.json");
    let entry = serde_json::json!({ "username": "u", "password": "p" });
    let config = serde_json::json!({ "auths": { scene.proxy.address.clone(): entry } });
    std::fs::write(&file, config.to_string()).unwrap();
    let auth = AuthFiles { files: vec![file], ..AuthFiles::default() };
    let store = scene.store(RegistryConfig { auth, ..settings() });
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
    let log = other.log();
    assert_eq!(log.len(), 4);
    assert!(log.iter().all(|request| request.authorization.is_none()));
}

#[tokio::test]
async fn a_host_that_nobody_knows_is_asked_for_once() {
    // Too long for any resolver, so that it is found out without a network.
    let host = "x".repeat(64);
    let faults = move |request: &Request| match request.is_blob() {
        true => Fault::Answer(
            "307 Temporary Redirect",
            format!("Location: http://{host}.invalid/blob\r\n"),
            String::new(),
        ),
        false => Fault::None,
    };
    let Some(scene) = Scene::new(faults).await else { return };
    let store = scene.store(settings());
    let error = scene.pull(&store).await.unwrap_err();
    assert!(chain(&error).contains("failed to lookup"), "{}", chain(&error));
    assert_eq!(scene.proxy.log().iter().filter(|request| request.is_blob()).count(), 1);
}

#[tokio::test]
async fn a_proxy_is_used_where_one_is_set() {
    let Some(scene) = Scene::new(|_| Fault::None).await else { return };
    let with = |exceptions: Option<&str>| RegistryConfig {
        plain_http: vec!["registry.invalid:5000".to_owned()],
        proxies: Proxies {
            http: Some(format!("http://{}", scene.proxy.address)),
            exceptions: exceptions.map(str::to_owned),
            ..Proxies::default()
        },
        ..settings()
    };
    let name = reference("registry.invalid:5000/app");
    let pull = async |config| {
        let store = scene.store(config);
        store.pull(&name, &amd64(), PullPolicy::Missing, &NoProgress).await
    };
    let error = pull(with(Some("registry.invalid"))).await.unwrap_err();
    assert!(chain(&error).contains("cannot talk to registry.invalid"), "{}", chain(&error));
    pull(with(None)).await.unwrap();
    // A registry on loopback is reached without.
    let before = scene.proxy.log().len();
    let store = scene.store(with(None));
    let direct = reference(&format!("{}/app", scene.registry.address));
    store.pull(&direct, &amd64(), PullPolicy::Missing, &NoProgress).await.unwrap();
    assert_eq!(scene.proxy.log().len(), before);
}

const CHILD: &str = "COSTREL_IMAGE_TEST_PULL";

/// Not a test: what the next one kills.
#[tokio::test]
async fn child_that_is_killed() {
    let Ok(arguments) = std::env::var(CHILD) else { return };
    let (root, name) = arguments.split_once(' ').unwrap();
    let store = open(root.as_ref(), settings());
    store.pull(&reference(name), &amd64(), PullPolicy::Missing, &NoProgress).await.unwrap();
}

/// A process of its own that pulls, in a test binary's clothes.
struct Child(std::process::Child);

impl Child {
    fn start(scene: &Scene) -> Self {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed"])
            .env(CHILD, format!("{} {}", scene.root().display(), scene.name))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// After a kill: nothing is listed that is not whole, and the next pull needs no help.
async fn recovers(scene: &Scene) {
    let store = scene.store(settings());
    assert!(store.verify().unwrap().is_empty());
    store.sweep().unwrap();
    assert!(support::drafts(&scene.root()).is_empty());
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_midway_is_done_again() {
    let stalls = Arc::new(AtomicBool::new(true));
    let stalling = stalls.clone();
    let small = Digest::of(&layout::tar("three", 9, 3)).to_string();
    let stall = move |request: &Request| {
        let stall = stalling.load(Ordering::Relaxed) && request.path.ends_with(&small);
        if stall { Fault::Stall(5) } else { Fault::None }
    };
    let Some(scene) = Scene::new(stall).await else { return };
    let child = Child::start(&scene);
    scene.proxy.stalled().await;
    drop(child);
    stalls.store(false, Ordering::Relaxed);
    assert!(scene.store(settings()).list().unwrap().is_empty());
    recovers(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_are_killed_at_any_moment_are_done_again() {
    let Some(scene) = Scene::new(|_| Fault::None).await else { return };
    for delay in [0, 3, 7, 10, 13, 16, 20, 25, 30, 40, 60] {
        let child = Child::start(&scene);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        drop(child);
        recovers(&scene).await;
        let store = scene.store(settings());
        assert_eq!(store.remove(&reference(&scene.name)).unwrap().images, 1);
        store.prune().unwrap();
        assert_eq!(store.usage().unwrap(), Default::default());
    }
}

/// A small file system, for as long as it lives.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir(&path).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path)
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_left_as_it_was() {
    let Some(scene) = Scene::new(|_| Fault::None).await else { return };
    let Some(disk) = SmallDisk::mount(scene.directory.path().join("small"), "200k") else {
        support::skipped("the right to mount a tmpfs");
        return;
    };
    let store = open(&disk.0, settings());
    let error = scene.pull(&store).await.unwrap_err();
    assert!(matches!(error, PullError::Local(_)), "{error:?}");
    let says = |error: &dyn std::error::Error| {
        let text = chain(error);
        let directory = disk.0.join("blobs").display().to_string();
        assert!(text.contains("No space left on device") && text.contains(&directory), "{text}");
    };
    says(&error);
    assert!(store.list().unwrap().is_empty());
    assert!(support::drafts(&disk.0).is_empty());
    assert!(store.verify().unwrap().is_empty());
    let path = scene.directory.path().join("layout");
    let imported = store.import(&path, None, &amd64(), &NoProgress).await.unwrap_err();
    says(&imported);
    drop(store);
    // Nothing holds the file system any more.
    let path = disk.0.clone();
    drop(disk);
    assert!(std::fs::remove_dir(path).is_ok());
}
