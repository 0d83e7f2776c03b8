//! How the host reaches the agent: a virtio-serial port that carries one connection at a time.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use costrel_agent_proto::AGENT_PORT;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// The kinds of byte stream between host and guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A virtio-serial port, found by its name, `costrel.<port>`.
    VirtioSerial,
}

/// Why the host cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no port of that name.
    #[error("no virtio-serial port is named {0}")]
    NoPort(String),
    /// The port could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Transport {
    /// Reads the value of the kernel argument `costrel.transport`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text == "virtio-serial").then_some(Self::VirtioSerial)
    }
}

/// The host's connections, one after the other.
///
/// # Errors
/// [`TransportError`].
pub fn connections(
    transport: Transport,
) -> Result<impl Stream<Item = io::Result<Connection>>, TransportError> {
    let Transport::VirtioSerial = transport;
    let path = port_device(&format!("costrel.{AGENT_PORT}"))?;
    let port = Arc::new(open_port(&path).map_err(|source| TransportError::Open { path, source })?);
    let free = Arc::new(Semaphore::new(1));
    Ok(async_stream::stream! {
        loop {
            // The port is one stream to the kernel: wait until the last connection let go of it.
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
            match host_connected(&port).await {
                Ok(()) => yield Ok(Connection { port: Arc::clone(&port), _permit: permit }),
                Err(error) => { yield Err(error); return }
            }
        }
    })
}

#[expect(unsafe_code, reason = "a file has to be promised to stay open")]
fn open_port(path: &Path) -> io::Result<AsyncFd<File>> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path)?;
    // SAFETY: the file owns its descriptor, moves into the `AsyncFd`, and is never closed or
    // replaced behind it: nothing here calls `get_mut` or `into_inner`.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// A port without a host reports a hang-up, always: nothing to wait for, so look again and again.
async fn host_connected(port: &AsyncFd<File>) -> io::Result<()> {
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

/// One connection of the host.
#[derive(Debug)]
pub struct Connection {
    port: Arc<AsyncFd<File>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.port.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|port| Ok(rustix::io::read(port.get_ref(), &mut *unfilled)?)) {
                Ok(Ok(count)) => {
                    // 0: the host closed its end. That is the end of this connection only.
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.port.poll_write_ready(context))?;
            match guard.try_io(|port| Ok(rustix::io::write(port.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
