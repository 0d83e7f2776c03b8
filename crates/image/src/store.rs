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

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use costrel_store::{CreateError, Digest, EntryName, Lease, Removal, Store, StoreError};

use crate::{
    Image, ImageRecord, Layer, Platform, Reference, StoreSettings, config::Configuration,
    manifest::Blob, record::Record,
};

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

/// What [`ImageStore::remove`] and [`ImageStore::prune`] took away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    /// Names.
    pub images: usize,
    /// Blobs that no other name needs and nobody uses.
    pub blobs: usize,
    /// What those occupied on the disk, in bytes.
    pub bytes: u64,
}

/// What the store occupies, for `df`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Names.
    pub images: usize,
    /// Blobs.
    pub blobs: usize,
    /// The blobs' lengths, in bytes.
    pub apparent_size: u64,
    /// What they occupy on the disk, in bytes.
    pub allocated_size: u64,
    /// How much of that no name needs: [`ImageStore::prune`] removes it.
    pub reclaimable: u64,
}

pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LocalError {
    let path = path.to_owned();
    move |source| LocalError::Io { operation, path, source }
}

impl From<CreateError<io::Error>> for LocalError {
    fn from(error: CreateError<io::Error>) -> Self {
        match error {
            CreateError::Store(error) => Self::Store(error),
            CreateError::Writer(source) => {
                Self::Io { operation: "write", path: PathBuf::from("a new entry"), source }
            }
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
        let _gate = self.gate(File::lock_shared)?;
        let name = Record::entry_name(&record.reference, &record.wanted);
        let json = serde_json::to_vec(&record)
            .map_err(|error| at("encode", &self.inner.records.path(&name))(error.into()))?;
        self.inner.records.replace(&name, |draft| draft.file().write_all(&json))?;
        self.assemble(&record, &record.reference)?.ok_or_else(|| {
            let missing = io::Error::new(io::ErrorKind::NotFound, "a blob vanished");
            at("use", &self.inner.records.path(&name))(missing)
        })
    }

    fn gate(&self, lock: impl FnOnce(&File) -> io::Result<()>) -> Result<File, LocalError> {
        let path = self.inner.data_root.join("images.lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(at("open", &path))?;
        lock(&file).map_err(at("lock", &path))?;
        Ok(file)
    }

    /// All names and what they stand for, by name.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn list(&self) -> Result<Vec<ImageRecord>, LocalError> {
        let mut list: Vec<_> = self.records()?.iter().map(|(_, record)| record.summary()).collect();
        list.sort_by(|a, b| (&a.reference, &a.platform).cmp(&(&b.reference, &b.platform)));
        Ok(list)
    }

    /// Removes the name, for all platforms, and the blobs that nobody else needs. Blobs that are
    /// in use stay until [`Self::prune`].
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn remove(&self, reference: &Reference) -> Result<Removed, LocalError> {
        let _gate = self.gate(File::lock)?;
        let (doomed, kept): (Vec<_>, Vec<_>) =
            self.records()?.into_iter().partition(|(_, record)| record.answers(reference));
        let mut removed = Removed::default();
        for (name, _) in &doomed {
            removed.images += usize::from(self.inner.records.remove(name)? == Removal::Removed);
        }
        let used: HashSet<Digest> = digests(&kept).collect();
        let candidates: HashSet<Digest> =
            digests(&doomed).filter(|digest| !used.contains(digest)).collect();
        for digest in candidates {
            self.remove_blob(&EntryName::of_digest(&digest), &mut removed)?;
        }
        Ok(removed)
    }

    /// Removes all blobs that no name needs and nobody uses, and records that cannot be read.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn prune(&self) -> Result<Removed, LocalError> {
        let _gate = self.gate(File::lock)?;
        let mut removed = Removed::default();
        for (name, record) in self.entries()? {
            if record.is_none() {
                self.inner.records.remove(&name)?;
            }
        }
        let used = self.used_names()?;
        for entry in self.inner.blobs.entries()? {
            if !used.contains(&entry.name) {
                self.remove_blob(&entry.name, &mut removed)?;
            }
        }
        self.sweep()?;
        Ok(removed)
    }

    fn used_names(&self) -> Result<HashSet<EntryName>, LocalError> {
        Ok(digests(&self.records()?).map(|digest| EntryName::of_digest(&digest)).collect())
    }

    fn remove_blob(&self, name: &EntryName, removed: &mut Removed) -> Result<(), LocalError> {
        let size = fs::metadata(self.inner.blobs.path(name)).map_or(0, |blob| blob.blocks() * 512);
        if self.inner.blobs.remove(name)? == Removal::Removed {
            removed.blobs += 1;
            removed.bytes += size;
        }
        Ok(())
    }

    /// Removes what killed processes left half-written. Returns how many files that were.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn sweep(&self) -> Result<usize, LocalError> {
        Ok(self.inner.blobs.sweep()? + self.inner.records.sweep()?)
    }

    /// What the store occupies.
    ///
    /// # Errors
    /// [`LocalError`].
    pub fn usage(&self) -> Result<Usage, LocalError> {
        let used = self.used_names()?;
        let mut usage = Usage { images: self.records()?.len(), ..Usage::default() };
        for entry in self.inner.blobs.entries()? {
            usage.blobs += 1;
            usage.apparent_size += entry.apparent_size;
            usage.allocated_size += entry.allocated_size;
            if !used.contains(&entry.name) {
                usage.reclaimable += entry.allocated_size;
            }
        }
        Ok(usage)
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

fn digests(records: &[(EntryName, Record)]) -> impl Iterator<Item = Digest> {
    records.iter().flat_map(|(_, record)| record.blobs()).map(|blob| blob.digest)
}
