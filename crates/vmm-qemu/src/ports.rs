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
    taken: Mutex<Option<Taken>>,
}

/// A port that somebody has dialled.
#[derive(Debug)]
struct Taken {
    by: Arc<Claim>,
    /// The stream, once it is there, by a descriptor of our own.
    stream: Option<OwnedFd>,
}

/// Equal to itself alone.
#[derive(Debug)]
struct Claim;

fn name(port: GuestPort) -> String {
    format!("port-{port}")
}

impl Ports {
    pub(crate) fn new(directory: &Path, ports: &[GuestPort]) -> io::Result<Self> {
        let port = |&number| Arc::new(Port { number, taken: Mutex::default() });
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

    /// Ends all streams that are open. Their ports are free at once.
    pub(crate) fn hang_up(&self) {
        for port in &self.ports {
            if let Some(Taken { stream: Some(stream), .. }) = port.taken().take() {
                // Fails where QEMU has ended, which has hung up by that.
                let _ = rustix::net::shutdown(stream, Shutdown::Both);
            }
        }
    }

    /// Connects to a port.
    pub(crate) async fn dial(&self, port: GuestPort) -> Result<PortStream, DialError> {
        let declared = self.ports.iter().find(|declared| declared.number == port);
        let declared = declared.ok_or(DialError::Undeclared(port))?;
        let hold = declared.take().ok_or(DialError::Busy(port))?;
        let address = self.directory.address(&name(port));
        loop {
            match UnixStream::connect(&address).await {
                Ok(stream) => {
                    let failed = |source| DialError::Connect { port, source };
                    hold.keep(stream.as_fd().try_clone_to_owned().map_err(failed)?);
                    return Ok(PortStream { stream, _hold: hold });
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
    /// Takes the port, if it is free: QEMU serves one client a port, and the next would wait
    /// unseen until the first hangs up.
    fn take(self: &Arc<Self>) -> Option<Hold> {
        let mut taken = self.taken();
        if taken.is_some() {
            return None;
        }
        let claim = Arc::new(Claim);
        *taken = Some(Taken { by: Arc::clone(&claim), stream: None });
        Some(Hold { port: Arc::clone(self), claim })
    }

    fn taken(&self) -> MutexGuard<'_, Option<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream to a guest's port. While it is open, the port is taken.
#[derive(Debug)]
pub(crate) struct PortStream {
    // Closed before the port is free again: fields are dropped in this order.
    stream: UnixStream,
    _hold: Hold,
}

/// What keeps a port taken, unless it was hung up.
#[derive(Debug)]
struct Hold {
    port: Arc<Port>,
    claim: Arc<Claim>,
}

impl Hold {
    fn keep(&self, stream: OwnedFd) {
        if let Some(taken) = &mut *self.port.taken()
            && Arc::ptr_eq(&taken.by, &self.claim)
        {
            taken.stream = Some(stream);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Somebody else's, perhaps, by now.
        self.port.taken().take_if(|taken| Arc::ptr_eq(&taken.by, &self.claim));
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
        let third = ports.dial(port).await.unwrap();
        drop(second);
        assert!(matches!(ports.dial(port).await, Err(DialError::Busy(_))), "it is the third's");
        drop(third);
        drop(ports.dial(port).await.unwrap());
        ports.remove();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
}
