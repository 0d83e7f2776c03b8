//! Images from disk: OCI layouts, as directories and tars, and what `docker save` writes.

mod archive;
mod error;
mod layout;

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use costrel_store::{CreateError, Digest, EntryName, Hasher, Lease};

use crate::{
    BlobOutcome, Image, ImageSource, ImageStore, LocalError, ManifestError, Platform, PullPolicy,
    PullProgress, Reference,
    config::Configuration,
    manifest::{self, Blob, LARGEST_CONFIG, Manifest},
    progress::{self, Reporter},
    pull::{blocking, record},
    tree::{Content, Tree},
};

pub use error::{ImportError, ObtainError};

/// Which image of several is meant.
#[derive(Clone)]
enum Choice {
    All,
    /// The only one, under this name if there is one.
    Only(Option<Reference>),
    /// The one that has this name there.
    Named(String),
}

#[derive(Clone, Copy)]
enum Format {
    Layout,
    DockerArchive,
    Either,
}

/// One import, underway, on a thread that may block.
struct Import {
    store: ImageStore,
    path: PathBuf,
    tree: Tree,
    platform: Platform,
    reporter: Reporter,
    abandoned: Arc<AtomicBool>,
}

/// Ends the import when the future that awaits it is dropped.
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ImageStore {
    /// Imports all images of an OCI layout (a directory or a tar) or of a docker archive, each
    /// for `platform`. Tars may be compressed as a whole.
    ///
    /// With `name`, there must be one image, which gets that name. Otherwise images are called
    /// what they are called there; where that is only a tag, `localhost/FILE:TAG`.
    ///
    /// # Errors
    /// [`ImportError`].
    pub async fn import(
        &self,
        source: &Path,
        name: Option<&Reference>,
        platform: &Platform,
        progress: &dyn PullProgress,
    ) -> Result<Vec<Image>, ImportError> {
        let choice = match name {
            Some(name) => Choice::Only(Some(name.clone())),
            None => Choice::All,
        };
        self.import_some(source, Format::Either, choice, platform, progress).await
    }

    /// Gets one image from wherever `source` says: pulls it as `policy` says, or imports it.
    ///
    /// The policy is about registries. A layout or an archive is looked at each time, whatever the
    /// policy; what the store has of it is not copied again.
    ///
    /// # Errors
    /// [`ObtainError`].
    pub async fn obtain(
        &self,
        source: &ImageSource,
        platform: &Platform,
        policy: PullPolicy,
        progress: &dyn PullProgress,
    ) -> Result<Image, ObtainError> {
        let (path, format, name) = match source {
            ImageSource::Registry(reference) => {
                return Ok(self.pull(reference, platform, policy, progress).await?);
            }
            ImageSource::Layout { path, tag } | ImageSource::LayoutArchive { path, tag } => {
                (path, Format::Layout, tag.clone())
            }
            ImageSource::DockerArchive { path, name } => {
                (path, Format::DockerArchive, name.as_ref().map(ToString::to_string))
            }
        };
        let choice = name.map_or(Choice::Only(None), Choice::Named);
        let mut images = self.import_some(path, format, choice, platform, progress).await?;
        let image = images.pop();
        Ok(image.ok_or_else(|| ImportError::NoImage { path: path.clone() })?)
    }

    async fn import_some(
        &self,
        source: &Path,
        format: Format,
        choice: Choice,
        platform: &Platform,
        progress: &dyn PullProgress,
    ) -> Result<Vec<Image>, ImportError> {
        let (reporter, events) = progress::channel();
        let (store, path, platform) = (self.clone(), source.to_owned(), platform.clone());
        let abandon = AbandonOnDrop(Arc::default());
        let abandoned = abandon.0.clone();
        let work = blocking(move || {
            let tree = Tree::open(&path, &store.inner.data_root)
                .map_err(|source| ImportError::Read { path: path.clone(), source })?;
            let import = Import { store, path, tree, platform, reporter, abandoned };
            import.run(format, choice)
        });
        events.relay(progress, work).await
    }
}

impl Import {
    fn run(&self, format: Format, choice: Choice) -> Result<Vec<Image>, ImportError> {
        // What docker writes since version 25 is both; the layout keeps the digests.
        if !matches!(format, Format::DockerArchive)
            && let Some(index) = self.document("index.json", manifest::LARGEST_MANIFEST)?
        {
            return self.import_layout(&index, choice);
        }
        if !matches!(format, Format::Layout)
            && let Some(list) = self.document("manifest.json", manifest::LARGEST_MANIFEST)?
        {
            return self.import_archive(&list, choice);
        }
        Err(ImportError::NoImage { path: self.path.clone() })
    }

    fn unreadable(&self) -> impl Fn(io::Error) -> ImportError {
        let path = self.path.clone();
        move |source| ImportError::Read { path: path.clone(), source }
    }

    fn unusable(&self, name: &str) -> impl Fn(ManifestError) -> ImportError {
        let (path, name) = (self.path.clone(), name.to_owned());
        move |error| ImportError::Manifest {
            path: path.clone(),
            name: name.clone(),
            source: Box::new(error),
        }
    }

    /// A small file as a whole, if there is one.
    fn document(&self, member: &str, largest: u64) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(content) = self.tree.read(member).map_err(self.unreadable())? else {
            return Ok(None);
        };
        manifest::check_size("document", content.size, largest).map_err(self.unusable(member))?;
        let mut bytes = Vec::new();
        content.reader.take(largest).read_to_end(&mut bytes).map_err(self.unreadable())?;
        Ok(Some(bytes))
    }

    fn content(&self, member: &str) -> Result<Content<'_>, ImportError> {
        self.tree.read(member).map_err(self.unreadable())?.ok_or_else(|| ImportError::Missing {
            path: self.path.clone(),
            member: member.to_owned(),
        })
    }

    /// Stores what is already at hand.
    fn keep(&self, bytes: &[u8]) -> Result<(Blob, Lease), ImportError> {
        let blob = Blob { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let lease = match self.store.lease(blob)? {
            Some(lease) => lease,
            None => {
                let name = EntryName::of_digest(&blob.digest);
                let write = |draft: &mut costrel_store::Draft| draft.file().write_all(bytes);
                self.store
                    .inner
                    .blobs
                    .get_or_create(&name, write)
                    .map_err(LocalError::writing(self.store.blob_path(&blob.digest)))?
            }
        };
        Ok((blob, lease))
    }

    /// Copies a blob into the store unless it is there, and verifies it on the way.
    fn copy(&self, blob: Blob, member: &str) -> Result<Lease, ImportError> {
        let outcome = |lease: Lease| {
            let outcome = if lease.created() { BlobOutcome::Fetched } else { BlobOutcome::Cached };
            self.reporter.finished(blob.digest, outcome);
            lease
        };
        if let Some(lease) = self.store.lease(blob)? {
            return Ok(outcome(lease));
        }
        let content = self.content(member)?;
        self.reporter.started(blob.digest, blob.size);
        let name = EntryName::of_digest(&blob.digest);
        let created = self.store.inner.blobs.get_or_create(&name, |draft| {
            let found = self.transfer(content, Some(draft.file()), blob.digest)?;
            if found != blob.digest {
                let (path, wanted) = (self.path.clone(), blob.digest);
                return Err(ImportError::Damaged { path, wanted, found });
            }
            Ok(())
        });
        match created {
            Ok(lease) => Ok(outcome(lease)),
            Err(CreateError::Store(error)) => Err(error.into()),
            Err(CreateError::Writer(error)) => Err(error),
        }
    }

    /// Reads all of `content`, writes it if there is a file, and gives its digest.
    fn transfer(
        &self,
        mut content: Content<'_>,
        mut file: Option<&mut File>,
        reported: Digest,
    ) -> Result<Digest, ImportError> {
        let unreadable =
            |source| ImportError::Copy { path: self.path.clone(), digest: reported, source };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        let mut position = 0;
        loop {
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(unreadable(io::Error::other("the import was given up")));
            }
            let read = content.reader.read(&mut buffer).map_err(unreadable)?;
            if read == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..read]);
            if let Some(file) = &mut file {
                let target = self.store.blob_path(&reported);
                file.write_all(&buffer[..read]).map_err(crate::store::at("write", &target))?;
                position += read as u64;
                self.reporter.advanced(reported, position);
            }
        }
    }

    /// Reads the configuration that has just been stored or copied.
    fn configuration(&self, blob: Blob, name: &str) -> Result<Configuration, ImportError> {
        let path = self.store.blob_path(&blob.digest);
        manifest::check_size("configuration", blob.size, LARGEST_CONFIG)
            .map_err(self.unusable(name))?;
        let bytes = fs::read(&path).map_err(crate::store::at("read", &path))?;
        Configuration::parse(&bytes).map_err(self.unusable(name))
    }

    /// Names the image; its blobs are all in the store.
    fn commit(
        &self,
        reference: Reference,
        target: Digest,
        manifest_blob: Blob,
        manifest: &Manifest,
        configuration: Configuration,
        leases: &[Lease],
    ) -> Result<Image, ImportError> {
        let wanted = self.platform.clone();
        let record =
            record(&self.store, reference, wanted, target, manifest_blob, manifest, configuration)?;
        Ok(self.store.commit(record, leases)?)
    }

    /// What an image is called that has only a tag, or nothing: after its file.
    fn local_name(&self, tag: Option<&str>) -> Reference {
        let stem = self.path.file_name().map(|name| name.to_string_lossy().to_lowercase());
        let stem = stem.unwrap_or_default();
        let stem = stem.split(".tar").next().unwrap_or_default();
        let letters = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let name: String = stem.chars().map(letters).collect();
        let name = match name.trim_matches('-') {
            "" => "image",
            name => name,
        };
        let tagged = |tag: &str| format!("localhost/{name}:{tag}").parse();
        let fallback = || tagged("latest").or_else(|_| "localhost/image".parse());
        match tag.map(tagged) {
            Some(Ok(reference)) => reference,
            _ => match fallback() {
                Ok(reference) => reference,
                Err(error) => unreachable!("a constant name: {error}"),
            },
        }
    }
}
