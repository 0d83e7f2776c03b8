//! From a name to an image, over the network where need be.

mod transfer;

use std::{io::Write as _, sync::Arc};

use costrel_store::{Digest, EntryName, Lease, StoreError};
use tokio::task::spawn_blocking;

use crate::{
    Compression, Image, ImageStore, LocalError, Platform, PullProgress, Reference,
    config::Configuration,
    manifest::{self, Blob, Document, Manifest, ManifestError},
    progress::{self, Reporter},
    record::{LayerRecord, Record},
    registry::{BlobError, FetchedManifest, Registry, RegistryError},
};

/// Whether the registry is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PullPolicy {
    /// Always: a tag may have moved. What is here already is not transferred again.
    Always,
    /// Only if the image is not here. No network is used otherwise.
    #[default]
    Missing,
    /// Never.
    Never,
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// It is not here and must not be fetched.
    #[error("{reference} for {platform} is not here, and pulling is off")]
    NotLocal {
        /// Its name.
        reference: Reference,
        /// The platform that was asked for.
        platform: Platform,
    },
    /// The registry knows no such image.
    #[error("there is no image {reference}: {registry} answers {answer}")]
    NotFound {
        /// Its name.
        reference: Reference,
        /// The registry's host.
        registry: String,
        /// What the registry says.
        answer: String,
    },
    /// The registry does not give it.
    #[error("cannot pull {reference}")]
    Registry {
        /// Its name.
        reference: Reference,
        /// What failed.
        #[source]
        source: Box<RegistryError>,
    },
    /// There is an image, but it cannot be used.
    #[error("cannot use the image {reference}")]
    Manifest {
        /// Its name.
        reference: Reference,
        /// What is wrong with it.
        #[source]
        source: Box<ManifestError>,
    },
    /// One of its blobs cannot be had.
    #[error("cannot fetch the blob {digest} of {reference} from {registry}")]
    Blob {
        /// The image's name.
        reference: Reference,
        /// The blob.
        digest: Digest,
        /// The registry's host.
        registry: String,
        /// What failed.
        #[source]
        source: Box<BlobError>,
    },
    /// The store failed.
    #[error(transparent)]
    Local(#[from] LocalError),
}

impl From<StoreError> for PullError {
    fn from(error: StoreError) -> Self {
        Self::Local(error.into())
    }
}

/// One pull, underway.
struct Pull {
    store: ImageStore,
    reference: Reference,
    platform: Platform,
    registry: Arc<Registry>,
    reporter: Reporter,
    // What the pull has so far; kept until its record is written.
    leases: Vec<Lease>,
}

/// Runs what blocks, off the executor.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl ImageStore {
    /// Gets the image, from the registry as `policy` says. When this returns, all its blobs are
    /// in the store, verified. Blobs that are there already, from whatever image, are not
    /// transferred again; several processes transfer each blob once.
    ///
    /// May be dropped at any time: transfers then end, and leave nothing half-written.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: PullPolicy,
        progress: &dyn PullProgress,
    ) -> Result<Image, PullError> {
        let (reporter, events) = progress::channel();
        events.relay(progress, self.pull_quietly(reference, platform, policy, reporter)).await
    }

    async fn pull_quietly(
        &self,
        reference: &Reference,
        platform: &Platform,
        policy: PullPolicy,
        reporter: Reporter,
    ) -> Result<Image, PullError> {
        let local = {
            let (store, reference, platform) = (self.clone(), reference.clone(), platform.clone());
            blocking(move || store.find(&reference, &platform)).await?
        };
        let local = match (local, policy) {
            (Some((_, image)), PullPolicy::Missing | PullPolicy::Never) => return Ok(image),
            // A digest does not move.
            (Some((_, image)), PullPolicy::Always) if reference.digest().is_some() => {
                return Ok(image);
            }
            (None, PullPolicy::Never) => {
                return Err(PullError::NotLocal {
                    reference: reference.clone(),
                    platform: platform.clone(),
                });
            }
            (local, _) => local,
        };
        let failed =
            |error| PullError::Registry { reference: reference.clone(), source: Box::new(error) };
        let config = &self.inner.settings.registry;
        let registry = Registry::connect(config, reference, &reporter).await.map_err(failed)?;
        if let Some((record, image)) = local {
            // Asks for less than the manifest, and does not count against Docker Hub's limit.
            match registry.manifest_digest(&reference.version()).await {
                Ok(Some(digest)) if digest == record.target => return Ok(image),
                Err(error @ RegistryError::Transport { .. }) => return Err(failed(error)),
                // Not every registry answers this well.
                _ => {}
            }
        }
        let pull = Pull {
            store: self.clone(),
            reference: reference.clone(),
            platform: platform.clone(),
            registry: Arc::new(registry),
            reporter,
            leases: Vec::new(),
        };
        pull.run().await
    }
}

impl Pull {
    async fn run(mut self) -> Result<Image, PullError> {
        let (target, fetched, vouched, manifest) = self.find_manifest().await?;
        let manifest_blob = Blob { digest: fetched.digest, size: fetched.bytes.len() as u64 };
        self.keep(manifest_blob, fetched.bytes).await?;
        let configuration = self.configuration(manifest.config).await?;
        let configuration = check(manifest.layers.len(), configuration, &self.platform, vouched)
            .map_err(|error| self.unusable(error))?;
        self.fetch(manifest.layers.clone()).await?;
        let Self { store, reference, platform, leases, .. } = self;
        let committed = blocking(move || {
            let record = record(
                &store,
                reference,
                platform,
                target,
                manifest_blob,
                &manifest,
                configuration,
            )?;
            store.commit(record, &leases)
        });
        Ok(committed.await?)
    }

    /// Follows indexes to the manifest for the platform. Gives the digest that the name led to,
    /// the manifest, and the platform that an index vouches for.
    async fn find_manifest(
        &self,
    ) -> Result<(Digest, FetchedManifest, Option<Platform>, Manifest), PullError> {
        let unusable = |error| self.unusable(error);
        let version = self.reference.version();
        let mut fetched = self
            .registry
            .manifest(&version, self.reference.digest())
            .await
            .map_err(|error| self.not_found(error))?;
        let target = fetched.digest;
        let mut vouched = None;
        for _ in 0..manifest::DEEPEST {
            let document = Document::parse(&fetched.bytes, fetched.media_type.as_deref());
            match document.map_err(unusable)? {
                Document::Manifest(manifest) => {
                    return Ok((target, fetched, vouched, manifest));
                }
                Document::Index(children) => {
                    let child = manifest::choose(&children, &self.platform).map_err(unusable)?;
                    vouched.clone_from(&child.platform);
                    let digest = child.blob.digest;
                    let next = self.registry.manifest(&digest.to_string(), Some(digest)).await;
                    fetched = next.map_err(|error| self.not_found(error))?;
                    fetched.media_type.get_or_insert_with(|| child.media_type.clone());
                }
            }
        }
        Err(unusable(ManifestError::Depth(manifest::DEEPEST)))
    }

    fn unusable(&self, error: ManifestError) -> PullError {
        PullError::Manifest { reference: self.reference.clone(), source: Box::new(error) }
    }

    fn not_found(&self, error: RegistryError) -> PullError {
        let reference = self.reference.clone();
        match error {
            RegistryError::NotFound { host, answer } => {
                PullError::NotFound { reference, registry: host, answer }
            }
            error => PullError::Registry { reference, source: Box::new(error) },
        }
    }

    /// Stores what is already at hand.
    async fn keep(&mut self, blob: Blob, bytes: Vec<u8>) -> Result<(), PullError> {
        let store = self.store.clone();
        let lease = blocking(move || {
            if let Some(lease) = store.lease(blob)? {
                return Ok::<_, LocalError>(lease);
            }
            let name = EntryName::of_digest(&blob.digest);
            let created =
                store.inner.blobs.get_or_create(&name, |draft| draft.file().write_all(&bytes));
            created.map_err(LocalError::writing(store.blob_path(&blob.digest)))
        });
        self.leases.push(lease.await?);
        Ok(())
    }

    async fn configuration(&mut self, blob: Blob) -> Result<Configuration, PullError> {
        // Twice, because what is in the cache may be damaged.
        for last in [false, true] {
            self.fetch(vec![blob]).await?;
            let path = self.store.blob_path(&blob.digest);
            let bytes =
                blocking(move || std::fs::read(&path).map_err(crate::store::at("read", &path)));
            let bytes = bytes.await?;
            if last || Digest::of(&bytes) == blob.digest {
                return Configuration::parse(&bytes).map_err(|error| self.unusable(error));
            }
            self.leases.pop();
            let store = self.store.clone();
            blocking(move || store.forget_blob(blob.digest)).await?;
        }
        unreachable!("the second round returns")
    }
}

/// Whether configuration and manifest, of so many layers, agree, and with what was asked for. Where an index says
/// what the image is for, it is believed: configurations are often careless about it.
pub(crate) fn check(
    layers: usize,
    mut configuration: Configuration,
    wanted: &Platform,
    vouched: Option<Platform>,
) -> Result<Configuration, ManifestError> {
    if let Some(platform) = vouched {
        configuration.platform = platform;
    } else if wanted.distance(&configuration.platform).is_none() {
        return Err(ManifestError::Platform {
            wanted: wanted.clone(),
            offered: vec![configuration.platform],
        });
    }
    let diff_ids = configuration.diff_ids.len();
    if layers != diff_ids {
        return Err(ManifestError::LayerCount { layers, diff_ids });
    }
    Ok(configuration)
}

/// The record of an image whose blobs are all in the store.
pub(crate) fn record(
    store: &ImageStore,
    reference: Reference,
    wanted: Platform,
    target: Digest,
    manifest_blob: Blob,
    manifest: &Manifest,
    configuration: Configuration,
) -> Result<Record, LocalError> {
    let layers = manifest.layers.iter().zip(configuration.diff_ids).map(|(blob, diff_id)| {
        let path = store.blob_path(&blob.digest);
        let compression = Compression::of_file(&path).map_err(crate::store::at("read", &path))?;
        Ok(LayerRecord { blob: *blob, diff_id, compression })
    });
    Ok(Record {
        reference,
        wanted,
        platform: configuration.platform,
        target,
        manifest: manifest_blob,
        config: manifest.config,
        layers: layers.collect::<Result<_, LocalError>>()?,
        created: configuration.config.created,
        pulled: 0,
    })
}
