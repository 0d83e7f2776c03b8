//! The disk that a VM writes to.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt as _, path::Path};

use costrel_ext4::{ScratchDirectory, ScratchSpec, format_scratch};

use crate::StageError;

/// The overlay's upper and work directories, and `/tmp`.
const DIRECTORIES: [ScratchDirectory<'static>; 3] = [
    ScratchDirectory { name: "tmp", mode: 0o1777 },
    ScratchDirectory { name: "upper", mode: 0o755 },
    ScratchDirectory { name: "work", mode: 0o755 },
];

/// Makes an empty ext4 of `size` bytes, 64 MiB to 64 GiB, with a journal and the directories
/// `tmp`, `upper` and `work`, in a sparse file of mode 0600. What is at that path is replaced.
///
/// # Errors
/// [`StageError::CreateScratch`] and [`StageError::Scratch`].
pub fn create_scratch(path: &Path, size: u64) -> Result<(), StageError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| StageError::CreateScratch { path: path.to_owned(), source })?;
    let spec = ScratchSpec {
        uuid: *b"costrel scratch\0",
        label: "scratch",
        created: 0,
        size,
        directories: &DIRECTORIES,
    };
    format_scratch(&file, &spec)
        .map_err(|source| StageError::Scratch { path: path.to_owned(), source })
}
