//! OCI image layouts.

use costrel_store::Lease;

use super::{Choice, Import, ImportError};
use crate::{
    Image, Reference,
    manifest::{self, Blob, Child, Document, ManifestError},
    pull::check,
};

const NAME: &str = "org.opencontainers.image.ref.name";
/// Where containerd and docker write the whole name.
const FULL_NAME: &str = "io.containerd.image.name";

/// The entries of a layout's index that are one image, for several platforms.
struct Named {
    name: Option<String>,
    full_name: Option<Reference>,
    children: Vec<Child>,
}

impl Named {
    fn shown(&self) -> String {
        match (&self.full_name, &self.name) {
            (Some(reference), _) => reference.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => "(without a name)".to_owned(),
        }
    }

    fn is_called(&self, wanted: &str) -> bool {
        self.name.as_deref() == Some(wanted)
            || (self.full_name.is_some() && self.full_name == wanted.parse().ok())
    }
}

impl Import {
    pub(super) fn import_layout(
        &self,
        index: &[u8],
        choice: Choice,
    ) -> Result<Vec<Image>, ImportError> {
        let document = Document::parse(index, Some(manifest::MANIFEST_TYPES[0]));
        let Document::Index(children) = document.map_err(self.unusable("index.json"))? else {
            return Err(ImportError::NoImage { path: self.path.clone() });
        };
        let images = group(children);
        let path = || self.path.clone();
        let there = || images.iter().map(Named::shown).collect::<Vec<_>>();
        match choice {
            _ if images.is_empty() => Err(ImportError::NoImage { path: path() }),
            Choice::All => images.iter().map(|image| self.import_named(image, None)).collect(),
            Choice::Only(name) => match images.as_slice() {
                [image] => Ok(vec![self.import_named(image, name)?]),
                _ => Err(ImportError::Several { path: path(), there: there() }),
            },
            Choice::Named(wanted) => match images.iter().find(|image| image.is_called(&wanted)) {
                Some(image) => Ok(vec![self.import_named(image, None)?]),
                None => Err(ImportError::NoSuchImage { path: path(), wanted, there: there() }),
            },
        }
    }

    fn import_named(&self, image: &Named, name: Option<Reference>) -> Result<Image, ImportError> {
        let shown = image.shown();
        let unusable = self.unusable(&shown);
        let mut leases = Vec::new();
        let mut child = manifest::choose(&image.children, &self.platform).map_err(&unusable)?;
        // A single image is what its name means, for whatever platform it is.
        let target = if let [only] = image.children.as_slice() { only } else { child }.blob.digest;
        let mut vouched = child.platform.clone();
        let mut children;
        for _ in 0..manifest::DEEPEST {
            let (bytes, lease) = self.manifest(child.blob, &shown)?;
            let document = Document::parse(&bytes, Some(&child.media_type));
            match document.map_err(&unusable)? {
                Document::Manifest(manifest) => {
                    leases.push(lease);
                    leases.push(self.copy_blob(manifest.config)?);
                    let configuration = self.configuration(manifest.config, &shown)?;
                    let configuration =
                        check(manifest.layers.len(), configuration, &self.platform, vouched)
                            .map_err(&unusable)?;
                    for layer in &manifest.layers {
                        leases.push(self.copy_blob(*layer)?);
                    }
                    let reference = name.unwrap_or_else(|| self.reference(image));
                    let blob = child.blob;
                    return self.commit(reference, target, blob, &manifest, configuration, &leases);
                }
                Document::Index(next) => {
                    children = next;
                    child = manifest::choose(&children, &self.platform).map_err(&unusable)?;
                    vouched.clone_from(&child.platform);
                }
            }
        }
        Err(unusable(ManifestError::Depth(manifest::DEEPEST)))
    }

    fn reference(&self, image: &Named) -> Reference {
        if let Some(reference) = &image.full_name {
            return reference.clone();
        }
        let name = image.name.as_deref();
        // skopeo and podman write whole names here too.
        let whole = name.filter(|name| name.contains(['/', ':']));
        match whole.map(str::parse) {
            Some(Ok(reference)) => reference,
            _ => self.local_name(name),
        }
    }

    fn manifest(&self, blob: Blob, name: &str) -> Result<(Vec<u8>, Lease), ImportError> {
        manifest::check_size("manifest", blob.size, manifest::LARGEST_MANIFEST)
            .map_err(self.unusable(name))?;
        let member = member(blob);
        let bytes = self.document(&member, manifest::LARGEST_MANIFEST)?;
        let bytes =
            bytes.ok_or_else(|| ImportError::Missing { path: self.path.clone(), member })?;
        let (found, lease) = self.keep(&bytes)?;
        if found.digest != blob.digest {
            let (path, wanted) = (self.path.clone(), blob.digest);
            return Err(ImportError::Damaged { path, wanted, found: found.digest });
        }
        Ok((bytes, lease))
    }

    fn copy_blob(&self, blob: Blob) -> Result<Lease, ImportError> {
        self.copy(blob, &member(blob))
    }
}

fn member(blob: Blob) -> String {
    format!("blobs/sha256/{}", blob.digest.hex())
}

fn group(children: Vec<Child>) -> Vec<Named> {
    let mut images: Vec<Named> = Vec::new();
    for child in children {
        let name = child.annotations.get(NAME).cloned();
        let full_name = child.annotations.get(FULL_NAME).and_then(|name| name.parse().ok());
        let same =
            images.iter_mut().find(|image| image.name == name && image.full_name == full_name);
        match same {
            Some(image) => image.children.push(child),
            None => images.push(Named { name, full_name, children: vec![child] }),
        }
    }
    images
}
