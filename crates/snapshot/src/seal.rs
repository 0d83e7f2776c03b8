//! Whether files are as they were when they were last read as a whole.
//!
//! The kernel sets a file's change time at every write and at every change of its other times, and
//! lets nobody else set it. So files whose change times are those of their last check are still what
//! was checked, unless the medium forgot them since the host was started: then all of it is read
//! once more.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde::{Deserialize, Serialize};

/// The state of checked files.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// The kernel's id of the host's last start.
    boot: String,
    /// Of each file: its number, its length, and its change time in nanoseconds.
    files: Vec<(u64, u64, i128)>,
}

impl Seal {
    /// Of these files as they are now.
    pub(crate) fn of(files: &[&File]) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let stamp = |file: &&File| {
            let metadata = file.metadata()?;
            let changed =
                i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
            Ok((metadata.ino(), metadata.len(), changed))
        };
        let files = files.iter().map(stamp).collect::<io::Result<_>>()?;
        Ok(Self { boot: boot.trim().to_owned(), files })
    }

    /// The one that was left, if it can be read.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Leaves it for the next time, if that is possible.
    pub(crate) fn write(&self, path: &Path) {
        let draft = path.with_extension(format!("{}", std::process::id()));
        let written = serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|json| {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                options.open(&draft)?.write_all(&json)
            })
            .and_then(|()| fs::rename(&draft, path));
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            tracing::debug!(%error, "a snapshot will be read once more");
        }
    }
}
