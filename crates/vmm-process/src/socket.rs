//! The Unix sockets in a machine's directory, wherever that is.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags};

/// A directory for sockets.
#[derive(Debug)]
pub struct SocketDirectory {
    path: PathBuf,
    handle: OwnedFd,
}

/// `sun_path` holds this many bytes and a NUL.
const SOCKET_PATH_MOST: usize = 107;

impl SocketDirectory {
    /// The directory at a path.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        Ok(Self { path: path.to_owned(), handle })
    }

    /// The address of a socket: its path or, where that is too long for an address, one through
    /// the directory's handle, good for this process as long as the directory is open.
    #[must_use]
    pub fn address(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        if path.as_os_str().len() <= SOCKET_PATH_MOST {
            return path;
        }
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.handle.as_raw_fd()))
    }

    /// Listens on a socket, in place of one that was left there.
    ///
    /// # Errors
    /// What the system said.
    pub fn listen(&self, name: &str) -> io::Result<UnixListener> {
        self.remove(name);
        UnixListener::bind(self.address(name))
    }

    /// Removes a socket's name.
    pub fn remove(&self, name: &str) {
        // Mostly there is none; where one can't be removed, `bind` says so.
        let _ = fs::remove_file(self.address(name));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_long_path_is_no_obstacle() {
        let root = tempfile::tempdir().unwrap();
        let long = root.path().join("d".repeat(120));
        fs::create_dir(&long).unwrap();
        for directory in [root.path(), &long] {
            let sockets = SocketDirectory::open(directory).unwrap();
            let listener = sockets.listen("s").unwrap();
            drop(UnixStream::connect(sockets.address("s")).unwrap());
            listener.accept().unwrap();
            drop(sockets.listen("s").unwrap());
            sockets.remove("s");
            assert!(!directory.join("s").exists());
        }
    }
}
