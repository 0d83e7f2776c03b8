//! The directory of entries: names, locks, drafts, leases.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::Digest;

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
    // Held for its shared lock.
    _lock: File,
}

/// An entry while it is written: an empty file, open for reading and writing.
///
/// Where the file system can do it, the file has no name until it is complete, so that not even
/// a killed process leaves anything behind.
#[derive(Debug)]
pub struct Draft {
    file: File,
    path: PathBuf,
    nameless: bool,
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

fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { operation, path, source }
}

impl Store {
    /// Opens the store at `root`, making its directories (mode 0700) where they are missing.
    ///
    /// # Errors
    /// [`StoreError::Io`] if they cannot be made.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        for directory in [root.join(".locks"), root.join(".drafts")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&directory)
                .map_err(at("create", &directory))?;
        }
        Ok(Self { root })
    }

    /// The entry's path, whether or not it exists.
    #[must_use]
    pub fn path(&self, name: &EntryName) -> PathBuf {
        self.root.join(name.as_str())
    }

    fn draft_path(&self, name: &EntryName) -> PathBuf {
        self.root.join(".drafts").join(name.as_str())
    }

    fn open_lock(&self, name: &EntryName) -> Result<(File, PathBuf), StoreError> {
        let path = self.root.join(".locks").join(name.as_str());
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at("open", &path))?;
        Ok((file, path))
    }

    fn lease(
        &self,
        name: &EntryName,
        lock: File,
        created: bool,
    ) -> Result<Option<Lease>, StoreError> {
        let path = self.path(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(Some(Lease { path, created, _lock: lock })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at("look at", &path)(error)),
        }
    }

    /// The entry of this name, if it is there. Waits while another process writes it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn get(&self, name: &EntryName) -> Result<Option<Lease>, StoreError> {
        let (lock, lock_path) = self.open_lock(name)?;
        lock.lock_shared().map_err(at("lock", &lock_path))?;
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
            lock.lock().map_err(at("lock", &lock_path))?;
            let mut created = false;
            if !self.path(name).exists()
                && let Some(write) = write.take()
            {
                self.write_entry(name, write)?;
                created = true;
            }
            // Not atomic: a remover may come in between. Then look again.
            lock.lock_shared().map_err(at("lock", &lock_path))?;
            if let Some(lease) = self.lease(name, lock, created)? {
                return Ok(lease);
            }
            if write.is_none() {
                let source =
                    io::Error::other("removed by another process as soon as it was written");
                return Err(at("use", &self.path(name))(source).into());
            }
        }
    }

    /// Requires the exclusive lock.
    fn write_entry<E>(
        &self,
        name: &EntryName,
        write: impl FnOnce(&mut Draft) -> Result<(), E>,
    ) -> Result<(), CreateError<E>> {
        let mut draft =
            Draft::begin(self.draft_path(name)).map_err(at("create", &self.draft_path(name)))?;
        let result = write(&mut draft).map_err(CreateError::Writer).and_then(|()| {
            draft.file.sync_all().map_err(at("sync", &draft.path))?;
            let entry = self.path(name);
            draft.publish(&entry).map_err(at("write", &entry))?;
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
        match fs::remove_file(&path) {
            Ok(()) => Ok(Removal::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removal::Absent),
            Err(error) => Err(at("remove", &path)(error)),
        }
    }

    /// All complete entries, by name.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn entries(&self) -> Result<Vec<EntryInfo>, StoreError> {
        let mut entries = Vec::new();
        for item in fs::read_dir(&self.root).map_err(at("list", &self.root))? {
            let item = item.map_err(at("list", &self.root))?;
            let Some(name) = item.file_name().to_str().and_then(|name| EntryName::new(name).ok())
            else {
                continue;
            };
            let metadata = match item.metadata() {
                Ok(metadata) => metadata,
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(at("look at", &item.path())(error)),
            };
            entries.push(EntryInfo {
                name,
                path: item.path(),
                apparent_size: metadata.len(),
                allocated_size: metadata.blocks() * 512,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Removes what killed writers left. Returns how many drafts that were.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn sweep(&self) -> Result<usize, StoreError> {
        let drafts = self.root.join(".drafts");
        let mut swept = 0;
        for item in fs::read_dir(&drafts).map_err(at("list", &drafts))? {
            let item = item.map_err(at("list", &drafts))?;
            let Some(name) = item.file_name().to_str().and_then(|name| EntryName::new(name).ok())
            else {
                continue;
            };
            // A writer holds one of the two locks.
            let guard = EntryName(format!("{name}.replace"));
            let (writer, _) = self.open_lock(&name)?;
            let (replacer, _) = self.open_lock(&guard)?;
            if writer.try_lock().is_ok() && replacer.try_lock().is_ok() {
                match fs::remove_file(item.path()) {
                    Ok(()) => swept += 1,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(at("remove", &item.path())(error)),
                }
            }
        }
        Ok(swept)
    }
}

impl Lease {
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

impl Draft {
    fn begin(path: PathBuf) -> io::Result<Self> {
        if let Some(directory) = path.parent()
            && let Ok(file) = nameless_file(directory)
        {
            // What a killed process left may stand in the way of this one's name.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => return Ok(Self { file, path, nameless: true }),
            }
        }
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, nameless: false })
    }

    /// Gives the complete file its name, in place of what has it now.
    fn publish(&self, entry: &Path) -> io::Result<()> {
        if self.nameless {
            // A link cannot replace anything, a rename can.
            link_descriptor(&self.file, &self.path)?;
        }
        fs::rename(&self.path, entry)
    }

    /// The file to write.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }
}

#[cfg(target_os = "linux")]
fn nameless_file(directory: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(target_os = "linux")]
fn link_descriptor(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd as _;
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn nameless_file(_directory: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn link_descriptor(_file: &File, _path: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, io::Write as _};

    use super::*;

    fn store() -> (tempfile::TempDir, Store, EntryName) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s")).unwrap();
        (directory, store, EntryName::new("a").unwrap())
    }

    fn text(text: &'static str) -> impl FnOnce(&mut Draft) -> io::Result<()> {
        move |draft| draft.file().write_all(text.as_bytes())
    }

    #[test]
    fn is_written_once() {
        let (_directory, store, name) = store();
        assert!(store.get(&name).unwrap().is_none());
        assert!(store.get_or_create(&name, text("one")).unwrap().created());
        let lease = store.get_or_create(&name, text("two")).unwrap();
        assert!(!lease.created());
        assert_eq!(fs::read_to_string(lease.path()).unwrap(), "one");
    }

    #[test]
    fn a_failed_writer_leaves_nothing() {
        let (_directory, store, name) = store();
        let failed = store.get_or_create(&name, |draft| {
            draft.file().write_all(b"half").unwrap();
            Err("no")
        });
        assert!(matches!(failed, Err(CreateError::Writer("no"))));
        assert!(store.get(&name).unwrap().is_none());
        assert_eq!(store.sweep().unwrap(), 0);
    }

    #[test]
    fn an_entry_in_use_stays() {
        let (_directory, store, name) = store();
        let lease = store.get_or_create(&name, text("x")).unwrap();
        assert_eq!(store.remove(&name).unwrap(), Removal::InUse);
        drop(lease);
        assert_eq!(store.remove(&name).unwrap(), Removal::Removed);
        assert_eq!(store.remove(&name).unwrap(), Removal::Absent);
    }

    #[test]
    fn only_an_abandoned_draft_is_swept() {
        let (_directory, store, name) = store();
        fs::write(store.draft_path(&name), "left by a killed process").unwrap();
        store
            .get_or_create(&EntryName::new("b").unwrap(), |_| {
                assert_eq!(store.sweep().unwrap(), 1);
                Ok::<_, Infallible>(())
            })
            .unwrap();
        assert_eq!(store.entries().unwrap().len(), 1);
    }

    #[test]
    fn one_of_many_writers_writes() {
        let (_directory, store, name) = store();
        let created = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| store.get_or_create(&name, text("x")).unwrap().created()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|made| *made).count()
        });
        assert_eq!(created, 1);
    }

    #[test]
    fn replaces_under_a_reader() {
        let (_directory, store, name) = store();
        store.replace(&name, text("one")).unwrap();
        let lease = store.get(&name).unwrap().unwrap();
        store.replace(&name, text("two")).unwrap();
        assert_eq!(fs::read_to_string(lease.path()).unwrap(), "two");
    }

    #[test]
    fn names_are_checked() {
        for name in ["", ".hidden", "a/b", "a b", "..", &"x".repeat(201)] {
            assert!(EntryName::new(name).is_err(), "{name}");
        }
    }
}
