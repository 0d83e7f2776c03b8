//! Pulls through a network that misbehaves.

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use costrel_image::{
    BlobError, Image, ImageStore, NoProgress, Proxies, PullError, PullPolicy, RegistryConfig,
    RegistryError, Retry,
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

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_is_swept_and_done_again() {
    let stalls = Arc::new(AtomicBool::new(true));
    let stalling = stalls.clone();
    let stall = move |request: &Request| {
        let stall = stalling.load(Ordering::Relaxed) && request.is_blob() && request.earlier == 0;
        if stall && request.path.ends_with(&Digest::of(&layout::tar("three", 9, 3)).to_string()) {
            Fault::Stall(5)
        } else {
            Fault::None
        }
    };
    let Some(scene) = Scene::new(stall).await else { return };
    let mut child = tokio::task::spawn_blocking({
        let argument = format!("{} {}", scene.root().display(), scene.name);
        move || {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_is_killed"])
                .env(CHILD, argument)
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        }
    })
    .await
    .unwrap();
    scene.proxy.stalled().await;
    child.kill().unwrap();
    child.wait().unwrap();
    stalls.store(false, Ordering::Relaxed);

    let store = scene.store(settings());
    assert!(store.list().unwrap().is_empty());
    store.sweep().unwrap();
    assert!(support::drafts(&scene.root()).is_empty());
    let image = scene.pull(&store).await.unwrap();
    scene.check(&store, &image);
}
