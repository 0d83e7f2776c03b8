//! OCI image layouts, made from nothing.

use std::{fs, path::Path};

use costrel_store::Digest;
use serde_json::{Value, json};

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A tar of one file, which a generator of random numbers fills.
pub(crate) fn tar(name: &str, size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let content: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, &content[..]).unwrap();
    builder.into_inner().unwrap()
}

pub(crate) fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::of(bytes);
    let directory = layout.join("blobs/sha256");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(digest.hex()), bytes).unwrap();
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

/// Writes an image of these tars, each stored as its media type says; gives its descriptor.
pub(crate) fn image(layout: &Path, platform: &str, layers: &[(&str, Vec<u8>)]) -> Value {
    let (os, architecture) = platform.split_once('/').unwrap();
    let (architecture, variant) = match architecture.split_once('/') {
        Some((architecture, variant)) => (architecture, Some(variant)),
        None => (architecture, None),
    };
    let diff_ids: Vec<Digest> = layers.iter().map(|(_, tar)| Digest::of(tar)).collect();
    let mut config = json!({
        "os": os, "architecture": architecture,
        "config": { "Entrypoint": ["/bin/app"], "Env": ["PATH=/bin"], "User": "1000" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let mut for_platform = json!({ "os": os, "architecture": architecture });
    if let Some(variant) = variant {
        config["variant"] = variant.into();
        for_platform["variant"] = variant.into();
    }
    let config_type = "application/vnd.oci.image.config.v1+json";
    let config = blob(layout, config_type, config.to_string().as_bytes());
    let layers: Vec<Value> = layers
        .iter()
        .map(|(media_type, tar)| blob(layout, media_type, &packed(media_type, tar)))
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
    });
    let mut descriptor = blob(layout, MANIFEST, manifest.to_string().as_bytes());
    descriptor["platform"] = for_platform;
    descriptor
}

fn packed(media_type: &str, tar: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    match media_type {
        GZIP => {
            let level = flate2::Compression::fast();
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), level);
            writer.write_all(tar).unwrap();
            writer.finish().unwrap()
        }
        ZSTD => zstd::encode_all(tar, 1).unwrap(),
        _ => tar.to_vec(),
    }
}

/// An index of images as one entry.
pub(crate) fn index(layout: &Path, images: &[Value]) -> Value {
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": images });
    blob(layout, INDEX, index.to_string().as_bytes())
}

/// Completes the layout with these images, each under its name.
pub(crate) fn finish(layout: &Path, images: &[(&str, &Value)]) {
    fs::create_dir_all(layout).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let manifests: Vec<Value> = images
        .iter()
        .map(|(name, image)| {
            let mut image = (*image).clone();
            image["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
            image
        })
        .collect();
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

/// One image for linux/amd64 with a layer of each compression, as `app`.
pub(crate) fn sample(layout: &Path) -> Value {
    sample_of(layout, [GZIP, ZSTD, PLAIN])
}

/// The sample's three tars, stored as these types.
pub(crate) fn sample_of(layout: &Path, types: [&'static str; 3]) -> Value {
    let tars = [tar("one", 300_000, 1), tar("two", 200_000, 2), tar("three", 9, 3)];
    let layers: Vec<_> = types.into_iter().zip(tars).collect();
    let image = image(layout, "linux/amd64", &layers);
    finish(layout, &[("app", &image)]);
    image
}

pub(crate) fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}
