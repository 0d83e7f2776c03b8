//! One connection of the host, whatever carries it.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::net::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    sync::OwnedSemaphorePermit,
};
use tonic::transport::server::Connected;

/// One connection of the host.
#[derive(Debug)]
pub struct Connection {
    file: Arc<AsyncFd<OwnedFd>>,
    carrier: Carrier,
}

#[derive(Debug)]
enum Carrier {
    /// Shared by all connections, one after the other; the next waits for the permit.
    Port { _permit: OwnedSemaphorePermit },
    /// A socket of its own.
    Socket,
}

impl Connection {
    pub(super) fn port(file: Arc<AsyncFd<OwnedFd>>, permit: OwnedSemaphorePermit) -> Self {
        Self { file, carrier: Carrier::Port { _permit: permit } }
    }

    pub(super) fn socket(file: AsyncFd<OwnedFd>) -> Self {
        Self { file: Arc::new(file), carrier: Carrier::Socket }
    }
}

/// Has the executor watch a file, which must be non-blocking.
#[expect(unsafe_code, reason = "a file has to be promised to stay open")]
pub(super) fn register(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `OwnedFd` moves into the `AsyncFd` and is never closed or replaced behind it:
    // nothing in `transport` calls `get_mut` or `into_inner`.
    Ok(unsafe { AsyncFd::register(file) }?)
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
            let mut guard = ready!(self.file.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|file| Ok(rustix::io::read(file.get_ref(), &mut *unfilled)?)) {
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
            let mut guard = ready!(self.file.poll_write_ready(context))?;
            match guard.try_io(|file| Ok(rustix::io::write(file.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.carrier {
            // A port has no way to say that nothing more will come.
            Carrier::Port { .. } => Poll::Ready(Ok(())),
            Carrier::Socket => {
                match rustix::net::shutdown(self.file.get_ref(), Shutdown::Write) {
                    // The host has gone before us.
                    Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
                    Err(error) => Poll::Ready(Err(error.into())),
                }
            }
        }
    }
}
