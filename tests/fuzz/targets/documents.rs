//! What describes images: indexes, manifests, configurations, docker's lists, by way of layouts and
//! archives that have the input as one of their documents.
#![no_main]

use std::{fs, path::Path};

use costrel_fuzz::directory;
use costrel_image::{ImageStore, NoProgress, Platform, StoreSettings};
use costrel_store::Digest;
use libfuzzer_sys::fuzz_target;

const LAYER: &[u8] = &[0; 1024];

fn put(layout: &Path, blob: &[u8]) -> Digest {
    let digest = Digest::of(blob);
    let path = layout.join("blobs/sha256").join(digest.hex());
    if !path.exists() {
        fs::write(path, blob).expect("a file");
    }
    digest
}

fn descriptor(kind: &str, digest: Digest, size: usize) -> String {
    format!(
        r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#
    )
}

fn index(manifest: Digest, size: usize) -> String {
    format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        descriptor("manifest.v1+json", manifest, size)
    )
}

fn manifest(config: Digest, size: usize, layer: Digest) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor("config.v1+json", config, size),
        descriptor("layer.v1.tar", layer, LAYER.len())
    )
}

fuzz_target!(|input: &[u8]| {
    let [kind, document @ ..] = input else { return };
    let directory = directory();
    let layout = directory.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).expect("a directory");
    for name in ["index.json", "manifest.json"] {
        let _ = fs::remove_file(layout.join(name));
    }
    let layer = put(&layout, LAYER);
    let write = |name: &str, text: &[u8]| fs::write(layout.join(name), text).expect("a file");
    let mut doomed = None;
    match kind % 4 {
        0 => write("index.json", document),
        1 => {
            let digest = put(&layout, document);
            doomed = Some(digest);
            write("index.json", index(digest, document.len()).as_bytes());
        }
        2 => {
            let config = put(&layout, document);
            let manifest = manifest(config, document.len(), layer);
            let digest = put(&layout, manifest.as_bytes());
            fs::write(layout.join("index.json"), index(digest, manifest.len())).expect("a file");
            doomed = Some(config);
            let _ = fs::remove_file(layout.join("blobs/sha256").join(digest.hex()));
            put(&layout, manifest.as_bytes());
        }
        _ => write("manifest.json", document),
    }
    let store = ImageStore::open(&directory.join("store"), StoreSettings::default());
    let store = store.expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let images = runtime.block_on(store.import(&layout, None, &Platform::host(), &NoProgress));
    for image in images.into_iter().flatten() {
        // What was imported is found by its name, and has that as its configuration.
        let found = store.resolve(&image.reference, &Platform::host()).expect("a store");
        assert_eq!(found.expect("the image").config, image.config);
        store.remove(&image.reference).expect("a store");
    }
    drop(runtime);
    store.prune().expect("a store");
    if let Some(digest) = doomed {
        let _ = fs::remove_file(layout.join("blobs/sha256").join(digest.hex()));
    }
});
