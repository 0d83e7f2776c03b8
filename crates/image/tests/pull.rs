//! Pulls from Debian's `docker-registry`, filled by skopeo.

mod support;

use std::{fs, path::Path};

use costrel_image::{
    AuthFiles, Damage, Image, ImageStore, ManifestError, NoProgress, PullError, PullPolicy,
    RegistryConfig, RegistryError,
};
use costrel_store::{Digest, Removal};
use serde_json::json;
use support::{
    Told, amd64, chain, lacks, layout, open, reference,
    registry::{PASSWORD, Protection, Registry, USER},
    settings,
};
use tempfile::tempdir;

const TOOLS: [&str; 2] = ["docker-registry", "skopeo"];

async fn pull(store: &ImageStore, name: &str, policy: PullPolicy) -> Result<Image, PullError> {
    store.pull(&reference(name), &amd64(), policy, &NoProgress).await
}

fn registry_error(error: &PullError) -> &RegistryError {
    match error {
        PullError::Registry { source, .. } => source,
        _ => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn pulls_once_and_then_works_offline() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let registry = Registry::start();
    let sample = layout::sample(&directory.path().join("layout"));
    registry.push(&directory.path().join("layout"), "app", "team/app:v1", &["--preserve-digests"]);
    let name = format!("{}/team/app:v1", registry.address);
    let root = directory.path().join("store");
    let store = open(&root, settings());

    let error = pull(&store, &name, PullPolicy::Never).await.unwrap_err();
    assert!(matches!(error, PullError::NotLocal { .. }));
    let told = Told::default();
    let image = store.pull(&reference(&name), &amd64(), PullPolicy::Missing, &told).await.unwrap();
    assert_eq!(image.manifest_digest, layout::digest(&sample));
    assert!(store.verify_layers(&image).is_empty());
    assert_eq!(image.layers.len(), 3);
    // The configuration and the layers.
    assert_eq!((told.fetched(), told.cached()), (4, 0));

    // The same place by another name, and another name for the same image, need no blob again.
    let port = registry.address.rsplit(':').next().unwrap();
    let told = Told::default();
    let local = reference(&format!("localhost:{port}/team/app:v1"));
    store.pull(&local, &amd64(), PullPolicy::Missing, &told).await.unwrap();
    assert_eq!((told.fetched(), told.cached()), (0, 4));
    let by_digest = format!("{}/team/app@{}", registry.address, image.manifest_digest);
    pull(&store, &by_digest, PullPolicy::Always).await.unwrap();
    registry.push(&directory.path().join("layout"), "app", "team/app:v2", &["--preserve-digests"]);
    let told = Told::default();
    let second = reference(&name.replace(":v1", ":v2"));
    store.pull(&second, &amd64(), PullPolicy::Missing, &told).await.unwrap();
    assert_eq!((told.fetched(), told.cached()), (0, 4));
    drop(image);

    drop(registry);
    for policy in [PullPolicy::Missing, PullPolicy::Never] {
        pull(&store, &name, policy).await.unwrap();
        pull(&store, &by_digest, policy).await.unwrap();
    }
    // By digest, it need not even be asked for anew.
    pull(&store, &by_digest, PullPolicy::Always).await.unwrap();
    let error = pull(&store, &name, PullPolicy::Always).await.unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Transport { .. }));
    assert!(support::drafts(&root).is_empty());
}

#[tokio::test]
async fn docker_manifests_and_lists() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let path = directory.path().join("layout");
    let registry = Registry::start();
    let image = |platform: &str, seed| {
        layout::image(&path, platform, &[(layout::GZIP, layout::tar("f", 99, seed))])
    };
    let images: Vec<_> = ["linux/arm64/v8", "linux/amd64", "linux/arm/v6", "linux/arm/v7"]
        .iter()
        .zip(1..)
        .map(|(platform, seed)| image(platform, seed))
        .collect();
    layout::finish(&path, &[("all", &layout::index(&path, &images)), ("one", &images[1])]);
    registry.push(&path, "one", "one:v2s2", &["--format=v2s2"]);
    registry.push(&path, "all", "all:oci", &["--all"]);
    registry.push(&path, "all", "all:v2s2", &["--all", "--format=v2s2"]);
    let store = open(&directory.path().join("store"), settings());

    let name = |rest: &str| reference(&format!("{}/{rest}", registry.address));
    let one = pull(&store, &name("one:v2s2").to_string(), PullPolicy::Missing).await.unwrap();
    let diff_id = |seed| Digest::of(&layout::tar("f", 99, seed));
    assert_eq!(one.layers[0].diff_id, diff_id(2));
    let error = store
        .pull(&name("one:v2s2"), &"linux/s390x".parse().unwrap(), PullPolicy::Missing, &NoProgress)
        .await
        .unwrap_err();
    assert!(chain(&error).ends_with("it is not built for linux/s390x, but for linux/amd64"));

    for tag in ["all:oci", "all:v2s2"] {
        for (platform, seed) in [
            ("linux/amd64", 2),
            ("linux/arm64", 1),
            ("linux/arm/v7", 4),
            ("linux/arm/v6", 3),
            ("linux/amd64/v3", 2),
        ] {
            let platform = platform.parse().unwrap();
            let image = store.pull(&name(tag), &platform, PullPolicy::Always, &NoProgress).await;
            assert_eq!(image.unwrap().layers[0].diff_id, diff_id(seed), "{tag} {platform}");
        }
        let other = "linux/s390x".parse().unwrap();
        let error = store.pull(&name(tag), &other, PullPolicy::Always, &NoProgress).await;
        let Err(PullError::Manifest { source, .. }) = error else { panic!("{error:?}") };
        let ManifestError::Platform { offered, .. } = *source else { panic!("{source}") };
        assert_eq!(offered.len(), 4);
    }
}

#[tokio::test]
async fn a_moved_tag() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let path = directory.path().join("layout");
    let registry = Registry::start();
    let one = layout::image(&path, "linux/amd64", &[(layout::GZIP, layout::tar("f", 9, 1))]);
    let two = layout::image(&path, "linux/amd64", &[(layout::GZIP, layout::tar("f", 9, 2))]);
    layout::finish(&path, &[("one", &one), ("two", &two)]);
    let store = open(&directory.path().join("store"), settings());
    let name = format!("{}/app", registry.address);

    registry.push(&path, "one", "app", &["--preserve-digests"]);
    let first = pull(&store, &name, PullPolicy::Always).await.unwrap();
    registry.push(&path, "two", "app", &["--preserve-digests"]);
    let cached = pull(&store, &name, PullPolicy::Missing).await.unwrap();
    assert_eq!(cached.manifest_digest, first.manifest_digest);
    let second = pull(&store, &name, PullPolicy::Always).await.unwrap();
    assert_eq!(second.manifest_digest, layout::digest(&two));
    assert_eq!(store.list().unwrap().len(), 1);
    // What the tag meant before is garbage now, but not while it is used.
    assert_eq!(store.prune().unwrap().blobs, 0);
    drop((first, cached));
    assert_eq!(store.prune().unwrap().blobs, 3);
    assert!(store.verify().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_not_there() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let registry = Registry::start();
    let store = open(&directory.path().join("store"), settings());
    let name = format!("{}/absent:v9", registry.address);
    let error = pull(&store, &name, PullPolicy::Missing).await.unwrap_err();
    let PullError::NotFound { answer, .. } = &error else { panic!("{error:?}") };
    assert_eq!(answer, "404 Not Found: MANIFEST_UNKNOWN: manifest unknown");
    assert!(error.to_string().contains(&name), "{error}");
    assert_eq!(store.usage().unwrap(), Default::default());
}

#[tokio::test]
async fn a_wrong_blob_is_named_and_not_kept() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let registry = Registry::start();
    let path = directory.path().join("layout");
    layout::sample(&path);
    registry.push(&path, "app", "app", &["--preserve-digests"]);
    let layer = Digest::of(&layout::tar("three", 9, 3));
    let file = registry.blob_file(&layer);
    let good = fs::read(&file).unwrap();
    let root = directory.path().join("store");
    let store = open(&root, settings());
    let name = format!("{}/app", registry.address);
    let flipped: Vec<u8> = good.iter().map(|byte| byte ^ 1).collect();
    for bad in [&flipped[..], &good[1..], &[&good[..], b"x"].concat()] {
        fs::write(&file, bad).unwrap();
        let error = pull(&store, &name, PullPolicy::Missing).await.unwrap_err();
        let PullError::Blob { digest, registry: host, .. } = &error else { panic!("{error:?}") };
        assert_eq!((*digest, host), (layer, &registry.address));
        assert!(!root.join("blobs").join(layer.hex()).exists());
        assert!(store.list().unwrap().is_empty());
        assert!(support::drafts(&root).is_empty());
    }
    fs::write(&file, &good).unwrap();
    pull(&store, &name, PullPolicy::Missing).await.unwrap();
}

fn with_auth(directory: &Path, registry: &Registry, password: &str) -> RegistryConfig {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let file = directory.join(format!("{password}.json"));
    let auth = STANDARD.encode(format!("{USER}:{password}"));
    let config = json!({ "auths": { registry.address.clone(): { "auth": auth } } });
    fs::write(&file, config.to_string()).unwrap();
    let auth = AuthFiles { files: vec![file], ..AuthFiles::default() };
    RegistryConfig { auth, ..settings() }
}

#[tokio::test]
async fn passwords() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let root = directory.path();
    let registry = Registry::protected(Protection { password: true, tls: false });
    layout::sample(&root.join("layout"));
    registry.push(&root.join("layout"), "app", "app", &[]);
    let name = format!("{}/app", registry.address);

    let store = open(&root.join("store"), settings());
    let error = pull(&store, &name, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::NoCredentials { .. }), "{error:?}");
    let store = open(&root.join("store"), with_auth(root, &registry, "wrong"));
    let error = pull(&store, &name, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Unauthorized { .. }), "{error:?}");
    assert_eq!(store.usage().unwrap(), Default::default());
    let store = open(&root.join("store"), with_auth(root, &registry, PASSWORD));
    pull(&store, &name, PullPolicy::Missing).await.unwrap();
}

#[tokio::test]
async fn certificates() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let root = directory.path();
    let registry = Registry::protected(Protection { password: true, tls: true });
    layout::sample(&root.join("layout"));
    registry.push(&root.join("layout"), "app", "app", &[]);
    let name = format!("{}/app", registry.address);
    let with_password = with_auth(root, &registry, PASSWORD);

    let store = open(&root.join("store"), with_password.clone());
    let error = pull(&store, &name, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::Transport { .. }), "{error:?}");
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
    let root_certificates = vec![registry.certificate()];
    let store =
        open(&root.join("store"), RegistryConfig { root_certificates, ..with_password.clone() });
    pull(&store, &name, PullPolicy::Missing).await.unwrap();

    let root_certificates = vec![root.join("absent.pem")];
    let store = open(&root.join("new"), RegistryConfig { root_certificates, ..with_password });
    let error = pull(&store, &name, PullPolicy::Missing).await.unwrap_err();
    assert!(matches!(registry_error(&error), RegistryError::CertificateFile { .. }), "{error:?}");
}

#[tokio::test]
async fn damaged_caches() {
    if lacks(&TOOLS) {
        return;
    }
    let directory = tempdir().unwrap();
    let registry = Registry::start();
    layout::sample(&directory.path().join("layout"));
    registry.push(&directory.path().join("layout"), "app", "app", &[]);
    let name = format!("{}/app", registry.address);
    let store = open(&directory.path().join("store"), settings());
    let image = pull(&store, &name, PullPolicy::Missing).await.unwrap();
    let paths: Vec<_> = image.layers.iter().map(|layer| layer.path.clone()).collect();
    let (first, config) = (image.layers[0].digest, image.config_digest);
    assert_eq!(store.forget_blob(first).unwrap(), Removal::InUse);
    drop(image);

    // A layer of the wrong length, a configuration of wrong content: fetched again.
    fs::write(&paths[0], "short").unwrap();
    pull(&store, &name, PullPolicy::Missing).await.unwrap();
    let config_path = directory.path().join("store/blobs").join(config.hex());
    let mut bytes = fs::read(&config_path).unwrap();
    bytes[1] ^= 1;
    fs::write(&config_path, &bytes).unwrap();
    pull(&store, &name, PullPolicy::Always).await.unwrap();
    assert!(store.verify().unwrap().is_empty());

    // A flipped bit in a layer is found by whoever reads it all.
    let mut bytes = fs::read(&paths[1]).unwrap();
    bytes[100] ^= 1;
    fs::write(&paths[1], &bytes).unwrap();
    let image = pull(&store, &name, PullPolicy::Missing).await.unwrap();
    assert_eq!(store.verify_layers(&image).len(), 1);
    let second = image.layers[1].digest;
    drop(image);
    let damages = store.verify().unwrap();
    assert!(matches!(damages[..], [Damage::Content { digest, .. }] if digest == second));
    assert!(store.resolve(&reference(&name), &amd64()).unwrap().is_none());
    let image = pull(&store, &name, PullPolicy::Missing).await.unwrap();
    assert!(store.verify_layers(&image).is_empty());

    // A damaged record is as good as none.
    drop(image);
    for record in fs::read_dir(directory.path().join("store/images")).unwrap() {
        let path = record.unwrap().path();
        if path.is_file() {
            fs::write(path, "{").unwrap();
        }
    }
    assert!(store.list().unwrap().is_empty());
    pull(&store, &name, PullPolicy::Missing).await.unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
}
