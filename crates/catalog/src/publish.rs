//! Versions: `$LATEST`, frozen.

use std::sync::Arc;

use costrel_store::Digest;

use crate::{
    ApplyOn, Catalog, CatalogError, FunctionReference, FunctionVersion, Invalid, State, Version,
    VersionContent,
    record::{FunctionRecord, Published},
    update::check_revision,
    version::new_revision,
};

/// A request to publish `$LATEST` as a version.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PublishVersion {
    /// What `$LATEST`'s code must be: `CodeSha256`.
    pub code_sha256: Option<String>,
    /// In place of `$LATEST`'s description.
    pub description: Option<String>,
    /// What `$LATEST`'s revision must be.
    pub revision_id: Option<String>,
}

impl Catalog {
    /// Publishes `$LATEST`. If it is still what was published last, that version is returned, and
    /// none is made.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn publish_version(
        &self,
        reference: &FunctionReference,
        request: PublishVersion,
    ) -> Result<FunctionVersion, CatalogError> {
        let (version, pending) = self.change_uploaded(reference, |record| {
            check_revision(record, request.revision_id.as_deref())?;
            let current = record.latest.code.sha256();
            if let Some(given) = request.code_sha256.filter(|given| *given != current) {
                return Err(Invalid::CodeSha256 { given, current }.into());
            }
            Ok::<_, CatalogError>(self.publish_record(record, request.description))
        })?;
        if pending {
            self.begin_preparation(&version);
        }
        Ok(version)
    }

    /// The version that `$LATEST` is published as, and whether it has to be prepared.
    pub(crate) fn publish_record(
        &self,
        record: &mut FunctionRecord,
        description: Option<String>,
    ) -> (FunctionVersion, bool) {
        let source = fingerprint(&record.latest);
        let same = record.published.as_ref().filter(|published| published.source == source);
        if let Some(published) = same
            && let Some(version) = self.version(record, Version::Number(published.version))
        {
            return (version, false);
        }
        let mut content = (*record.latest).clone();
        content.revision_id = new_revision();
        if let Some(description) = description {
            content.configuration.description = description;
        }
        let pending = content.configuration.snap_start == ApplyOn::PublishedVersions
            && self.preparation().is_some();
        content.state = if pending { State::Pending } else { State::Active };
        record.last_version += 1;
        let number = record.last_version;
        record.published = Some(Published { version: number, source });
        let content = Arc::new(content);
        record.versions.insert(number, Arc::clone(&content));
        let version = FunctionVersion {
            home: Arc::clone(self.home()),
            name: Arc::clone(&record.name),
            version: Version::Number(number),
            content,
        };
        (version, pending)
    }
}

/// What has to change for a new version to be one.
fn fingerprint(content: &VersionContent) -> Digest {
    let configuration = serde_json::to_vec(&content.configuration).unwrap_or_default();
    let code = serde_json::to_vec(&content.code).unwrap_or_default();
    let mut hasher = costrel_store::Hasher::new();
    hasher.field(&configuration);
    hasher.field(&code);
    hasher.finish()
}
