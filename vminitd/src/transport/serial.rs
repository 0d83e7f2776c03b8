//! A virtio-serial port, which carries one connection at a time.
//!
//! The port has no connections of its own: it is one stream, with a hang-up while the host has it
//! closed. That is easily missed, when the host closes and opens it again at once, or where a
//! machine was saved in between; and what one client of the host has sent and nobody has read is
//! there for the next. So a connection is what begins as HTTP/2 does, and everything before that
//! belongs to nobody. What may go wrong then:
//!
//! - The hang-up is seen: the connection ends, and the next one is looked for.
//! - It is missed, and the old connection gets what a new client says: that is no HTTP/2 in its
//!   middle, so the connection ends, and the client with it; its next attempt finds nobody in its
//!   way. Unless the old client stopped within a frame, which swallows the beginning: a host waits
//!   for an answer with a limit.
//! - The machine is saved: a connection that carried `Suspend` reads nothing from then on and ends
//!   by itself, so that a new client finds the port free, whatever was seen of the old one's end.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
};
use tokio::sync::Semaphore;
use tokio_stream::Stream;

use super::{Connection, TransportError, connection::register};

/// The host's connections to the port of that number, one after the other.
pub(super) fn connections(
    port: u32,
) -> Result<impl Stream<Item = io::Result<Connection>>, TransportError> {
    let path = port_device(&format!("costrel.{port}"))?;
    let port = open(&path).map_err(|source| TransportError::Open { path, source })?;
    Ok(greeted(port))
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The connections of clients that greet, one after the other.
fn greeted(port: OwnedFd) -> impl Stream<Item = io::Result<Connection>> {
    let free = Arc::new(Semaphore::new(1));
    async_stream::stream! {
        loop {
            // The port is one stream to the kernel: wait until the last connection let go of it.
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            let connection = async {
                let read_ahead = greeting(&port).await?;
                // A registration of its own: the executor keeps a hang-up for good.
                Ok(Connection::port(register(port.try_clone()?)?, read_ahead, permit))
            };
            match connection.await {
                Ok(connection) => yield Ok(connection),
                Err(error) => { yield Err(error); return }
            }
        }
    }
}

/// How every client of HTTP/2 begins (RFC 9113, section 3.4).
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until a client has greeted. Returns the greeting, and what was read after it.
///
/// A port without a host reports a hang-up, always, and reads as ended: nothing to wait for, so
/// look again and again.
async fn greeting(port: impl AsFd) -> io::Result<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = match rustix::io::read(&port, &mut piece) {
            Err(Errno::AGAIN) => 0,
            result => result?,
        };
        read.extend_from_slice(&piece[..count]);
        // Looked at after the read: what is thrown away here was sent by one who has left.
        if hung_up(&port)? {
            read.clear();
        }
        if let Some(start) = read.windows(GREETING.len()).position(|bytes| bytes == GREETING) {
            return Ok(read.split_off(start));
        }
        read.drain(..read.len().saturating_sub(GREETING.len() - 1));
        if count == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn hung_up(port: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&port, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(fds[0].revents().contains(PollFlags::HUP))
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

#[cfg(test)]
mod tests;
