//! The sockets behind a guest's ports: listening ones for QEMU, streams for whoever dials.

use std::{
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use costrel_vmm::{DialError, GuestPort};
use costrel_vmm_process::SocketDirectory;
use rustix::net::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};

/// A machine's directory, and the ports in it.
#[derive(Debug)]
pub(crate) struct Ports {
    directory: SocketDirectory,
    ports: Vec<Arc<Port>>,
}

#[derive(Debug)]
struct Port {
    number: GuestPort,
    free: Arc<Semaphore>,
    /// The stream that is open, by another descriptor.
    open: Mutex<Option<OwnedFd>>,
}

fn name(port: GuestPort) -> String {
    format!("port-{port}")
}

impl Ports {
    pub(crate) fn new(directory: &Path, ports: &[GuestPort]) -> io::Result<Self> {
        // QEMU serves one client a port; the next would wait unseen until the first hangs up.
        let port = |&number| {
            Arc::new(Port { number, free: Arc::new(Semaphore::new(1)), open: Mutex::default() })
        };
        let ports = ports.iter().map(port).collect();
        Ok(Self { directory: SocketDirectory::open(directory)?, ports })
    }

    /// Listens on every port. A client that connects from now on waits for QEMU.
    pub(crate) fn listen(&self) -> io::Result<Vec<UnixListener>> {
        self.ports.iter().map(|port| self.directory.listen(&name(port.number))).collect()
    }

    /// Removes the sockets' names.
    pub(crate) fn remove(&self) {
        for port in &self.ports {
            self.directory.remove(&name(port.number));
        }
    }

    /// Ends all streams that are open.
    pub(crate) fn hang_up(&self) {
        for port in &self.ports {
            if let Some(stream) = &*port.open() {
                // Fails where QEMU has ended, which has hung up by that.
                let _ = rustix::net::shutdown(stream, Shutdown::Both);
            }
        }
    }

    /// Connects to a port.
    pub(crate) async fn dial(&self, port: GuestPort) -> Result<PortStream, DialError> {
        let declared = self.ports.iter().find(|declared| declared.number == port);
        let declared = declared.ok_or(DialError::Undeclared(port))?;
        let permit =
            Arc::clone(&declared.free).try_acquire_owned().map_err(|_| DialError::Busy(port))?;
        let address = self.directory.address(&name(port));
        loop {
            match UnixStream::connect(&address).await {
                Ok(stream) => {
                    let second = stream.as_fd().try_clone_to_owned();
                    let second = second.map_err(|source| DialError::Connect { port, source })?;
                    *declared.open() = Some(second);
                    let taken = TakenPort { port: Arc::clone(declared), _permit: permit };
                    return Ok(PortStream { stream, _port: taken });
                }
                // The queue of two that QEMU keeps is full of clients that hung up already.
                Err(source) if source.kind() == io::ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(2)).await;
                }
                Err(source) => return Err(DialError::Connect { port, source }),
            }
        }
    }
}

impl Port {
    fn open(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream to a guest's port. While it is open, the port is taken.
#[derive(Debug)]
pub(crate) struct PortStream {
    // Closed before the port is free again: fields are dropped in this order.
    stream: UnixStream,
    _port: TakenPort,
}

#[derive(Debug)]
struct TakenPort {
    port: Arc<Port>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for TakenPort {
    fn drop(&mut self) {
        self.port.open().take();
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use std::fs;

    use super::*;

    #[tokio::test]
    async fn one_stream_a_port_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().to_owned();
        let port = GuestPort(7);
        let ports = Ports::new(&directory, &[port]).unwrap();
        let listeners = ports.listen().unwrap();

        let mut first = ports.dial(port).await.unwrap();
        let (mut accepted, _) = listeners[0].accept().unwrap();
        first.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        io::Read::read_exact(&mut accepted, &mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        assert!(matches!(ports.dial(port).await, Err(DialError::Busy(_))));
        assert!(matches!(ports.dial(GuestPort(8)).await, Err(DialError::Undeclared(_))));

        drop(accepted);
        assert_eq!(first.read(&mut heard).await.unwrap(), 0);
        drop(first);
        let mut second = ports.dial(port).await.unwrap();
        let (mut accepted, _) = listeners[0].accept().unwrap();
        ports.hang_up();
        assert_eq!(io::Read::read(&mut accepted, &mut heard).unwrap(), 0);
        assert_eq!(second.read(&mut heard).await.unwrap(), 0);
        ports.remove();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
}
