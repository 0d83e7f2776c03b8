//! Ports of the host's loopback, as the workload finds them: listeners inside, whose connections
//! the host carries to its own.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use costrel_agent_proto::{
    relay::{HOST_ALIAS_ADDRESS, ResetOnDrop, Side, carry},
    v1::{HostPort, RelayPiece, relay_piece::Piece, relay_server::Relay},
};
use rustix::io::Errno;
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::transport::Retirement;

/// A connection of the workload's, which waits for the host.
#[derive(Debug)]
struct Waiting {
    port: u16,
    stream: ResetOnDrop,
}

/// The gRPC service of relayed connections. The listeners outlast any connection of the host's.
#[derive(Clone, Debug)]
pub(crate) struct RelayService {
    // One, and one with each listener: all others wait in the kernel's backlogs.
    arrivals: mpsc::Sender<Waiting>,
    waiting: Arc<Mutex<mpsc::Receiver<Waiting>>>,
}

impl RelayService {
    pub(crate) fn new() -> Self {
        let (arrivals, waiting) = mpsc::channel(1);
        Self { arrivals, waiting: Arc::new(Mutex::new(waiting)) }
    }

    /// Listens at these ports, for ever.
    pub(crate) async fn listen(&self, ports: &[HostPort]) -> io::Result<()> {
        for host_port in ports {
            let port = u16::try_from(host_port.port).ok().filter(|port| *port > 0);
            let port = port.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            self.listen_at(HOST_ALIAS_ADDRESS.into(), port).await?;
            if host_port.at_localhost {
                self.listen_at(Ipv4Addr::LOCALHOST.into(), port).await?;
                match self.listen_at(Ipv6Addr::LOCALHOST.into(), port).await {
                    // A kernel without IPv6.
                    Err(error) if is_without_family(&error) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }

    async fn listen_at(&self, address: IpAddr, port: u16) -> io::Result<()> {
        let listener = TcpListener::bind(SocketAddr::new(address, port)).await?;
        tokio::spawn(accept(listener, port, self.arrivals.clone()));
        Ok(())
    }

    /// Waits for a connection, and carries it to its end.
    async fn relay(
        &self,
        requests: Streaming<RelayPiece>,
        pieces: mpsc::Sender<RelayPiece>,
    ) -> Result<(), Status> {
        let waiting = self.waiting.lock().await.recv().await;
        // A sender is in `self`.
        let Waiting { port, mut stream } =
            waiting.ok_or_else(|| Status::unavailable("nobody listens"))?;
        let opened = RelayPiece { piece: Some(Piece::Opened(port.into())) };
        let _ = pieces.send(opened).await;
        carry(Side::Agent, &mut *stream, requests, pieces)
            .await
            .map_err(|error| Status::aborted(error.to_string()))?;
        stream.finish();
        Ok(())
    }
}

async fn accept(listener: TcpListener, port: u16, arrivals: mpsc::Sender<Waiting>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                let waiting = Waiting { port, stream: ResetOnDrop::new(stream) };
                if arrivals.send(waiting).await.is_err() {
                    return;
                }
            }
            // Too few descriptors, or the like: it may pass.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn is_without_family(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[tonic::async_trait]
impl Relay for RelayService {
    type AcceptStream = Pin<Box<dyn Stream<Item = Result<RelayPiece, Status>> + Send>>;

    async fn accept(
        &self,
        request: Request<Streaming<RelayPiece>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        let connection = request.extensions().get::<Retirement>().cloned();
        let retired = async move {
            match connection {
                Some(connection) => connection.retired().await,
                None => std::future::pending().await,
            }
        };
        let service = self.clone();
        let pieces = async_stream::stream! {
            let (sender, mut receiver) = mpsc::channel(4);
            let relay = service.relay(request.into_inner(), sender);
            let mut relay = Some(Box::pin(relay));
            let mut retired = pin!(retired);
            loop {
                tokio::select! {
                    biased;
                    // The connection is reset now, and not when the machine goes on. To end the
                    // call in due form would put words on the stream that may come out when
                    // another has it.
                    () = &mut retired => {
                        drop(relay.take());
                        std::future::pending::<()>().await;
                    }
                    piece = receiver.recv() => match piece {
                        Some(piece) => yield Ok(piece),
                        None => return,
                    },
                    result = async { relay.as_mut().expect("not over yet").await }, if relay.is_some() => {
                        relay = None;
                        // What of a failed connection is still under way does not matter.
                        if let Err(status) = result {
                            yield Err(status);
                            return;
                        }
                    }
                }
            }
        };
        Ok(Response::new(Box::pin(pieces)))
    }
}

#[cfg(test)]
mod tests;
