//! The directory of entries: names, locks, drafts, leases.

use std::{
    fmt,
    fs::{self, DirBuilder, DirEntry, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use crate::{Digest, Draft, directory};

/// A directory of entries, shared by all processes of one user.
///
/// ```text
/// root/NAME          an entry, complete
/// root/.locks/NAME   its lock: shared by its users, exclusive for its writer and its remover
/// root/.drafts/NAME  what its writer has so far; without a lock holder, rubbish
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// The name of an entry: 1 to 200 ASCII letters, digits, `-`, `_` and `.`, not starting with `.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryName(String);

/// A failure of the file system under the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An operation on a file or directory of the store failed.
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
    /// The store has to be written to, and that is refused: the file system is read-only or full,
    /// or the permission is missing.
    #[error("the directory {} cannot be written to", root.display())]
    NotWritable {
        /// The store's directory.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A name that cannot be an entry's.
    #[error("{0:?} cannot name an entry")]
    Name(String),
}

/// Why an entry could not be made: the store's fault or its writer's.
#[derive(Debug, thiserror::Error)]
pub enum CreateError<E> {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The writer failed; nothing is left of the entry.
    #[error(transparent)]
    Writer(E),
}

/// An entry in use: it is complete and stays until this is dropped.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    created: bool,
    // Held for its shared lock. None where an entry came without one and none can be made: whoever
    // cannot make a lock cannot remove the entry either.
    lock: Option<File>,
}

/// What [`Store::remove`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// The entry is gone.
    Removed,
    /// There was none.
    Absent,
    /// Somebody uses or writes it: it stays.
    InUse,
}

/// An entry as [`Store::entries`] lists it.
#[derive(Clone, Debug)]
pub struct EntryInfo {
    /// Its name.
    pub name: EntryName,
    /// Its path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub apparent_size: u64,
    /// What it occupies on the disk, in bytes: less than its length where it is sparse.
    pub allocated_size: u64,
    /// When it was used last, as far as its users have said so ([`Lease::mark_used`]).
    pub last_used: SystemTime,
}

impl EntryName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`StoreError::Name`] if the text is not of the form that the type describes.
    pub fn new(text: impl Into<String>) -> Result<Self, StoreError> {
        let text = text.into();
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if text.is_empty() || text.len() > 200 || text.starts_with('.') || !text.bytes().all(fits) {
            return Err(StoreError::Name(text));
        }
        Ok(Self(text))
    }

    /// The name of the entry with this digest: its hex digits.
    #[must_use]
    pub fn of_digest(digest: &Digest) -> Self {
        Self(digest.hex())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { operation, path, source }
}

/// Whether writing is what is refused, and reading may be allowed.
fn is_refusal(error: &io::Error) -> bool {
    use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), ReadOnlyFilesystem | PermissionDenied | StorageFull | QuotaExceeded)
}

/// What is in a directory; nothing where it could not be made.
fn list(path: &Path) -> Result<impl Iterator<Item = io::Result<DirEntry>>, StoreError> {
    match fs::read_dir(path) {
        Ok(items) => Ok(Some(items).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(at("list", path)(error)),
    }
}

impl Store {
    /// Opens the store at `root`, making its directories (mode 0700) where they are missing. Where
    /// they cannot be made because nothing can be written there, the store is one to read from.
    ///
    /// # Errors
    /// [`StoreError::Io`] if they cannot be made for another reason.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        match store.make_directories() {
            Ok(()) | Err(StoreError::NotWritable { .. }) => Ok(store),
            Err(error) => Err(error),
        }
    }

    fn make_directories(&self) -> Result<(), StoreError> {
        for directory in [self.root.join(".locks"), self.root.join(".drafts")] {
            let mut builder = DirBuilder::new();
            let made = builder.recursive(true).mode(0o700).create(&directory);
            made.map_err(|source| self.refused("create", &directory, source))?;
        }
        Ok(())
    }

    /// The error of something that writes.
    pub(crate) fn refused(
        &self,
        operation: &'static str,
        path: &Path,
        source: io::Error,
    ) -> StoreError {
        if is_refusal(&source) {
            StoreError::NotWritable { root: self.root.clone(), source }
        } else {
            at(operation, path)(source)
        }
    }

    /// The entry's path, whether or not it exists.
    #[must_use]
    pub fn path(&self, name: &EntryName) -> PathBuf {
        self.root.join(name.as_str())
    }

    pub(crate) fn draft_path(&self, name: &EntryName) -> PathBuf {
        self.root.join(".drafts").join(name.as_str())
    }

    fn lock_path(&self, name: &EntryName) -> PathBuf {
        self.root.join(".locks").join(name.as_str())
    }

    /// The lock's file, made where it is missing. Where that is refused, one that is there serves
    /// as well: a lock needs no permission to write.
    pub(crate) fn open_lock(&self, name: &EntryName) -> Result<(File, PathBuf), StoreError> {
        let path = self.lock_path(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let refusal = match options.open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The directories are gone, or could not be made when the store was opened.
                self.make_directories()?;
                options.open(&path).map(|file| (file, path.clone()))
            }
            Err(error) if is_refusal(&error) => {
                File::open(&path).map(|file| (file, path.clone())).map_err(|_| error)
            }
            Err(error) => Err(error),
        };
        refusal.map_err(|source| self.refused("open", &path, source))
    }

    fn lease(
        &self,
        name: &EntryName,
        lock: Option<File>,
        created: bool,
    ) -> Result<Option<Lease>, StoreError> {
        let path = self.path(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(Some(Lease { path, created, lock })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("look at", &path)(error)),
        }
    }

    /// The entry of this name, if it is there. Waits while another process writes it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn get(&self, name: &EntryName) -> Result<Option<Lease>, StoreError> {
        let lock = match self.open_lock(name) {
            Ok((lock, path)) => {
                lock.lock_shared().map_err(at("lock", &path))?;
                Some(lock)
            }
            Err(StoreError::NotWritable { .. }) => None,
            Err(error) => return Err(error),
        };
        self.lease(name, lock, false)
    }

    /// The entry of this name, if it is there and nobody writes or removes it at this moment.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn try_get(&self, name: &EntryName) -> Result<Option<Lease>, StoreError> {
        let lock = match self.open_lock(name) {
            Ok((lock, path)) => match lock.try_lock_shared() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
            },
            Err(StoreError::NotWritable { .. }) => None,
            Err(error) => return Err(error),
        };
        self.lease(name, lock, false)
    }

    /// The entry of this name; where it is missing, `write` makes it, while other processes that
    /// want it wait. If `write` fails, or the process is killed, there is no entry.
    ///
    /// # Errors
    /// [`CreateError::Writer`] with what `write` returned, [`CreateError::Store`] otherwise.
    pub fn get_or_create<E>(
        &self,
        name: &EntryName,
        write: impl FnOnce(&mut Draft) -> Result<(), E>,
    ) -> Result<Lease, CreateError<E>> {
        if let Some(lease) = self.get(name)? {
            return Ok(lease);
        }
        let mut write = Some(write);
        loop {
            let (lock, lock_path) = self.open_lock(name)?;
            let mut created = false;
            match lock.try_lock() {
                Ok(()) => {
                    if !self.path(name).exists()
                        && let Some(write) = write.take()
                    {
                        self.write_entry(name, write)?;
                        created = true;
                    }
                }
                // Its writer, or one who looks for it as we do. To wait for the exclusive lock
                // would be to wait for the end of a lease once the entry is there: for ever, if
                // that lease's holder waits for one of ours.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(at("lock", &lock_path)(error).into()),
            }
            // Waits for a writer. After the exclusive lock it is not atomic: a remover may come in
            // between. Then look again.
            lock.lock_shared().map_err(at("lock", &lock_path))?;
            if let Some(lease) = self.lease(name, Some(lock), created)? {
                return Ok(lease);
            }
            if write.is_none() {
                let source =
                    io::Error::other("removed by another process as soon as it was written");
                return Err(at("use", &self.path(name))(source).into());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Requires the exclusive lock.
    fn write_entry<E>(
        &self,
        name: &EntryName,
        write: impl FnOnce(&mut Draft) -> Result<(), E>,
    ) -> Result<(), CreateError<E>> {
        let path = self.draft_path(name);
        let mut draft =
            Draft::begin(path.clone()).map_err(|error| self.refused("create", &path, error))?;
        let result = write(&mut draft).map_err(CreateError::Writer).and_then(|()| {
            draft.file.sync_all().map_err(at("sync", &draft.path))?;
            let entry = self.path(name);
            draft.publish(&entry).map_err(|error| self.refused("write", &entry, error))?;
            Ok(self.sync_directory()?)
        });
        if result.is_err() {
            let _ = fs::remove_file(&draft.path);
        }
        result
    }

    fn sync_directory(&self) -> Result<(), StoreError> {
        File::open(&self.root)
            .and_then(|directory| directory.sync_all())
            .map_err(at("sync", &self.root))
    }

    /// Replaces the entry, or makes it, by `write`, whoever uses the old one: a reader that has
    /// it open keeps the old content. For small records; big entries are written once.
    ///
    /// # Errors
    /// As [`Store::get_or_create`].
    pub fn replace<E>(
        &self,
        name: &EntryName,
        write: impl FnOnce(&mut Draft) -> Result<(), E>,
    ) -> Result<(), CreateError<E>> {
        // Users of the entry hold its lock: a lock of its own keeps two replacers apart.
        let guard = EntryName(format!("{name}.replace"));
        let (lock, lock_path) = self.open_lock(&guard)?;
        lock.lock().map_err(at("lock", &lock_path))?;
        self.write_entry(name, write)
    }

    /// Removes the entry unless somebody uses or writes it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, name: &EntryName) -> Result<Removal, StoreError> {
        let (lock, lock_path) = self.open_lock(name)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Removal::InUse),
            Err(TryLockError::Error(error)) => return Err(at("lock", &lock_path)(error)),
        }
        let path = self.path(name);
        // Under the name of a draft it is no entry any more, however far the removal gets.
        let doomed = self.draft_path(name);
        match fs::rename(&path, &doomed).and_then(|()| remove_whatever(&doomed)) {
            Ok(()) => Ok(Removal::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::Absent),
            Err(error) => Err(self.refused("remove", &path, error)),
        }
    }

    /// Removes an entry that nobody should use any more, whoever does: what they have open they keep.
    /// Nothing happens where there is none.
    ///
    /// # Errors
    /// [`StoreError::NotWritable`] and [`StoreError::Io`].
    pub fn discard(&self, entry: &Lease) -> Result<(), StoreError> {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        // A name that no writer uses, and that is swept if we get no further.
        let doomed = self.draft_path(&EntryName(format!("{name}.{}", std::process::id())));
        match fs::rename(&entry.path, &doomed).and_then(|()| remove_whatever(&doomed)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| self.refused("remove", &entry.path, error)),
        }
    }

    /// Whether somebody uses or writes the entry at this moment.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn is_used(&self, name: &EntryName) -> Result<bool, StoreError> {
        let path = self.lock_path(name);
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(at("open", &path)(error)),
        };
        match lock.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(at("lock", &path)(error)),
        }
    }

    /// All complete entries, by name.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn entries(&self) -> Result<Vec<EntryInfo>, StoreError> {
        let mut entries = Vec::new();
        for item in list(&self.root)? {
            let item = item.map_err(at("list", &self.root))?;
            let Some(name) = item.file_name().to_str().and_then(|name| EntryName::new(name).ok())
            else {
                continue;
            };
            match self.info(name, item.path()) {
                Ok(info) => entries.push(info),
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("look at", &item.path())(error)),
            }
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn info(&self, name: EntryName, path: PathBuf) -> io::Result<EntryInfo> {
        let metadata = fs::symlink_metadata(&path)?;
        let (apparent_size, allocated_size) = if metadata.is_dir() {
            directory::sizes(&path)?
        } else {
            (metadata.len(), metadata.blocks() * 512)
        };
        let marked = fs::metadata(self.lock_path(&name)).and_then(|lock| lock.modified());
        let last_used = marked.or_else(|_| metadata.modified())?;
        Ok(EntryInfo { name, path, apparent_size, allocated_size, last_used })
    }

    /// Removes what killed writers left, as far as that is allowed. Returns how many drafts that
    /// were.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sweep(&self) -> Result<usize, StoreError> {
        let drafts = self.root.join(".drafts");
        let mut swept = 0;
        for item in list(&drafts)? {
            let item = item.map_err(at("list", &drafts))?;
            let Some(name) = item.file_name().to_str().and_then(|name| EntryName::new(name).ok())
            else {
                continue;
            };
            // A writer holds one of the two locks.
            let guard = EntryName(format!("{name}.replace"));
            let locks = self.open_lock(&name).and_then(|lock| Ok((lock, self.open_lock(&guard)?)));
            let ((writer, _), (replacer, _)) = match locks {
                Ok(locks) => locks,
                Err(StoreError::NotWritable { .. }) => continue,
                Err(error) => return Err(error),
            };
            if writer.try_lock().is_ok() && replacer.try_lock().is_ok() {
                match remove_whatever(&item.path()) {
                    Ok(()) => swept += 1,
                    Err(error) if is_refusal(&error) => {}
                    Err(error) => return Err(at("remove", &item.path())(error)),
                }
            }
        }
        Ok(swept)
    }
}

/// Removes a file, or a directory with all that is in it, if it is there.
pub(crate) fn remove_whatever(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Lease {
    pub(crate) fn of_new(path: PathBuf, lock: Option<File>) -> Self {
        Self { path, created: true, lock }
    }

    /// Notes that the entry is used now ([`EntryInfo::last_used`]). Where that cannot be noted, it
    /// is not.
    pub fn mark_used(&self) {
        if let Some(lock) = &self.lock {
            let _ = lock.set_modified(SystemTime::now());
        }
    }

    /// Where the entry is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this call made the entry (and did not find it there).
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }
}

#[cfg(test)]
mod tests;
