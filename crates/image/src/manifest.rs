//! Manifests and indexes, OCI's and docker's: what they say, and which image is meant.

use costrel_store::{Digest, DigestError};
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::{Deserialize, de::IgnoredAny};

use crate::Platform;

/// docker's own limit: nothing larger is a manifest.
pub(crate) const LARGEST_MANIFEST: u64 = 4 << 20;
/// Configurations carry the image's history, but hold no data.
pub(crate) const LARGEST_CONFIG: u64 = 8 << 20;
/// overlayfs takes fewer layers, but nothing here mounts each.
const MOST_LAYERS: usize = 1024;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What a registry is asked for.
pub(crate) const MANIFEST_TYPES: [&str; 4] =
    [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

/// Why a manifest, an index or a configuration does not lead to an image.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not the JSON that it should be.
    #[error("its {document} cannot be read")]
    Parse {
        /// Which document.
        document: &'static str,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Neither a manifest nor an index, or one of another kind.
    #[error("{media_type:?} is neither an image manifest nor an index")]
    MediaType {
        /// What it says it is.
        media_type: String,
    },
    /// A document that is manifest and index at once, which two readers understand differently.
    #[error("its manifest has both layers and manifests")]
    Ambiguous,
    /// A signature, a chart, a module: something in a registry that is no container image.
    #[error("it is not a container image but {media_type:?}")]
    NotAnImage {
        /// The type of its configuration.
        media_type: String,
    },
    /// A layer that the registry may not hand out.
    #[error("its layer {digest} is of the type {media_type:?}, which is kept elsewhere")]
    ForeignLayer {
        /// The layer.
        digest: String,
        /// Its media type.
        media_type: String,
    },
    /// A layer of a type that nobody here reads.
    #[error("its layer {digest} is of the unknown type {media_type:?}")]
    LayerType {
        /// The layer.
        digest: String,
        /// Its media type.
        media_type: String,
    },
    /// A digest that is none, or of an algorithm that is not supported.
    #[error("it names a blob wrongly")]
    Digest(#[from] DigestError),
    /// The image is not there for the platform that was asked for.
    #[error(
        "it is not built for {wanted}, but for {}",
        if offered.is_empty() { "no platform at all".to_owned() } else { join(offered) }
    )]
    Platform {
        /// The platform that was asked for.
        wanted: Platform,
        /// The platforms that exist.
        offered: Vec<Platform>,
    },
    /// Indexes within indexes, too deep.
    #[error("its indexes refer to indexes more than {0} deep")]
    Depth(usize),
    /// The configuration and the manifest disagree.
    #[error("its manifest has {layers} layers, its configuration {diff_ids}")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Layers of the configuration.
        diff_ids: usize,
    },
    /// More layers than any builder makes.
    #[error("it has {0} layers, more than {MOST_LAYERS}")]
    TooManyLayers(usize),
    /// A document that is larger than any that is meant well.
    #[error("its {document} has {size} bytes, more than {largest}")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Its size.
        size: u64,
        /// The largest that is read.
        largest: u64,
    },
}

fn join(platforms: &[Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// How deep indexes nest. Docker writes layouts with one index in another.
pub(crate) const DEEPEST: usize = 4;

/// A blob by its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, serde::Serialize)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// What lies behind a name: one image, or a choice of images.
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Vec<Child>),
}

pub(crate) struct Manifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
}

/// One of the images of an index.
#[derive(Clone)]
pub(crate) struct Child {
    pub(crate) blob: Blob,
    pub(crate) media_type: String,
    pub(crate) platform: Option<Platform>,
    pub(crate) annotations: std::collections::HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    #[serde(rename = "fsLayers")]
    schema1_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. `media_type` is what its descriptor or the registry called
    /// it; what it says of itself goes first.
    pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        let outline: Outline = parse("manifest", bytes)?;
        let media_type = outline.media_type.as_deref().or(media_type);
        match (media_type, outline.layers.is_some(), outline.manifests.is_some()) {
            (_, true, true) => Err(ManifestError::Ambiguous),
            (Some(DOCKER_LIST | OCI_INDEX), false, _) | (_, false, true) => {
                let index: ImageIndex = parse("index", bytes)?;
                Ok(Self::Index(index.manifests().iter().map(child).collect::<Result<_, _>>()?))
            }
            (Some(DOCKER_MANIFEST | OCI_MANIFEST), _, false) | (_, true, false) => {
                Ok(Self::Manifest(manifest(&parse("manifest", bytes)?)?))
            }
            (_, false, false) => {
                let media_type = match (media_type, outline.schema1_layers) {
                    (_, Some(_)) => "docker manifest schema 1",
                    (Some(media_type), None) => media_type,
                    (None, None) => "unknown",
                };
                Err(ManifestError::MediaType { media_type: media_type.to_owned() })
            }
        }
    }
}

pub(crate) fn parse<T: serde::de::DeserializeOwned>(
    document: &'static str,
    bytes: &[u8],
) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes).map_err(|source| ManifestError::Parse { document, source })
}

pub(crate) fn check_size(
    document: &'static str,
    size: u64,
    largest: u64,
) -> Result<(), ManifestError> {
    if size > largest {
        return Err(ManifestError::TooLarge { document, size, largest });
    }
    Ok(())
}

fn blob(descriptor: &Descriptor) -> Result<Blob, ManifestError> {
    let digest = descriptor.digest().as_ref().parse()?;
    Ok(Blob { digest, size: descriptor.size() })
}

fn child(descriptor: &Descriptor) -> Result<Child, ManifestError> {
    Ok(Child {
        blob: blob(descriptor)?,
        media_type: descriptor.media_type().to_string(),
        platform: descriptor.platform().as_ref().map(|platform| {
            Platform::new(
                &platform.os().to_string(),
                &platform.architecture().to_string(),
                platform.variant().as_deref(),
            )
        }),
        annotations: descriptor.annotations().clone().unwrap_or_default(),
    })
}

fn manifest(manifest: &ImageManifest) -> Result<Manifest, ManifestError> {
    let config_type = manifest.config().media_type().to_string();
    if !CONFIG_TYPES.contains(&config_type.as_str()) {
        let media_type = manifest.artifact_type().as_ref().map_or(config_type, ToString::to_string);
        return Err(ManifestError::NotAnImage { media_type });
    }
    if manifest.layers().len() > MOST_LAYERS {
        return Err(ManifestError::TooManyLayers(manifest.layers().len()));
    }
    check_size("configuration", manifest.config().size(), LARGEST_CONFIG)?;
    for layer in manifest.layers() {
        let media_type = layer.media_type().to_string();
        let digest = layer.digest().to_string();
        if LAYER_TYPES.contains(&media_type.as_str()) {
            continue;
        }
        return Err(if media_type.contains("foreign") || media_type.contains("nondistributable") {
            ManifestError::ForeignLayer { digest, media_type }
        } else {
            ManifestError::LayerType { digest, media_type }
        });
    }
    Ok(Manifest {
        config: blob(manifest.config())?,
        layers: manifest.layers().iter().map(blob).collect::<Result<_, _>>()?,
    })
}

impl Child {
    /// Build records and signatures stand in indexes as images for `unknown/unknown`.
    fn is_image(&self) -> bool {
        !self.annotations.contains_key("vnd.docker.reference.type")
            && self.platform.as_ref().is_none_or(|platform| platform.os() != "unknown")
    }
}

/// The image of an index that serves `wanted` best; of several equal ones the first, as docker
/// does. One without a platform serves where no other does: its configuration will tell.
pub(crate) fn choose<'a>(
    children: &'a [Child],
    wanted: &Platform,
) -> Result<&'a Child, ManifestError> {
    let images = || children.iter().filter(|child| child.is_image());
    let by_platform = images()
        .filter_map(|child| Some((wanted.distance(child.platform.as_ref()?)?, child)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, child)| child);
    by_platform.or_else(|| images().find(|child| child.platform.is_none())).ok_or_else(|| {
        ManifestError::Platform {
            wanted: wanted.clone(),
            offered: images().filter_map(|child| child.platform.clone()).collect(),
        }
    })
}

#[cfg(test)]
mod tests;
