//! A virtio-serial port, which carries one connection at a time.
//!
//! The port has no connections of its own: it is one stream, with a hang-up while the host has it
//! closed. That is easily missed, when the host closes and opens it again at once, or where a
//! machine was saved in between. It comes late, too: it travels past the bytes, so that those of
//! the next client may be there before it. And what nobody has read of what one client sent is
//! there for the next. So a connection is what begins as HTTP/2 does, everything before that belongs
//! to nobody, and a hang-up counts when it stays. What may happen then:
//!
//! - The hang-up is seen: the connection ends, and the next one is looked for.
//! - It is missed. The old connection ends all the same, where its client has said goodbye or a
//!   new one greets ([`Frames`](super::frames::Frames)), and the new one has the next. Unless the
//!   old client stopped within a frame, which swallows the greeting: a host waits for an answer with
//!   a limit, and closes the port for longer than a hang-up takes to count.
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
    fs::{Mode, OFlags},
    io::Errno,
};
use tokio::sync::Mutex;
use tokio_stream::Stream;

use super::{Connection, TransportError, connection::register, frames::GREETING};

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
    // The port is one stream to the kernel: who holds this has it.
    let unused = Arc::new(Mutex::new(Vec::new()));
    async_stream::stream! {
        loop {
            let mut unused = Arc::clone(&unused).lock_owned().await;
            let connection = async {
                greeting(&port, &mut unused).await?;
                // A registration of its own: the executor keeps a hang-up for good.
                Ok(Connection::port(register(port.try_clone()?)?, unused))
            };
            match connection.await {
                Ok(connection) => yield Ok(connection),
                Err(error) => { yield Err(error); return }
            }
        }
    }
}

/// Reads on until what was read begins with a client's greeting.
///
/// A port without a host reads as ended, always: nothing to wait for, so look again and again.
async fn greeting(port: impl AsFd, read: &mut Vec<u8>) -> io::Result<()> {
    loop {
        if let Some(start) = read.windows(GREETING.len()).position(|bytes| bytes == GREETING) {
            read.drain(..start);
            return Ok(());
        }
        read.drain(..read.len().saturating_sub(GREETING.len() - 1));
        let mut piece = [0; 4096];
        let count = match rustix::io::read(&port, &mut piece) {
            Err(Errno::AGAIN) => 0,
            result => result?,
        };
        read.extend_from_slice(&piece[..count]);
        if count == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
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

#[cfg(test)]
mod tests;
