//! The file that an entry is before it is one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// An entry while it is written: an empty file, open for reading and writing.
///
/// Where the file system can do it, the file has no name until it is complete, so that not even
/// a killed process leaves anything behind.
#[derive(Debug)]
pub struct Draft {
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    nameless: bool,
}

impl Draft {
    pub(crate) fn begin(path: PathBuf) -> io::Result<Self> {
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
    pub(crate) fn publish(&self, entry: &Path) -> io::Result<()> {
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
