//! Images from disk: layouts and archives, as skopeo writes them and as nobody should.

mod support;

use std::{fs, path::Path};

use costrel_image::{
    Compression, Image, ImageSource, ImageStore, ImportError, ManifestError, NoProgress,
    ObtainError, PullPolicy,
};
use costrel_store::Digest;
use serde_json::json;
use support::{amd64, chain, layout, open, reference, settings};
use tempfile::{TempDir, tempdir};

fn store() -> (TempDir, ImageStore) {
    let directory = tempdir().unwrap();
    let store = open(&directory.path().join("store"), settings());
    (directory, store)
}

async fn import(store: &ImageStore, path: &Path) -> Result<Vec<Image>, ImportError> {
    store.import(path, None, &amd64(), &NoProgress).await
}

async fn obtain(store: &ImageStore, source: &str) -> Result<Image, ObtainError> {
    let source = ImageSource::parse(source).unwrap();
    store.obtain(&source, &amd64(), PullPolicy::Missing, &NoProgress).await
}

/// The layers' tars are those that the sample was made of.
fn check_sample(image: &Image) {
    assert_eq!(image.layers.len(), 3);
    for (layer, (name, size, seed)) in
        image.layers.iter().zip([("one", 300_000, 1), ("two", 200_000, 2), ("three", 9, 3)])
    {
        let mut bytes = Vec::new();
        std::io::copy(&mut layer.tar().unwrap(), &mut bytes).unwrap();
        assert!(bytes == layout::tar(name, size, seed), "{name}");
        assert_eq!(layer.diff_id, Digest::of(&bytes));
    }
    assert_eq!(image.config.entrypoint, ["/bin/app"]);
    assert_eq!(image.config.user.as_deref(), Some("1000"));
}

#[tokio::test]
async fn a_layout() {
    let (directory, store) = store();
    let path = directory.path().join("my-layout");
    let sample = layout::sample(&path);
    let images = import(&store, &path).await.unwrap();
    let [image] = images.as_slice() else { panic!("one image") };
    check_sample(image);
    assert_eq!(image.manifest_digest, layout::digest(&sample));
    assert_eq!(image.reference, reference("localhost/my-layout:app"));
    let compressions = image.layers.iter().map(|layer| layer.compression);
    assert!(compressions.eq([Compression::Gzip, Compression::Zstd, Compression::Plain]));

    // It is then found by its name, and by what it is.
    let found = store.resolve(&image.reference, &amd64()).unwrap().unwrap();
    check_sample(&found);
    let by_digest = image.reference.with_digest(image.manifest_digest);
    assert!(store.resolve(&by_digest, &amd64()).unwrap().is_some());
    let other = "linux/arm64".parse().unwrap();
    assert!(store.resolve(&image.reference, &other).unwrap().is_none());
    assert!(support::drafts(&directory.path().join("store")).is_empty());
}

#[tokio::test]
async fn every_archive_that_skopeo_writes() {
    if support::lacks(&["skopeo", "tar", "gzip"]) {
        return;
    }
    let (directory, store) = store();
    let path = directory.path().join("layout");
    // skopeo makes no docker archive of zstd.
    layout::sample_of(&path, [layout::GZIP, layout::GZIP, layout::PLAIN]);
    let from = format!("oci:{}:app", path.display());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let copy = |to: &str| support::run("skopeo", &["copy", "--insecure-policy", &from, to]);

    copy(&format!("oci-archive:{}:v1", file("oci.tar")));
    let image = obtain(&store, &format!("oci-archive:{}:v1", file("oci.tar"))).await.unwrap();
    assert_eq!(image.reference, reference("localhost/oci:v1"));
    check_sample(&image);

    copy(&format!("docker-archive:{}:team/app:v2", file("docker.tar")));
    let name = format!("docker-archive:{}:team/app:v2", file("docker.tar"));
    let image = obtain(&store, &name).await.unwrap();
    assert_eq!(image.reference, reference("team/app:v2"));
    check_sample(&image);

    support::run("gzip", &[&file("docker.tar")]);
    let [again] =
        import(&store, Path::new(&file("docker.tar.gz"))).await.unwrap().try_into().unwrap();
    assert_eq!(again.manifest_digest, image.manifest_digest);

    let renamed = reference("renamed:1");
    let path = file("docker.tar.gz");
    let images = store.import(Path::new(&path), Some(&renamed), &amd64(), &NoProgress).await;
    assert_eq!(images.unwrap()[0].reference, renamed);

    let error = obtain(&store, &format!("docker-archive:{}:other", file("docker.tar.gz"))).await;
    let Err(ObtainError::Import(ImportError::NoSuchImage { there, .. })) = error else {
        panic!("{error:?}")
    };
    assert_eq!(there, ["docker.io/team/app:v2"]);
}

#[tokio::test]
async fn several_images_and_platforms() {
    let (directory, store) = store();
    let path = directory.path().join("l");
    let image = |platform: &str, seed| {
        layout::image(&path, platform, &[(layout::GZIP, layout::tar("f", 10, seed))])
    };
    let (amd, arm) = (image("linux/amd64", 1), image("linux/arm64/v8", 2));
    let both = layout::index(&path, &[arm.clone(), amd.clone()]);
    layout::finish(&path, &[("both", &both), ("docker.io/team/arm:1", &arm)]);

    let both = obtain(&store, &format!("oci:{}:both", path.display())).await.unwrap();
    assert_eq!(both.manifest_digest, layout::digest(&amd));
    let error = obtain(&store, &format!("oci:{}", path.display())).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{} has several images: choose one of both, docker.io/team/arm:1", path.display())
    );
    let error = import(&store, &path).await.unwrap_err();
    assert!(
        matches!(&error, ImportError::Manifest { source, .. } if matches!(**source, ManifestError::Platform { .. }))
    );
    assert!(chain(&error).contains("not built for linux/amd64, but for linux/arm64"), "{error}");

    let platform = "linux/arm64".parse().unwrap();
    let images = store.import(&path, None, &platform, &NoProgress).await.unwrap();
    let names = images.iter().map(|image| image.reference.familiar());
    assert!(names.eq(["localhost/l:both", "team/arm:1"]));
}

#[tokio::test]
async fn what_is_damaged_is_named_and_not_kept() {
    let (directory, store) = store();
    let path = directory.path().join("layout");
    layout::sample(&path);
    let layer = Digest::of(&layout::tar("three", 9, 3));
    let file = path.join("blobs/sha256").join(layer.hex());
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let error = import(&store, &path).await.unwrap_err();
    assert!(matches!(error, ImportError::Damaged { wanted, .. } if wanted == layer), "{error}");
    fs::remove_file(&file).unwrap();
    let error = import(&store, &path).await.unwrap_err();
    assert!(
        matches!(&error, ImportError::Missing { member, .. } if member.ends_with(&layer.hex()))
    );
    assert!(store.list().unwrap().is_empty());
    let root = directory.path().join("store");
    assert!(support::drafts(&root).is_empty());
    assert!(!root.join("blobs").join(layer.hex()).exists());
    // The rest is garbage.
    assert_eq!(store.prune().unwrap().blobs, 4);
    assert_eq!(store.usage().unwrap().blobs, 0);
}

#[tokio::test]
async fn what_is_no_image_is_refused() {
    let (directory, store) = store();
    let root = directory.path();
    let error = import(&store, &root.join("absent")).await.unwrap_err();
    assert!(matches!(error, ImportError::Read { .. }));
    fs::create_dir(root.join("empty")).unwrap();
    let error = import(&store, &root.join("empty")).await.unwrap_err();
    assert!(matches!(error, ImportError::NoImage { .. }));
    fs::write(root.join("text"), "text ".repeat(500)).unwrap();
    let error = import(&store, &root.join("text")).await.unwrap_err();
    assert!(matches!(error, ImportError::Read { .. }), "{error:?}");
    fs::write(root.join("empty/index.json"), "[]").unwrap();
    let error = import(&store, &root.join("empty")).await.unwrap_err();
    assert!(matches!(error, ImportError::Manifest { .. }));
    let escape = json!([{ "Config": "../../etc/passwd", "Layers": [] }]);
    fs::remove_file(root.join("empty/index.json")).unwrap();
    fs::write(root.join("empty/manifest.json"), escape.to_string()).unwrap();
    let error = import(&store, &root.join("empty")).await.unwrap_err();
    assert!(matches!(error, ImportError::Missing { .. }), "{error:?}");
}

#[tokio::test]
async fn removal_spares_what_others_need() {
    let (directory, store) = store();
    let path = directory.path().join("l");
    let shared = (layout::GZIP, layout::tar("shared", 1000, 1));
    let one = layout::image(&path, "linux/amd64", std::slice::from_ref(&shared));
    let own = (layout::GZIP, layout::tar("own", 1000, 2));
    let two = layout::image(&path, "linux/amd64", &[shared, own]);
    layout::finish(&path, &[("one", &one), ("two", &two)]);
    let images = import(&store, &path).await.unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
    let (one, two) = (images[0].reference.clone(), images[1].reference.clone());

    // In use: the names go, the blobs stay.
    let removed = store.remove(&two).unwrap();
    assert_eq!((removed.images, removed.blobs), (1, 0));
    assert_eq!(store.usage().unwrap().blobs, 6);
    drop(images);
    assert_eq!(store.prune().unwrap().blobs, 3);
    assert!(store.resolve(&one, &amd64()).unwrap().is_some());
    assert!(store.resolve(&two, &amd64()).unwrap().is_none());

    let removed = store.remove(&one).unwrap();
    assert_eq!((removed.images, removed.blobs), (1, 3));
    assert!(removed.bytes > 0);
    assert_eq!(store.remove(&one).unwrap().images, 0);
    assert_eq!(store.usage().unwrap(), Default::default());
}

/// The policy is about registries: a layout is looked at each time.
#[tokio::test]
async fn a_layout_whatever_the_policy() {
    let (directory, store) = store();
    let path = directory.path().join("layout");
    let source = ImageSource::parse(&format!("oci:{}", path.display())).unwrap();
    let obtain = async |policy| {
        let told = support::Told::default();
        let image = store.obtain(&source, &amd64(), policy, &told).await.unwrap();
        (image.manifest_digest, told.fetched())
    };
    let digest = layout::digest(&layout::sample(&path));
    assert_eq!(obtain(PullPolicy::Never).await, (digest, 4));
    for policy in [PullPolicy::Always, PullPolicy::Missing, PullPolicy::Never] {
        assert_eq!(obtain(policy).await, (digest, 0), "{policy:?}");
    }
    fs::remove_dir_all(&path).unwrap();
    let changed = layout::digest(&layout::sample_of(&path, [layout::GZIP; 3]));
    assert_ne!(changed, digest);
    for policy in [PullPolicy::Missing, PullPolicy::Never, PullPolicy::Always] {
        assert_eq!(obtain(policy).await.0, changed, "{policy:?}");
    }
}

#[tokio::test]
async fn a_name_stands_for_an_image_a_platform() {
    let (directory, store) = store();
    let path = directory.path().join("layout");
    layout::sample(&path);
    let image = import(&store, &path).await.unwrap().remove(0);
    let by_digest = image.reference.with_digest(image.manifest_digest);
    for name in [&image.reference, &by_digest] {
        let named = store.named(name).unwrap();
        let [(record, Some(found))] = named.as_slice() else { panic!("{named:?}") };
        assert_eq!(record.reference, image.reference);
        assert_eq!(found.manifest_digest, image.manifest_digest);
    }
    assert!(store.named(&reference("localhost/other")).unwrap().is_empty());
    let (layer, name) = (image.layers[0].digest, image.reference.clone());
    drop(image);
    store.forget_blob(layer).unwrap();
    assert!(matches!(store.named(&name).unwrap().as_slice(), [(_, None)]));
}

/// All is there already: nothing has to be written, and nothing can.
#[tokio::test]
async fn a_read_only_store() {
    let (directory, store) = store();
    let path = directory.path().join("layout");
    layout::sample(&path);
    let image = import(&store, &path).await.unwrap().remove(0);
    let root = directory.path().join("store");
    let Some(_mount) = support::ReadOnly::mount(&root) else { return };
    let store = open(&root, settings());
    assert_eq!(import(&store, &path).await.unwrap()[0].manifest_digest, image.manifest_digest);
    check_sample(&store.resolve(&image.reference, &amd64()).unwrap().unwrap());
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.usage().unwrap().images, 1);
    assert_eq!(store.sweep().unwrap(), 0);
    let other = reference("localhost/other");
    let error = store.import(&path, Some(&other), &amd64(), &NoProgress).await.unwrap_err();
    let says = root.display().to_string();
    assert!(chain(&error).contains("Read-only file system"), "{}", chain(&error));
    assert!(chain(&error).contains(&says), "{}", chain(&error));
    let error = store.remove(&image.reference).unwrap_err();
    assert!(chain(&error).contains(&says), "{}", chain(&error));
}
