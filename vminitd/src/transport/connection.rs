//! One connection of the host, whatever carries it.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::Shutdown;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, watch},
};
use tonic::transport::server::Connected;

/// One connection of the host.
pub struct Connection {
    // Before the carrier: the next connection to a port may begin when this one has let go of it.
    file: AsyncFd<OwnedFd>,
    carrier: Carrier,
    /// What was read before it was known that this is a connection.
    read_ahead: Vec<u8>,
    retirement: Retirement,
    /// Ready when a connection that was retired has had its time.
    leaving: Pin<Box<dyn Future<Output = ()> + Send>>,
    left: bool,
}

#[derive(Debug)]
enum Carrier {
    /// Shared by all connections, one after the other; the next waits for the permit.
    Port { _permit: OwnedSemaphorePermit },
    /// A socket of its own.
    Socket,
}

/// How long a retired connection may take to send the reply that is its last.
const LAST_WORDS: Duration = Duration::from_millis(10);

/// Ends a connection from within one of its calls, which find it in their extensions.
///
/// From then on nothing is read: what comes may be meant for the connection that follows. The
/// reply to the call still leaves. Then the connection is at its end, as if the host had closed it.
#[derive(Clone, Debug)]
pub struct Retirement(watch::Sender<bool>);

impl Retirement {
    fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn retire(&self) {
        self.0.send_replace(true);
    }

    /// Returns when the connection was retired.
    pub(crate) async fn retired(&self) {
        // It cannot fail, as the sender is here.
        let _ = self.0.subscribe().wait_for(|retired| *retired).await;
    }

    fn is_retired(&self) -> bool {
        *self.0.borrow()
    }
}

impl Connection {
    /// A connection to a port, of which `read_ahead` was read already.
    pub(super) fn port(
        file: AsyncFd<OwnedFd>,
        read_ahead: Vec<u8>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(file, Carrier::Port { _permit: permit }, read_ahead)
    }

    pub(super) fn socket(file: AsyncFd<OwnedFd>) -> Self {
        Self::new(file, Carrier::Socket, Vec::new())
    }

    fn new(file: AsyncFd<OwnedFd>, carrier: Carrier, read_ahead: Vec<u8>) -> Self {
        let retirement = Retirement::new();
        let retired = retirement.clone();
        let leaving = Box::pin(async move {
            retired.retired().await;
            tokio::time::sleep(LAST_WORDS).await;
        });
        Self { file, carrier, read_ahead, retirement, leaving, left: false }
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
    type ConnectInfo = Retirement;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.retirement.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left || this.leaving.as_mut().poll(context).is_ready() {
            this.left = true;
            return Poll::Ready(Ok(()));
        }
        if this.retirement.is_retired() {
            return Poll::Pending;
        }
        if !this.read_ahead.is_empty() {
            let count = this.read_ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.read_ahead[..count]);
            this.read_ahead.drain(..count);
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut guard = ready!(this.file.poll_read_ready(context))?;
            // To the executor, a hang-up is for good. A port has another host when this one has
            // left: what it reads now may be the next one's, or nothing, again and again.
            if matches!(this.carrier, Carrier::Port { .. }) && guard.ready().is_read_closed() {
                return Poll::Ready(Ok(()));
            }
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
        if self.left {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        loop {
            let mut guard = ready!(self.file.poll_write_ready(context))?;
            if matches!(self.carrier, Carrier::Port { .. }) && guard.ready().is_write_closed() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_retired_connection_speaks_its_last_words_and_ends() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut connection = Connection::socket(register(ours.into()).unwrap());
        let handle = connection.connect_info();
        let mut buffer = [0; 9];
        std::io::Write::write_all(&mut theirs, b"before").unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 6);

        handle.retire();
        handle.retired().await;
        std::io::Write::write_all(&mut theirs, b"to another").unwrap();
        tokio::select! {
            biased;
            read = connection.read(&mut buffer) => panic!("{read:?}"),
            () = std::future::ready(()) => {}
        }
        connection.write_all(b"last words").await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 0);
        let error = connection.write_all(b"too late").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let mut heard = [0; 20];
        let count = std::io::Read::read(&mut theirs, &mut heard).unwrap();
        assert_eq!(&heard[..count], b"last words");
    }
}
