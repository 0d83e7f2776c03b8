//! One relayed connection between a socket and a call of `Relay.Accept`, the same on both sides.
//!
//! ```text
//!  socket ──read──► send ═══ data, finished ═══► receive ──► buffer ──► deliver ──write──► socket
//!                    ▲                                                    │
//!                    └──────────────── delivered ◄────────────────────────┘
//! ```
//! What has not been delivered is bounded by [`WINDOW`] and has a buffer of that size waiting for it,
//! so `receive` never waits for a socket. Without that, a socket that nobody reads would fill the
//! window that the connection shares with all other calls, and stop them.

use std::{
    io,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::{BufMut as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::{Semaphore, mpsc},
};
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use crate::v1::{Finished, RelayPiece, relay_piece::Piece};

/// How many bytes of a connection may be on their way, in each direction.
pub const WINDOW: usize = 128 << 10;

/// The most bytes of one piece.
pub const PIECE_LIMIT: usize = 16 << 10;

/// The address that the workload reaches the host at.
pub const HOST_ALIAS_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 254);

/// The name of [`HOST_ALIAS_ADDRESS`].
pub const HOST_ALIAS: &str = "host.costrel.internal";

/// Which side of the call this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It ends the call, when all is delivered.
    Agent,
    /// It waits for that: a call that its client ends takes back what is still under way.
    Host,
}

/// Why a connection did not come to its proper end. It is to be reset.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// The socket failed.
    #[error("the connection failed")]
    Socket(#[source] io::Error),
    /// The call failed.
    #[error("the relaying call failed")]
    Call(#[source] Box<Status>),
    /// The other side ended the call before its time.
    #[error("the relaying call has ended")]
    BrokeOff,
    /// The other side does not keep to the protocol.
    #[error("the other side of a relayed connection sent {0}")]
    Violation(&'static str),
}

/// A TCP connection that is reset when it is dropped, unless it was finished: its peer must not take
/// what got through for all there is.
#[derive(Debug)]
pub struct ResetOnDrop(Option<TcpStream>);

impl ResetOnDrop {
    /// Takes over a connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    /// Both directions have come to their ends: the connection closes as usual.
    pub fn finish(mut self) {
        self.0 = None;
    }
}

impl Deref for ResetOnDrop {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        self.0.as_ref().expect("only `finish` takes it, and that takes this as well")
    }
}

impl DerefMut for ResetOnDrop {
    fn deref_mut(&mut self) -> &mut TcpStream {
        self.0.as_mut().expect("only `finish` takes it, and that takes this as well")
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            let _ = stream.set_zero_linger();
        }
    }
}

/// Carries both directions to their ends. `incoming` and `outgoing` are the call's; what `Accept`
/// says first was said before.
///
/// # Errors
/// [`CarryError`]: reset the socket, and end the call with an error.
pub async fn carry(
    side: Side,
    socket: impl AsyncRead + AsyncWrite,
    incoming: impl Stream<Item = Result<RelayPiece, Status>>,
    outgoing: mpsc::Sender<RelayPiece>,
) -> Result<(), CarryError> {
    let (from_socket, to_socket) = tokio::io::split(socket);
    let (buffered, buffer) = tokio::io::simplex(WINDOW);
    let window = Window { credit: Semaphore::new(WINDOW), undelivered: AtomicUsize::new(0) };
    let mut send = std::pin::pin!(window.send(from_socket, &outgoing));
    let mut deliver = std::pin::pin!(window.deliver(buffered, to_socket, &outgoing));
    let mut receive = std::pin::pin!(window.receive(incoming, buffer));
    let (mut sent, mut delivered, mut ended) = (false, false, false);
    loop {
        tokio::select! {
            biased;
            result = &mut send, if !sent => {
                result?;
                sent = true;
            }
            result = &mut deliver, if !delivered => {
                result?;
                delivered = true;
            }
            finished = &mut receive, if !ended => {
                if !finished? || !sent || side == Side::Agent {
                    return Err(CarryError::BrokeOff);
                }
                ended = true;
            }
            // All credit is back: the other side has delivered everything.
            _ = window.credit.acquire_many(WHOLE), if side == Side::Agent && sent && delivered => {
                return Ok(());
            }
        }
        if ended && delivered {
            return Ok(());
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "128 KiB")]
const WHOLE: u32 = WINDOW as u32;

/// What is on its way.
struct Window {
    /// How many bytes may be sent.
    credit: Semaphore,
    /// How many bytes were received and not delivered.
    undelivered: AtomicUsize,
}

impl Window {
    async fn send(
        &self,
        mut socket: ReadHalf<impl AsyncRead>,
        outgoing: &mpsc::Sender<RelayPiece>,
    ) -> Result<(), CarryError> {
        loop {
            // Nobody else takes of it: what is there stays there until it is forgotten below.
            drop(self.credit.acquire().await);
            let room = self.credit.available_permits().min(PIECE_LIMIT);
            let mut data = BytesMut::with_capacity(room);
            let count = socket.read_buf(&mut (&mut data).limit(room)).await;
            let count = count.map_err(CarryError::Socket)?;
            if count == 0 {
                return say(outgoing, Piece::Finished(Finished {})).await;
            }
            self.credit.forget_permits(count);
            say(outgoing, Piece::Data(data.freeze())).await?;
        }
    }

    /// Returns when the call has ended: whether all data had come by then.
    async fn receive(
        &self,
        incoming: impl Stream<Item = Result<RelayPiece, Status>>,
        mut buffer: WriteHalf<tokio::io::SimplexStream>,
    ) -> Result<bool, CarryError> {
        let mut incoming = std::pin::pin!(incoming);
        let mut finished = false;
        while let Some(piece) = incoming.next().await {
            let piece = piece.map_err(|status| CarryError::Call(Box::new(status)))?;
            match piece.piece {
                Some(Piece::Data(data)) => {
                    if finished {
                        return Err(CarryError::Violation("data after its end"));
                    }
                    if data.is_empty() || data.len() > PIECE_LIMIT {
                        return Err(CarryError::Violation("a piece of a wrong size"));
                    }
                    let before = self.undelivered.fetch_add(data.len(), Ordering::Relaxed);
                    if before + data.len() > WINDOW {
                        return Err(CarryError::Violation("more than the window holds"));
                    }
                    // There is room for it.
                    buffer.write_all(&data).await.map_err(CarryError::Socket)?;
                }
                Some(Piece::Delivered(count)) => {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    if count > WINDOW - self.credit.available_permits() {
                        return Err(CarryError::Violation("word of more than it was sent"));
                    }
                    self.credit.add_permits(count);
                }
                Some(Piece::Finished(Finished {})) if !finished => {
                    finished = true;
                    buffer.shutdown().await.map_err(CarryError::Socket)?;
                }
                Some(Piece::Finished(_) | Piece::Opened(_)) | None => {
                    return Err(CarryError::Violation("a piece that has no place there"));
                }
            }
        }
        Ok(finished)
    }

    async fn deliver(
        &self,
        mut buffered: ReadHalf<tokio::io::SimplexStream>,
        mut socket: WriteHalf<impl AsyncWrite>,
        outgoing: &mpsc::Sender<RelayPiece>,
    ) -> Result<(), CarryError> {
        let mut data = BytesMut::new();
        loop {
            data.clear();
            data.reserve(PIECE_LIMIT);
            let count = buffered.read_buf(&mut (&mut data).limit(PIECE_LIMIT)).await;
            let count = count.map_err(CarryError::Socket)?;
            if count == 0 {
                return socket.shutdown().await.map_err(CarryError::Socket);
            }
            socket.write_all(&data).await.map_err(CarryError::Socket)?;
            self.undelivered.fetch_sub(count, Ordering::Relaxed);
            #[expect(clippy::cast_possible_truncation, reason = "at most PIECE_LIMIT")]
            say(outgoing, Piece::Delivered(count as u32)).await?;
        }
    }
}

async fn say(outgoing: &mpsc::Sender<RelayPiece>, piece: Piece) -> Result<(), CarryError> {
    let piece = RelayPiece { piece: Some(piece) };
    outgoing.send(piece).await.map_err(|_| CarryError::BrokeOff)
}

#[cfg(test)]
mod tests;
