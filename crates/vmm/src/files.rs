//! Opens the files that a machine is made of, and finds what would keep it from starting.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::{
    BootError, Disk, DiskAccess, KernelImage, KernelLayout, Memory,
    kernel::{self, KernelFault},
};

/// A file's length and the time of its last change, as text: what stands for its content where reading
/// all of it would take too long.
///
/// # Errors
/// What the system said.
pub fn file_stamp(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    let (length, seconds, nanos) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    Ok(format!("{length} bytes of {seconds}.{nanos:09}"))
}

impl KernelImage {
    /// Opens a kernel for a machine with so much memory, and says how it is to be loaded.
    ///
    /// # Errors
    /// [`BootError::File`], [`BootError::Kernel`], [`BootError::KernelTooLarge`].
    pub fn open(&self, memory: Memory) -> Result<(File, KernelLayout), BootError> {
        let path = || self.path.clone();
        let unreadable = |source| BootError::File { what: "kernel", path: path(), source };
        // Asked first: opening a FIFO would block.
        if !fs::metadata(&self.path).map_err(unreadable)?.is_file() {
            return Err(BootError::Kernel { path: path(), reason: "it is not a regular file" });
        }
        let file = File::open(&self.path).map_err(unreadable)?;
        let layout = kernel::check(&file).map_err(|fault| match fault {
            KernelFault::Read(source) => unreadable(source),
            KernelFault::Unfit(reason) => BootError::Kernel { path: path(), reason },
        })?;
        if layout.end() > memory.as_bytes() {
            let needed_mib = layout.end().div_ceil(1 << 20);
            return Err(BootError::KernelTooLarge {
                path: path(),
                needed_mib,
                memory_mib: memory.as_mib().into(),
            });
        }
        Ok((file, layout))
    }
}

impl Disk {
    /// Opens the image, and locks it: while it is open, nobody may write to what a machine only
    /// reads, and nobody else may use what a machine writes to. Who heeds it are machines of ours.
    ///
    /// # Errors
    /// [`BootError::File`], [`BootError::DiskSize`], [`BootError::DiskLocked`].
    pub fn open(&self) -> Result<File, BootError> {
        let unusable =
            |source| BootError::File { what: "disk image", path: self.path.clone(), source };
        if !fs::metadata(&self.path).map_err(unusable)?.is_file() {
            return Err(unusable(io::Error::other("it is not a regular file")));
        }
        let write = self.access != DiskAccess::ReadOnly;
        let image =
            OpenOptions::new().read(true).write(write).open(&self.path).map_err(unusable)?;
        let bytes = image.metadata().map_err(unusable)?.len();
        if bytes == 0 || !bytes.is_multiple_of(512) {
            return Err(BootError::DiskSize { path: self.path.clone(), bytes });
        }
        let locked = if write { image.try_lock() } else { image.try_lock_shared() };
        match locked {
            Ok(()) => Ok(image),
            Err(TryLockError::WouldBlock) => Err(BootError::DiskLocked { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(unusable(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DiskName;

    #[test]
    fn what_is_truncated_or_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let disk = |name: &str, access| Disk {
            name: DiskName::new("d").unwrap(),
            path: directory.path().join(name),
            access,
        };
        for (name, bytes) in [("empty", 0), ("odd", 4097)] {
            fs::write(directory.path().join(name), vec![0; bytes]).unwrap();
            let error = disk(name, DiskAccess::ReadOnly).open().unwrap_err();
            assert!(
                matches!(error, BootError::DiskSize { bytes: found, .. } if found == bytes as u64)
            );
        }
        let missing = disk("missing", DiskAccess::ReadOnly).open().unwrap_err();
        assert!(matches!(missing, BootError::File { .. }));
        let special = Disk { path: "/dev/null".into(), ..disk("x", DiskAccess::ReadOnly) };
        assert!(matches!(special.open(), Err(BootError::File { .. })));

        fs::write(directory.path().join("disk"), vec![0; 8192]).unwrap();
        let reader = disk("disk", DiskAccess::ReadOnly);
        let writer = disk("disk", DiskAccess::Scratch);
        let open = reader.open().unwrap();
        drop(reader.open().unwrap());
        assert!(matches!(writer.open(), Err(BootError::DiskLocked { .. })));
        drop(open);
        let _open = writer.open().unwrap();
        assert!(matches!(reader.open(), Err(BootError::DiskLocked { .. })));
        assert!(matches!(writer.open(), Err(BootError::DiskLocked { .. })));
    }
}
