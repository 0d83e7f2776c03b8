//! The queue's directory.
//!
//! ```text
//! queue/lock         held by the process that works on the queue
//!      /ID.event     an entry, complete from its appearance on
//!      /ID.draft     one that nobody was told was accepted: removed by the next start
//!      /damaged/ID   what is no entry any more, for people to look at
//! ```

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    Event,
    entry::{self, Entry, Progress},
};

/// The queue's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on the queue.
    #[error("another process works on the queue {}", .0.display())]
    InUse(PathBuf),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] QueueError),
    /// The process is ending.
    #[error("opening the queue was interrupted")]
    Interrupted,
}

/// A failure of the file system under the queue.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct QueueError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> QueueError {
    let path = path.to_owned();
    move |source| QueueError { operation, path, source }
}

/// What is found of an entry.
pub(crate) enum Read {
    Entry(Box<Entry>),
    /// It was no entry, and was put aside.
    Damaged,
    /// It is not there.
    Gone,
}

#[derive(Debug)]
pub(crate) struct QueueStore {
    path: PathBuf,
    // Held for its lock.
    _lock: File,
    #[cfg(test)]
    pub(crate) fault: crate::fault::Fault,
}

const ENTRY: &str = "event";
const DRAFT: &str = "draft";

impl QueueStore {
    /// Opens a directory, making it (mode 0700) if it is missing: events may hold secrets.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let damaged = path.join("damaged");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&damaged);
        made.map_err(at("create", &damaged))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(at("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(at("lock", &lock_path)(error).into()),
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
            #[cfg(test)]
            fault: crate::fault::Fault::default(),
        })
    }

    /// Before each change: where a test has the process die.
    fn change(&self) -> io::Result<()> {
        #[cfg(test)]
        self.fault.step()?;
        Ok(())
    }

    fn entry_path(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.{ENTRY}"))
    }

    /// The ids of all entries. Drafts are removed.
    pub(crate) fn list(&self) -> Result<Vec<String>, QueueError> {
        let mut ids = Vec::new();
        for item in fs::read_dir(&self.path).map_err(at("list", &self.path))? {
            let path = item.map_err(at("list", &self.path))?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            match (extension, path.file_stem().and_then(|stem| stem.to_str())) {
                (Some(ENTRY), Some(id)) => ids.push(id.to_owned()),
                (Some(DRAFT), _) => fs::remove_file(&path).map_err(at("remove", &path))?,
                _ => {}
            }
        }
        Ok(ids)
    }

    /// Makes an entry, which is durable when this returns. File systems complete several at a time
    /// with one write to their journal, where several are made at a time.
    pub(crate) fn create(&self, id: &str, event: &Event) -> Result<(), QueueError> {
        let draft = self.path.join(format!("{id}.{DRAFT}"));
        let entry = self.entry_path(id);
        let made = self.create_by(&draft, &entry, &entry::accepted(event));
        if made.is_err() {
            // It was not accepted: it must not be found, as far as that is to be had.
            let _ = fs::remove_file(&draft)
                .or_else(|_| self.change().and_then(|()| fs::remove_file(&entry)));
        }
        made
    }

    fn create_by(&self, draft: &Path, entry: &Path, record: &[u8]) -> Result<(), QueueError> {
        self.change().map_err(at("create", draft))?;
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft);
        let mut file = file.map_err(at("create", draft))?;
        // A process may die with half of it written.
        let (first, second) = record.split_at(record.len() / 2);
        file.write_all(first).map_err(at("write", draft))?;
        self.change().and_then(|()| file.write_all(second)).map_err(at("write", draft))?;
        self.change().and_then(|()| file.sync_all()).map_err(at("sync", draft))?;
        self.change().and_then(|()| fs::rename(draft, entry)).map_err(at("create", entry))?;
        self.change().and_then(|()| self.sync()).map_err(at("sync", &self.path))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// Reads an entry. What is none is put aside.
    pub(crate) fn read(&self, id: &str) -> Result<Read, QueueError> {
        let path = self.entry_path(id);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::Gone),
            Err(error) => return Err(at("read", &path)(error)),
        }
        let length = bytes.len() as u64;
        match Entry::decode(&bytes.into()) {
            Ok(entry) => {
                if entry.good < length {
                    tracing::warn!(
                        event = id,
                        "the last word on an event was cut off, and is ignored"
                    );
                }
                Ok(Read::Entry(Box::new(entry)))
            }
            Err(error) => {
                let aside = self.path.join("damaged").join(id);
                tracing::error!(event = id, %error, aside = %aside.display(), "an event is damaged");
                fs::rename(&path, &aside).map_err(at("put aside", &path))?;
                Ok(Read::Damaged)
            }
        }
    }

    /// Notes how far an event has come. `good`: how much of its entry is. Returns how much is then.
    pub(crate) fn note(&self, id: &str, progress: &Progress, good: u64) -> Result<u64, QueueError> {
        let path = self.entry_path(id);
        let record = entry::progress(progress);
        self.note_by(&path, &record, good).map_err(at("write", &path))?;
        Ok(good + record.len() as u64)
    }

    fn note_by(&self, path: &Path, record: &[u8], good: u64) -> io::Result<()> {
        self.change()?;
        let mut file = OpenOptions::new().write(true).open(path)?;
        // What is cut off would hide what follows.
        file.set_len(good)?;
        file.seek(SeekFrom::Start(good))?;
        let (first, second) = record.split_at(record.len() / 2);
        file.write_all(first)?;
        self.change()?;
        file.write_all(second)?;
        self.change()?;
        file.sync_data()
    }

    /// Removes an entry. Where the host fails at this moment, it may come back, and is run again.
    pub(crate) fn remove(&self, id: &str) -> Result<(), QueueError> {
        let path = self.entry_path(id);
        self.change().and_then(|()| fs::remove_file(&path)).map_err(at("remove", &path))
    }
}
