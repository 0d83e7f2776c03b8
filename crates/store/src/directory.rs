//! Entries of several files: a directory that appears under its name complete, or not at all.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::{
    EntryName, Lease, Store, StoreError,
    entry::{at, remove_whatever},
};

/// A directory (mode 0700) that is an entry to be. Whoever has it is its only writer; dropped, it is
/// removed, and what a killed process leaves of it is swept.
#[derive(Debug)]
pub struct DirectoryDraft {
    store: Store,
    name: EntryName,
    path: PathBuf,
    /// None once it is published.
    lock: Option<File>,
}

impl Store {
    /// Begins an entry that is a directory. Nothing, if there is such an entry, or somebody else
    /// makes, uses or removes it at this moment: who wants to make one never waits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin_directory(&self, name: &EntryName) -> Result<Option<DirectoryDraft>, StoreError> {
        let (lock, lock_path) = self.open_lock(name)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(at("lock", &lock_path)(error)),
        }
        if self.path(name).exists() {
            return Ok(None);
        }
        let path = self.draft_path(name);
        // What a killed process left.
        remove_whatever(&path).map_err(|error| self.refused("remove", &path, error))?;
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| self.refused("create", &path, error))?;
        Ok(Some(DirectoryDraft { store: self.clone(), name: name.clone(), path, lock: Some(lock) }))
    }
}

impl DirectoryDraft {
    /// Where its files are made.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name. What is in it is not synced to the disk: after a crash of the host it may
    /// be incomplete, which whoever uses it has to be able to tell.
    ///
    /// # Errors
    /// [`StoreError`]; then it is removed.
    pub fn publish(mut self) -> Result<Lease, StoreError> {
        let entry = self.store.path(&self.name);
        let renamed = fs::rename(&self.path, &entry);
        renamed.map_err(|error| self.store.refused("write", &entry, error))?;
        let lock = self.lock.take();
        if let Some(lock) = &lock {
            lock.lock_shared().map_err(at("lock", &entry))?;
        }
        Ok(Lease::of_new(entry, lock))
    }
}

impl Drop for DirectoryDraft {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // What cannot be removed now is swept later.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The length and the allocated size in bytes of all files in a directory, which may change
/// meanwhile.
pub(crate) fn sizes(directory: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let (mut apparent, mut allocated) = (0, 0);
    for item in fs::read_dir(directory)? {
        match item?.metadata() {
            Ok(metadata) => {
                apparent += metadata.len();
                allocated += metadata.blocks() * 512;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((apparent, allocated))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::Removal;

    fn store() -> (tempfile::TempDir, Store, EntryName) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path().join("s")).unwrap();
        (directory, store, EntryName::new("a").unwrap())
    }

    #[test]
    fn appears_complete_and_is_used_and_removed_as_one() {
        let (_directory, store, name) = store();
        let draft = store.begin_directory(&name).unwrap().unwrap();
        let mode = fs::metadata(draft.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        fs::write(draft.path().join("x"), [7; 5000]).unwrap();
        assert!(store.begin_directory(&name).unwrap().is_none(), "it has a writer");
        assert!(!store.path(&name).exists());
        let lease = draft.publish().unwrap();
        assert!(store.begin_directory(&name).unwrap().is_none(), "it is there");
        assert_eq!(fs::read(lease.path().join("x")).unwrap(), [7; 5000]);
        let entries = store.entries().unwrap();
        assert_eq!((entries.len(), entries[0].apparent_size), (1, 5000));
        assert!(entries[0].allocated_size >= 5000);
        let other = store.get(&name).unwrap().unwrap();
        assert_eq!(store.remove(&name).unwrap(), Removal::InUse);
        drop((lease, other));
        assert_eq!(store.remove(&name).unwrap(), Removal::Removed);
        assert!(!store.path(&name).exists());
        assert_eq!(fs::read_dir(store.draft_path(&name).parent().unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_published_is_gone() {
        let (_directory, store, name) = store();
        let draft = store.begin_directory(&name).unwrap().unwrap();
        let path = draft.path().to_owned();
        fs::write(path.join("x"), "x").unwrap();
        assert_eq!(store.sweep().unwrap(), 0, "its writer lives");
        drop(draft);
        assert!(!path.exists());
        assert!(store.get(&name).unwrap().is_none());
    }

    #[test]
    fn what_a_killed_writer_left_is_swept_or_replaced() {
        let (_directory, store, name) = store();
        let left = store.draft_path(&name);
        let leave = || {
            fs::create_dir(&left).unwrap();
            fs::write(left.join("half"), "x").unwrap();
        };
        leave();
        assert_eq!(store.sweep().unwrap(), 1);
        assert!(!left.exists());
        leave();
        let draft = store.begin_directory(&name).unwrap().unwrap();
        assert_eq!(fs::read_dir(draft.path()).unwrap().count(), 0);
    }
}
