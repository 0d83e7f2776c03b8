//! The directory of snapshots: finding, taking, listing, evicting.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use costrel_store::{DirectoryDraft, EntryName, Lease, Removal, Store};
use costrel_vmm::SnapshotFiles;

use crate::{
    Fact, Refusal, SnapshotError, SnapshotKey, checksum,
    error::at,
    manifest::{FileRecord, Manifest},
    seal::Seal,
};

/// The snapshots of one user, shared by all processes.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    store: Store,
    /// In bytes.
    limit: u64,
}

/// A snapshot that was found as it should be. It stays usable while this lives.
#[derive(Debug)]
pub struct Snapshot {
    files: SnapshotFiles,
    scratch: File,
    note: String,
    _lease: Lease,
}

/// What looking for a snapshot came to.
#[derive(Debug)]
pub enum Found {
    /// It is there.
    Snapshot(Snapshot),
    /// There is none, or it is being taken at this moment.
    Nothing,
    /// There was one, which could not be used and was thrown away.
    Refused(Refusal),
}

/// A snapshot that is being taken. Dropped, nothing is left of it.
#[derive(Debug)]
pub struct SnapshotDraft {
    store: SnapshotStore,
    key: SnapshotKey,
    files: SnapshotFiles,
    scratch: File,
    draft: DirectoryDraft,
}

/// A snapshot as it is listed.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its name: 64 hexadecimal digits.
    pub name: EntryName,
    /// What it is of; nothing where its manifest cannot be read.
    pub facts: Vec<Fact>,
    /// When it was taken.
    pub created: Option<SystemTime>,
    /// When a machine was restored from it last, or when it was taken.
    pub last_used: SystemTime,
    /// The length of its files, in bytes.
    pub apparent_size: u64,
    /// What they occupy on the disk, in bytes.
    pub allocated_size: u64,
}

const MANIFEST: &str = "manifest";
const VERIFIED: &str = "verified";
const STATE: &str = "state";
const MEMORY: &str = "memory";
const SCRATCH: &str = "scratch";

impl SnapshotStore {
    /// Opens the snapshots in this directory, making it where it is missing. `limit` is how much
    /// they may occupy together, in bytes.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn open(root: &Path, limit: u64) -> Result<Self, SnapshotError> {
        Ok(Self { store: Store::open(root)?, limit })
    }

    /// The snapshot of this key. Reads all of it, if it was not read since the host was started.
    ///
    /// # Errors
    /// [`SnapshotError`] if the store cannot be used. What is wrong with a snapshot is no error.
    pub fn find(&self, key: &SnapshotKey) -> Result<Found, SnapshotError> {
        let Some(lease) = self.store.try_get(&key.entry())? else { return Ok(Found::Nothing) };
        match Checked::open(lease.path(), key) {
            Ok(Checked { files: [state, memory, scratch], note }) => {
                lease.mark_used();
                let files = SnapshotFiles { state, memory };
                Ok(Found::Snapshot(Snapshot { files, scratch, note, _lease: lease }))
            }
            Err(refusal) => {
                self.discard(&lease);
                Ok(Found::Refused(refusal))
            }
        }
    }

    /// Throws a snapshot away from which no machine could be restored.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn forget(&self, key: &SnapshotKey) -> Result<(), SnapshotError> {
        if let Some(lease) = self.store.try_get(&key.entry())? {
            self.discard(&lease);
        }
        Ok(())
    }

    fn discard(&self, lease: &Lease) {
        if let Err(error) = self.store.discard(lease) {
            tracing::warn!(%error, "a snapshot that is of no use stays");
        }
    }

    /// Begins a snapshot. Nothing if there is one already, or somebody takes it at this moment.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn begin(&self, key: &SnapshotKey) -> Result<Option<SnapshotDraft>, SnapshotError> {
        let Some(draft) = self.store.begin_directory(&key.entry())? else { return Ok(None) };
        let create = |name| create(&draft.path().join(name));
        let files = SnapshotFiles { state: create(STATE)?, memory: create(MEMORY)? };
        let scratch = create(SCRATCH)?;
        Ok(Some(SnapshotDraft { store: self.clone(), key: key.clone(), files, scratch, draft }))
    }

    /// All snapshots, the one that was used last first.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn entries(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let describe = |entry: costrel_store::EntryInfo| {
            let bytes = fs::read(entry.path.join(MANIFEST)).unwrap_or_default();
            let manifest = Manifest::decode(&bytes).ok();
            let created = manifest.as_ref().map(|manifest| {
                SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(manifest.created)
            });
            SnapshotInfo {
                name: entry.name,
                facts: manifest.map(|manifest| manifest.key.facts().to_vec()).unwrap_or_default(),
                created,
                last_used: entry.last_used,
                apparent_size: entry.apparent_size,
                allocated_size: entry.allocated_size,
            }
        };
        let mut entries: Vec<_> = self.store.entries()?.into_iter().map(describe).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.last_used));
        Ok(entries)
    }

    /// Removes a snapshot, unless a machine is restored from it or it is taken at this moment.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn remove(&self, name: &EntryName) -> Result<Removal, SnapshotError> {
        Ok(self.store.remove(name)?)
    }

    /// Whether somebody uses or takes it at this moment.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn is_used(&self, name: &EntryName) -> Result<bool, SnapshotError> {
        Ok(self.store.is_used(name)?)
    }

    /// Removes what killed processes left half-taken. Returns how many that were.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn sweep(&self) -> Result<usize, SnapshotError> {
        Ok(self.store.sweep()?)
    }

    /// Removes those that were not used for longest, until all together occupy no more than `limit`
    /// bytes. Returns those that were removed.
    ///
    /// # Errors
    /// [`SnapshotError::Store`].
    pub fn prune(&self, limit: u64) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let entries = self.entries()?;
        let mut occupied: u64 = entries.iter().map(|entry| entry.allocated_size).sum();
        let mut removed = Vec::new();
        for entry in entries.into_iter().rev() {
            if occupied <= limit {
                break;
            }
            if self.store.remove(&entry.name)? == Removal::Removed {
                occupied -= entry.allocated_size;
                removed.push(entry);
            }
        }
        Ok(removed)
    }

    /// How much the snapshots may occupy together, in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

impl Snapshot {
    /// The machine's files.
    #[must_use]
    pub fn files(&self) -> &SnapshotFiles {
        &self.files
    }

    /// What was noted when it was taken ([`SnapshotDraft::publish`]).
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The disk that the machine could write to, as it was.
    #[must_use]
    pub fn scratch(&self) -> &File {
        &self.scratch
    }
}

impl SnapshotDraft {
    /// Where the machine is saved.
    #[must_use]
    pub fn files(&self) -> &SnapshotFiles {
        &self.files
    }

    /// Where its disk is copied to.
    #[must_use]
    pub fn scratch(&self) -> &File {
        &self.scratch
    }

    /// Completes the snapshot with the checksums of its files, which it reads, and gives it its
    /// name. `note` is for whoever restores a machine from it. Removes others where there are too
    /// many now.
    ///
    /// # Errors
    /// [`SnapshotError`]; then nothing is left of it.
    pub fn publish(self, note: &str) -> Result<(), SnapshotError> {
        let Self { store, key, files, scratch, draft } = self;
        let files = [(STATE, &files.state), (MEMORY, &files.memory), (SCRATCH, &scratch)];
        let record = |(name, file): (&str, &File)| {
            let length = file.metadata()?.len();
            Ok(FileRecord { name: name.to_owned(), length, checksum: checksum::of(file)? })
        };
        let records = files.into_iter().map(record).collect::<io::Result<_>>();
        let records = records.map_err(at("read", draft.path()))?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let manifest =
            Manifest { created: now.as_secs(), note: note.to_owned(), key, files: records };
        let path = draft.path().join(MANIFEST);
        let write = || create_for_std(&path)?.write_all(&manifest.encode()?);
        write().map_err(at("write", &path))?;
        if let Ok(seal) = Seal::of(&files.map(|(_, file)| file)) {
            seal.write(&draft.path().join(VERIFIED));
        }
        let lease = draft.publish()?;
        lease.mark_used();
        // Still held: the newest is not the one to go.
        store.prune(store.limit)?;
        Ok(())
    }
}

fn create_for_std(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn create(path: &Path) -> Result<File, SnapshotError> {
    create_for_std(path).map_err(at("create", path))
}

/// The files of a snapshot that are as they were written.
struct Checked {
    /// In the order of the manifest.
    files: [File; 3],
    note: String,
}

impl Checked {
    fn open(entry: &Path, key: &SnapshotKey) -> Result<Self, Refusal> {
        let unreadable =
            |file| move |error: io::Error| Refusal::Unreadable { file, reason: error.to_string() };
        let bytes = fs::read(entry.join(MANIFEST)).map_err(unreadable(MANIFEST))?;
        let manifest = Manifest::decode(&bytes)?;
        key.admits(&manifest.key)?;
        let open = |name: &'static str| {
            let file = File::open(entry.join(name)).map_err(unreadable(name))?;
            let record = manifest.files.iter().find(|record| record.name == name);
            let record = record.ok_or(Refusal::Manifest)?;
            let found = file.metadata().map_err(unreadable(name))?.len();
            if found != record.length {
                return Err(Refusal::Length { file: name, found, wanted: record.length });
            }
            Ok((name, file, record.checksum))
        };
        let opened = [open(STATE)?, open(MEMORY)?, open(SCRATCH)?];
        let verified: PathBuf = entry.join(VERIFIED);
        let seal = Seal::of(&opened.each_ref().map(|(_, file, _)| file)).ok();
        if seal.is_none() || seal != Seal::read(&verified) {
            for (name, file, wanted) in &opened {
                if checksum::of(file).map_err(unreadable(name))? != *wanted {
                    return Err(Refusal::Checksum { file: name });
                }
            }
            if let Some(seal) = seal {
                seal.write(&verified);
            }
        }
        Ok(Self { files: opened.map(|(_, file, _)| file), note: manifest.note })
    }
}

#[cfg(test)]
mod tests;
