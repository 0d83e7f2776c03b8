//! One connection of the host, whatever carries it.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::Shutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd},
    sync::{OwnedMutexGuard, watch},
};
use tonic::transport::server::Connected;

use super::frames::Frames;

/// One connection of the host.
pub struct Connection {
    // Before the carrier: the next connection to a port may begin when this one has let go of it.
    file: AsyncFd<OwnedFd>,
    carrier: Carrier,
    retirement: Retirement,
    /// Ready when a connection that was retired has had its time.
    leaving: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Ready when it is known of a port whether its host has left or another one is there.
    doubt: Option<Doubt>,
    left: bool,
}

/// Whether the hang-up has stayed.
type Doubt = Pin<Box<dyn Future<Output = io::Result<bool>> + Send>>;

enum Carrier {
    /// Shared by all connections, one after the other.
    Port(Port),
    /// A socket of its own.
    Socket,
}

/// The part of a port that goes from one connection to the next.
struct Port {
    /// What was read of the port and not used. The next connection waits for it, and begins there.
    unused: OwnedMutexGuard<Vec<u8>>,
    frames: Frames,
}

impl Port {
    /// How many of the bytes are for this connection. If not all, it is over.
    fn own(&mut self, bytes: &[u8]) -> usize {
        match self.frames.end(bytes) {
            Some((own, rest)) => {
                self.unused.splice(..0, rest);
                own
            }
            None => bytes.len(),
        }
    }
}

/// How long a retired connection may take to send the reply that is its last.
const LAST_WORDS: Duration = Duration::from_millis(10);

/// How often, and how long in between, a port's hang-up is looked at again before it counts.
const LOOKS: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(2);

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
    /// A connection to a port, of which `unused` was read already, from a client's greeting on.
    pub(super) fn port(file: AsyncFd<OwnedFd>, unused: OwnedMutexGuard<Vec<u8>>) -> Self {
        Self::new(file, Carrier::Port(Port { unused, frames: Frames::new() }))
    }

    pub(super) fn socket(file: AsyncFd<OwnedFd>) -> Self {
        Self::new(file, Carrier::Socket)
    }

    fn new(file: AsyncFd<OwnedFd>, carrier: Carrier) -> Self {
        let retirement = Retirement::new();
        let retired = retirement.clone();
        let leaving = Box::pin(async move {
            retired.retired().await;
            tokio::time::sleep(LAST_WORDS).await;
        });
        Self { file, carrier, retirement, leaving, doubt: None, left: false }
    }

    fn is_port(&self) -> bool {
        matches!(self.carrier, Carrier::Port(_))
    }

    /// The port has hung up, or has had once: to the executor a hang-up is for good. Ready when it
    /// is known to be at its end, or is watched anew. Reading and writing wait for it alike, as
    /// either may be all that is waited for.
    fn poll_doubt(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let doubt = match &mut self.doubt {
            Some(doubt) => doubt,
            None => self.doubt.insert(stays_hung_up(self.file.get_ref().try_clone()?)),
        };
        let stayed = ready!(doubt.as_mut().poll(context));
        self.doubt = None;
        self.left = stayed?;
        if !self.left {
            self.file = register(self.file.get_ref().try_clone()?)?;
        }
        Poll::Ready(Ok(()))
    }
}

fn stays_hung_up(port: OwnedFd) -> Doubt {
    Box::pin(async move {
        for _ in 0..LOOKS {
            let mut fds = [PollFd::new(&port, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            if !fds[0].revents().contains(PollFlags::HUP) {
                return Ok(false);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(true)
    })
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
        if let Carrier::Port(port) = &mut this.carrier
            && !port.unused.is_empty()
        {
            let count = port.unused.len().min(buffer.remaining());
            let bytes: Vec<u8> = port.unused.drain(..count).collect();
            let own = port.own(&bytes);
            this.left = own < count;
            buffer.put_slice(&bytes[..own]);
            return Poll::Ready(Ok(()));
        }
        while !this.left {
            let is_port = this.is_port();
            let mut guard = ready!(this.file.poll_read_ready(context))?;
            let is_closed = guard.ready().is_read_closed();
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|file| Ok(rustix::io::read(file.get_ref(), &mut *unfilled)?)) {
                Ok(Ok(0)) if is_port => ready!(this.poll_doubt(context))?,
                Ok(Ok(count)) => {
                    // 0: the host closed its end. That is the end of this connection only.
                    let own = match &mut this.carrier {
                        Carrier::Port(port) => port.own(&unfilled[..count]),
                        Carrier::Socket => count,
                    };
                    this.left = own < count;
                    buffer.advance(own);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) if is_port && is_closed => ready!(this.poll_doubt(context))?,
                Err(_would_block) => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while !this.left {
            let is_port = this.is_port();
            let mut guard = ready!(this.file.poll_write_ready(context))?;
            let is_closed = guard.ready().is_write_closed();
            match guard.try_io(|file| Ok(rustix::io::write(file.get_ref(), bytes)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) if is_port && is_closed => ready!(this.poll_doubt(context))?,
                Err(_would_block) => {}
            }
        }
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.carrier {
            // A port has no way to say that nothing more will come.
            Carrier::Port(_) => Poll::Ready(Ok(())),
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
