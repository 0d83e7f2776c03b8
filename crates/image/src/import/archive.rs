//! What `docker save` writes.

use std::io::Read as _;

use costrel_store::Digest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Choice, Import, ImportError};
use crate::{
    Compression, Image, Reference,
    manifest::{self, Blob, LARGEST_CONFIG, Manifest},
    pull::check,
};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Entry {
    fn names(&self) -> impl Iterator<Item = Reference> {
        self.repo_tags.iter().flatten().filter_map(|name| name.parse().ok())
    }
}

impl Import {
    pub(super) fn import_archive(
        &self,
        list: &[u8],
        choice: Choice,
    ) -> Result<Vec<Image>, ImportError> {
        let entries: Vec<Entry> =
            manifest::parse("manifest.json", list).map_err(self.unusable("manifest.json"))?;
        let path = || self.path.clone();
        let there = || entries.iter().flat_map(|entry| entry.names().map(String::from)).collect();
        match choice {
            _ if entries.is_empty() => Err(ImportError::NoImage { path: path() }),
            Choice::All => {
                let mut images = Vec::new();
                for entry in &entries {
                    let mut names: Vec<Reference> = entry.names().collect();
                    if names.is_empty() {
                        names.push(self.local_name(None));
                    }
                    for name in names {
                        images.push(self.import_entry(entry, name)?);
                    }
                }
                Ok(images)
            }
            Choice::Only(name) => match entries.as_slice() {
                [entry] => {
                    let name = name.or_else(|| entry.names().next());
                    let name = name.unwrap_or_else(|| self.local_name(None));
                    Ok(vec![self.import_entry(entry, name)?])
                }
                _ => Err(ImportError::Several { path: path(), there: there() }),
            },
            Choice::Named(wanted) => {
                let found = entries.iter().find_map(|entry| {
                    let name = entry.names().find(|name| name.to_string() == wanted)?;
                    Some((entry, name))
                });
                match found {
                    Some((entry, name)) => Ok(vec![self.import_entry(entry, name)?]),
                    None => Err(ImportError::NoSuchImage { path: path(), wanted, there: there() }),
                }
            }
        }
    }

    /// An archive has no manifest: one is made, always the same for the same image.
    fn import_entry(&self, entry: &Entry, name: Reference) -> Result<Image, ImportError> {
        let shown = name.to_string();
        let config = self.document(&entry.config, LARGEST_CONFIG)?;
        let config = config.ok_or_else(|| ImportError::Missing {
            path: self.path.clone(),
            member: entry.config.clone(),
        })?;
        let (config, lease) = self.keep(&config)?;
        let mut leases = vec![lease];
        // What is for another platform is refused before it is copied.
        let configuration = self.configuration(config, &shown)?;
        let configuration = check(entry.layers.len(), configuration, &self.platform, None)
            .map_err(self.unusable(&shown))?;
        let mut manifest = Manifest { config, layers: Vec::new() };
        let mut described = Vec::new();
        for (member, diff_id) in entry.layers.iter().zip(&configuration.diff_ids) {
            let (blob, media_type) = self.layer(member, *diff_id)?;
            leases.push(self.copy(blob, member)?);
            described.push(descriptor(media_type, blob));
            manifest.layers.push(blob);
        }
        let document = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": described,
        });
        let (blob, lease) = self.keep(document.to_string().as_bytes())?;
        leases.push(lease);
        self.commit(name, blob.digest, blob, &manifest, configuration, &leases)
    }

    /// What a layer is stored as. That of a tar which is not compressed, as docker writes them,
    /// is known beforehand: its diff id.
    fn layer(&self, member: &str, diff_id: Digest) -> Result<(Blob, &'static str), ImportError> {
        let mut content = self.content(member)?;
        let size = content.size;
        let mut start = Vec::with_capacity(4);
        content.reader.by_ref().take(4).read_to_end(&mut start).map_err(self.unreadable())?;
        let media_type = match Compression::detect(&start) {
            Compression::Plain => {
                return Ok((
                    Blob { digest: diff_id, size },
                    "application/vnd.oci.image.layer.v1.tar",
                ));
            }
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        };
        let digest = self.transfer(self.content(member)?, None, diff_id)?;
        Ok((Blob { digest, size }, media_type))
    }
}

fn descriptor(media_type: &str, blob: Blob) -> Value {
    json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.size })
}
