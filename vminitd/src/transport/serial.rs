//! A virtio-serial port, which carries one connection at a time.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};
use tokio::{io::unix::AsyncFd, sync::Semaphore};
use tokio_stream::Stream;

use super::{Connection, TransportError, connection::register};

/// The host's connections to the port of that number, one after the other.
pub(super) fn connections(
    port: u32,
) -> Result<impl Stream<Item = io::Result<Connection>>, TransportError> {
    let path = port_device(&format!("costrel.{port}"))?;
    let port = Arc::new(open(&path).map_err(|source| TransportError::Open { path, source })?);
    let free = Arc::new(Semaphore::new(1));
    Ok(async_stream::stream! {
        loop {
            // The port is one stream to the kernel: wait until the last connection let go of it.
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            match host_connected(&port).await {
                Ok(()) => yield Ok(Connection::port(Arc::clone(&port), permit)),
                Err(error) => { yield Err(error); return }
            }
        }
    })
}

fn open(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    register(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A port without a host reports a hang-up, always: nothing to wait for, so look again and again.
async fn host_connected(port: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut fds = [PollFd::new(port.get_ref(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if !fds[0].revents().contains(PollFlags::HUP) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn port_device(name: &str) -> Result<PathBuf, TransportError> {
    let missing = || TransportError::NoPort(name.to_owned());
    for entry in fs::read_dir("/sys/class/virtio-ports").map_err(|_| missing())?.flatten() {
        if fs::read_to_string(entry.path().join("name")).is_ok_and(|found| found.trim_end() == name)
        {
            return Ok(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    Err(missing())
}
