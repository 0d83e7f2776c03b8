//! The directory of one sandbox on the host, and the sweeping of those whose owner was killed.
//!
//! ```text
//! sandboxes/ID/lock     held exclusively while the sandbox lives
//!             /…        scratch disk, sockets, console log, the monitor's pid, sandbox.json
//! ```

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// The file whose lock a living sandbox holds.
pub(crate) const LOCK: &str = "lock";

/// A sandbox's directory. Dropping it removes it.
#[derive(Debug)]
pub struct SandboxDirectory {
    path: PathBuf,
    // Held for its lock.
    _lock: File,
}

/// A failure of the file system under the sandboxes' directory.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct DirectoryError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError { operation, path, source }
}

impl SandboxDirectory {
    /// Makes the directory of a new sandbox (mode 0700) below `sandboxes`.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn create(sandboxes: &Path, id: &uuid::Uuid) -> Result<Self, DirectoryError> {
        let path = sandboxes.join(id.simple().to_string());
        // Made under a name that no sweeper looks at, and renamed once its lock is held.
        let draft = sandboxes.join(format!(".{}", id.simple()));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&draft)
            .map_err(at("create", &draft))?;
        let lock_path = draft.join(LOCK);
        let lock = File::create(&lock_path).map_err(at("create", &lock_path))?;
        lock.lock().map_err(at("lock", &lock_path))?;
        fs::rename(&draft, &path).map_err(at("create", &path))?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SandboxDirectory {
    fn drop(&mut self) {
        // What cannot be removed now, the next start sweeps.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Ends and removes what sandboxes of killed processes left below `sandboxes`. Returns how many
/// there were.
///
/// # Errors
/// [`DirectoryError`] if the directory cannot be listed.
pub fn sweep(sandboxes: &Path) -> Result<usize, DirectoryError> {
    let listing = match fs::read_dir(sandboxes) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(at("list", sandboxes)(error)),
    };
    let mut swept = 0;
    for entry in listing.flatten() {
        let path = entry.path();
        // Its owner is between making it and renaming it, or was killed there: in a minute it
        // is the latter.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .map(|time| time.elapsed());
            if matches!(age, Ok(Ok(age)) if age.as_secs() > 60) {
                swept += usize::from(fs::remove_dir_all(&path).is_ok());
            }
            continue;
        }
        let abandoned = match File::open(path.join(LOCK)) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => continue,
            },
            // Half removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => continue,
        };
        // A monitor that cannot be ended goes on using the directory: leave it to the next start.
        if costrel_vmm_backends::end_leftover(&path).is_err() {
            continue;
        }
        swept += usize::from(fs::remove_dir_all(&path).is_ok());
        drop(abandoned);
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_sandbox_is_not_swept() {
        let root = tempfile::tempdir().unwrap();
        let sandboxes = root.path().join("sandboxes");
        assert_eq!(sweep(&sandboxes).unwrap(), 0);
        let directory = SandboxDirectory::create(&sandboxes, &uuid::Uuid::new_v4()).unwrap();
        fs::write(directory.path().join("scratch"), "x").unwrap();
        assert_eq!(sweep(&sandboxes).unwrap(), 0);
        assert!(directory.path().exists());
        let path = directory.path().to_owned();
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join("deadbeef");
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("scratch"), "x").unwrap();
        assert_eq!(sweep(root.path()).unwrap(), 1);
        assert!(!left.exists());
    }
}
