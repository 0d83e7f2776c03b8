//! The images on this computer: names, and the blobs that they lead to.
//!
//! ```text
//! data_root/blobs/HEX    manifests, configurations and layers, by digest
//! data_root/images/HEX   records: what a name stands for
//! data_root/images.lock  held shared to write a record, exclusively to collect garbage
//! ```
//!
//! A pull holds leases on all blobs of its image until the record that names them is written.
//! Who collects garbage reads the records under the exclusive lock: a blob is then either in
//! a record or leased, and stays.

mod contents;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use costrel_store::{CreateError, Digest, EntryName, Lease, Removal, Store, StoreError};

use crate::{
    Image, Layer, Platform, Reference, StoreSettings, config::Configuration, manifest::Blob,
    record::Record,
};

pub use contents::{Removed, Usage};

/// All images of one user on this computer, shared by any number of processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) data_root: PathBuf,
    pub(crate) blobs: Store,
    records: Store,
    pub(crate) settings: StoreSettings,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the image store {}", path.display())]
pub struct OpenError {
    /// Its directory.
    pub path: PathBuf,
    /// What failed.
    #[source]
    pub source: StoreError,
}

/// A failure of the file system under the image store.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The store of blobs or of records failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the store cannot be used.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::Io { operation, path, source }
}

impl LocalError {
    /// What a failure to write the entry at `path` is.
    pub(crate) fn writing(path: PathBuf) -> impl FnOnce(CreateError<io::Error>) -> Self {
        move |error| match error {
            CreateError::Store(error) => Self::Store(error),
            CreateError::Writer(source) => Self::Io { operation: "write", path, source },
        }
    }
}

impl ImageStore {
    /// Opens the image store under `data_root`, making it where it is missing.
    ///
    /// # Errors
    /// [`OpenError`] if its directories cannot be made.
    pub fn open(data_root: &Path, settings: StoreSettings) -> Result<Self, OpenError> {
        let open = |name| {
            let path = data_root.join(name);
            Store::open(&path).map_err(|source| OpenError { path, source })
        };
        Ok(Self {
            inner: Arc::new(Inner {
                data_root: data_root.to_owned(),
                blobs: open("blobs")?,
                records: open("images")?,
                settings,
            }),
        })
    }

    /// The image of this name, if it and all its blobs are here. No network is used.
    ///
    /// A blob of the wrong length, or a configuration of the wrong content, is thrown away, and
    /// the image counts as missing.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<Image>, LocalError> {
        Ok(self.find(reference, platform)?.map(|(_, image)| image))
    }

    pub(crate) fn find(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<(Record, Image)>, LocalError> {
        let named = self.record(&Record::entry_name(reference, platform))?;
        let record = match named {
            Some(record) => Some(record),
            None if reference.digest().is_some() => {
                let mut records = self.records()?.into_iter().map(|(_, record)| record);
                records.find(|record| record.answers(reference) && record.wanted == *platform)
            }
            None => None,
        };
        let Some(record) = record else { return Ok(None) };
        Ok(self.assemble(&record, reference)?.map(|image| (record, image)))
    }

    fn record(&self, name: &EntryName) -> Result<Option<Record>, LocalError> {
        // Replaced by rename, so that it can be read without a lock.
        let path = self.inner.records.path(name);
        match fs::read(&path) {
            // A damaged record is as good as none: the next pull replaces it.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("read", &path)(error)),
        }
    }

    /// All names with what they stand for; none where the record is damaged.
    fn entries(&self) -> Result<Vec<(EntryName, Option<Record>)>, LocalError> {
        let names = self.inner.records.entries()?.into_iter().map(|entry| entry.name);
        names.map(|name| self.record(&name).map(|record| (name, record))).collect()
    }

    fn records(&self) -> Result<Vec<(EntryName, Record)>, LocalError> {
        let entries = self.entries()?.into_iter();
        Ok(entries.filter_map(|(name, record)| Some((name, record?))).collect())
    }

    /// Takes leases on all blobs of the record's image and reads its configuration.
    fn assemble(
        &self,
        record: &Record,
        reference: &Reference,
    ) -> Result<Option<Image>, LocalError> {
        let mut leases = Vec::with_capacity(record.layers.len() + 2);
        for blob in record.blobs() {
            let Some(lease) = self.lease(blob)? else { return Ok(None) };
            leases.push(lease);
        }
        let path = self.blob_path(&record.config.digest);
        let bytes = fs::read(&path).map_err(at("read", &path))?;
        let intact = Digest::of(&bytes) == record.config.digest;
        let Some(read) = intact.then(|| Configuration::parse(&bytes).ok()).flatten() else {
            drop(leases);
            self.forget_blob(record.config.digest)?;
            return Ok(None);
        };
        let layers = record.layers.iter().map(|layer| Layer {
            digest: layer.blob.digest,
            diff_id: layer.diff_id,
            compression: layer.compression,
            path: self.blob_path(&layer.blob.digest),
            size: layer.blob.size,
        });
        Ok(Some(Image {
            reference: reference.clone(),
            platform: record.platform.clone(),
            manifest_digest: record.manifest.digest,
            config_digest: record.config.digest,
            manifest_path: self.blob_path(&record.manifest.digest),
            config_path: path,
            config: read.config,
            layers: layers.collect(),
            _leases: leases.into(),
        }))
    }

    /// A lease on the blob if it is here and has the right length.
    pub(crate) fn lease(&self, blob: Blob) -> Result<Option<Lease>, LocalError> {
        let Some(lease) = self.inner.blobs.get(&EntryName::of_digest(&blob.digest))? else {
            return Ok(None);
        };
        let found = fs::metadata(lease.path()).map_err(at("look at", lease.path()))?.len();
        if found == blob.size {
            return Ok(Some(lease));
        }
        drop(lease);
        self.forget_blob(blob.digest)?;
        Ok(None)
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.blobs.path(&EntryName::of_digest(digest))
    }

    /// Makes the record's name stand for its image. The caller has leases on all its blobs.
    pub(crate) fn commit(&self, mut record: Record, leases: &[Lease]) -> Result<Image, LocalError> {
        debug_assert!(!leases.is_empty(), "unleased blobs may be collected meanwhile");
        record.pulled =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let name = Record::entry_name(&record.reference, &record.wanted);
        // Where nothing can be written, a name that stands for this image already is good enough.
        if let Err(error) = self.write_record(&name, &record)
            && !self.record(&name)?.is_some_and(|old| old.says_the_same(&record))
        {
            return Err(error);
        }
        self.assemble(&record, &record.reference)?.ok_or_else(|| {
            let missing = io::Error::new(io::ErrorKind::NotFound, "a blob vanished");
            at("use", &self.inner.records.path(&name))(missing)
        })
    }

    fn write_record(&self, name: &EntryName, record: &Record) -> Result<(), LocalError> {
        let _gate = self.gate(File::lock_shared)?;
        let json = serde_json::to_vec(&record)
            .map_err(|error| at("encode", &self.inner.records.path(name))(error.into()))?;
        self.inner
            .records
            .replace(name, |draft| draft.file().write_all(&json))
            .map_err(LocalError::writing(self.inner.records.path(name)))
    }

    fn gate(&self, lock: impl FnOnce(&File) -> io::Result<()>) -> Result<File, LocalError> {
        let path = self.inner.data_root.join("images.lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(at("open", &path))?;
        lock(&file).map_err(at("lock", &path))?;
        Ok(file)
    }

    /// Throws a blob away whose content turned out not to be what it should: the next pull
    /// fetches it again. Drop the images that use it first.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn forget_blob(&self, digest: Digest) -> Result<Removal, LocalError> {
        Ok(self.inner.blobs.remove(&EntryName::of_digest(&digest))?)
    }
}
