use serde_json::{Value, json};

use super::*;

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn entry(name: &str, platform: Option<&str>) -> Value {
    let mut entry = json!({ "mediaType": OCI_MANIFEST, "digest": digest(name), "size": 7 });
    if let Some(platform) = platform {
        let mut parts = platform.split('/');
        entry["platform"] = json!({ "os": parts.next(), "architecture": parts.next() });
        if let Some(variant) = parts.next() {
            entry["platform"]["variant"] = variant.into();
        }
    }
    entry
}

fn choice(entries: &[Value], wanted: &str) -> Result<Digest, ManifestError> {
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    let Ok(Document::Index(children)) = Document::parse(index.to_string().as_bytes(), None) else {
        panic!("not an index")
    };
    choose(&children, &wanted.parse().unwrap()).map(|child| child.blob.digest)
}

#[test]
fn chooses_the_best_platform() {
    let entries = [
        entry("record", Some("unknown/unknown")),
        entry("v3", Some("linux/amd64/v3")),
        entry("amd64", Some("linux/amd64")),
        entry("v6", Some("linux/arm/v6")),
        entry("v7", Some("linux/arm/v7")),
        entry("arm64", Some("linux/arm64/v8")),
        entry("second", Some("linux/arm64/v8")),
    ];
    for (wanted, chosen) in [
        ("linux/amd64", "amd64"),
        ("linux/amd64/v2", "amd64"),
        ("linux/amd64/v4", "v3"),
        ("linux/arm", "v7"),
        ("linux/arm/v6", "v6"),
        ("linux/arm64", "arm64"),
    ] {
        assert_eq!(choice(&entries, wanted).unwrap().to_string(), digest(chosen), "{wanted}");
    }
    let error = choice(&entries[..5], "linux/arm64").unwrap_err();
    assert_eq!(
        error.to_string(),
        "it is not built for linux/arm64, but for linux/amd64/v3, linux/amd64, linux/arm/v6, \
         linux/arm/v7"
    );
}

#[test]
fn an_image_without_platform_is_the_last_resort() {
    let entries = [entry("plain", None), entry("amd64", Some("linux/amd64"))];
    assert_eq!(choice(&entries, "linux/amd64").unwrap().to_string(), digest("amd64"));
    assert_eq!(choice(&entries, "linux/arm64").unwrap().to_string(), digest("plain"));
}

fn image(config_type: &str, layer_type: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "config": { "mediaType": config_type, "digest": digest("c"), "size": 1 },
        "layers": [{ "mediaType": layer_type, "digest": digest("l"), "size": 2 }],
    })
}

fn error(document: &Value, media_type: Option<&str>) -> ManifestError {
    Document::parse(document.to_string().as_bytes(), media_type).err().unwrap()
}

#[test]
fn reads_every_known_type() {
    for config in CONFIG_TYPES {
        for layer in LAYER_TYPES {
            let document = image(config, layer).to_string();
            let Ok(Document::Manifest(manifest)) = Document::parse(document.as_bytes(), None)
            else {
                panic!("{layer}")
            };
            assert_eq!((manifest.config.size, manifest.layers[0].size), (1, 2));
        }
    }
}

#[test]
fn refuses_the_rest_by_name() {
    use ManifestError as E;
    let config = CONFIG_TYPES[0];
    let foreign = [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ];
    for layer in foreign {
        let refused = error(&image(config, layer), None);
        assert!(matches!(&refused, E::ForeignLayer { media_type, .. } if media_type == layer));
    }
    let refused = error(&image(config, "application/x-rar"), None);
    assert!(
        matches!(&refused, E::LayerType { media_type, .. } if media_type == "application/x-rar")
    );
    let chart = "application/vnd.cncf.helm.config.v1+json";
    let refused = error(&image(chart, LAYER_TYPES[0]), None);
    assert!(matches!(&refused, E::NotAnImage { media_type } if media_type == chart));

    let mut both = image(config, LAYER_TYPES[0]);
    both["manifests"] = json!([]);
    assert!(matches!(error(&both, None), E::Ambiguous));
    let old = json!({ "schemaVersion": 1, "fsLayers": [] });
    assert!(
        matches!(error(&old, None), E::MediaType { media_type } if media_type.contains("schema 1"))
    );
    assert!(matches!(error(&json!({}), Some("text/html")), E::MediaType { .. }));
    assert!(matches!(error(&json!([]), None), E::Parse { .. }));

    let mut strong = image(config, LAYER_TYPES[0]);
    strong["layers"][0]["digest"] = format!("sha512:{}", "a".repeat(128)).into();
    assert!(matches!(error(&strong, None), E::Digest(_)));
    let mut large = image(config, LAYER_TYPES[0]);
    large["config"]["size"] = (LARGEST_CONFIG + 1).into();
    assert!(matches!(error(&large, None), E::TooLarge { .. }));
}

proptest::proptest! {
    /// A manifest with any one value replaced by any other is answered.
    #[test]
    fn documents_of_strangers_are_answered(
        place in 0_usize..12,
        number in proptest::prelude::any::<i64>(),
        text in "\\PC{0,80}",
        is_number in proptest::prelude::any::<bool>(),
    ) {
        let value: Value = if is_number { number.into() } else { text.into() };
        let mut document = image(CONFIG_TYPES[0], LAYER_TYPES[0]);
        document["manifests"] = json!([entry("e", Some("linux/amd64"))]);
        let places = [
            "/schemaVersion", "/config", "/config/digest", "/config/size", "/config/mediaType",
            "/layers", "/layers/0", "/layers/0/digest", "/manifests", "/manifests/0/platform",
            "/manifests/0/platform/os", "/manifests/0/digest",
        ];
        *document.pointer_mut(places[place]).unwrap() = value;
        for dropped in ["layers", "manifests"] {
            let mut document = document.clone();
            document.as_object_mut().unwrap().remove(dropped);
            let _ = Document::parse(document.to_string().as_bytes(), None);
            let _ = crate::config::Configuration::parse(document.to_string().as_bytes());
        }
    }
}
