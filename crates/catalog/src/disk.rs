//! Small files, each one record: replaced and removed as a whole, durably.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// A failure of the disk under the catalog, or of what is on it.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// An operation failed.
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
    /// A file is none of the catalog's.
    #[error("{} is damaged: it is no record of the catalog", path.display())]
    Record {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |source| DiskError::Io { operation, path, source }
}

/// A directory of records, used by one process at a time.
///
/// A record is written to a name that begins with a dot, synced, and renamed; then the directory is
/// synced. Names of records do not begin with a dot.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    #[cfg(test)]
    pub(crate) dies_at: std::sync::Mutex<Option<Step>>,
}

/// How far a write has got: tests end it there, as a killed process would.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    HalfWritten,
    Unsynced,
    NotRenamed,
}

impl Records {
    /// Opens the directory, making it if need be, and removes what killed writers left.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, DiskError> {
        make_directory(&directory)?;
        for item in fs::read_dir(&directory).map_err(at("list", &directory))? {
            let path = item.map_err(at("list", &directory))?.path();
            if is_draft(&path) {
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
        }
        Ok(Self {
            directory,
            #[cfg(test)]
            dies_at: std::sync::Mutex::default(),
        })
    }

    /// All records.
    pub(crate) fn read_all<T: DeserializeOwned>(&self) -> Result<Vec<T>, DiskError> {
        let mut records = Vec::new();
        for item in fs::read_dir(&self.directory).map_err(at("list", &self.directory))? {
            let path = item.map_err(at("list", &self.directory))?.path();
            if is_draft(&path) {
                continue;
            }
            let bytes = fs::read(&path).map_err(at("read", &path))?;
            let record = serde_json::from_slice(&bytes)
                .map_err(|source| DiskError::Record { path, source })?;
            records.push(record);
        }
        Ok(records)
    }

    /// Writes a record in place of what has its name.
    pub(crate) fn write(&self, name: &str, record: &impl Serialize) -> Result<(), DiskError> {
        let path = self.directory.join(name);
        let draft = self.directory.join(format!(".{name}"));
        let bytes = serde_json::to_vec(record)
            .map_err(|source| DiskError::Record { path: path.clone(), source })?;
        let written = self.write_draft(&draft, &bytes).and_then(|()| {
            self.reach(Step::NotRenamed)?;
            fs::rename(&draft, &path)
        });
        written.map_err(at("write", &path))?;
        self.sync()
    }

    fn write_draft(&self, draft: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(draft)?;
        let half = bytes.len() / 2;
        file.write_all(&bytes[..half])?;
        self.reach(Step::HalfWritten)?;
        file.write_all(&bytes[half..])?;
        self.reach(Step::Unsynced)?;
        file.sync_all()
    }

    /// Removes a record. Nothing happens where there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at("remove", &path)(error));
            }
            _ => {}
        }
        self.sync()
    }

    fn sync(&self) -> Result<(), DiskError> {
        let synced = File::open(&self.directory).and_then(|directory| directory.sync_all());
        synced.map_err(at("sync", &self.directory))
    }

    fn reach(&self, step: Step) -> io::Result<()> {
        #[cfg(test)]
        if *self.dies_at.lock().unwrap() == Some(step) {
            return Err(io::Error::other("killed"));
        }
        let _ = step;
        Ok(())
    }
}

fn is_draft(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Makes a directory (mode 0700) and those above it, where they are missing.
pub(crate) fn make_directory(path: &Path) -> Result<(), DiskError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(directory: &tempfile::TempDir) -> Records {
        Records::open(directory.path().join("r")).unwrap()
    }

    #[test]
    fn a_writer_that_dies_leaves_the_old_record() {
        let directory = tempfile::tempdir().unwrap();
        let disk = records(&directory);
        disk.write("a", &["old"]).unwrap();
        for step in [Step::HalfWritten, Step::Unsynced, Step::NotRenamed] {
            *disk.dies_at.lock().unwrap() = Some(step);
            disk.write("a", &["new"]).unwrap_err();
            disk.write("b", &["new"]).unwrap_err();
            let left = disk.directory.join(".a");
            assert!(left.exists(), "{step:?}");
            assert_eq!(records(&directory).read_all::<Vec<String>>().unwrap(), [["old"]]);
            assert!(!left.exists(), "swept");
        }
        *disk.dies_at.lock().unwrap() = None;
        disk.write("a", &["new"]).unwrap();
        assert_eq!(disk.read_all::<Vec<String>>().unwrap(), [["new"]]);
        disk.remove("a").unwrap();
        disk.remove("a").unwrap();
        assert_eq!(disk.read_all::<Vec<String>>().unwrap(), [[""; 0]; 0]);
    }

    #[test]
    fn what_is_damaged_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let disk = records(&directory);
        fs::write(disk.directory.join("f"), "{").unwrap();
        let error = disk.read_all::<Vec<String>>().unwrap_err();
        assert!(error.to_string().ends_with("r/f is damaged: it is no record of the catalog"));
    }
}
