//! The host's side of the workload's connections to ports of the host's loopback.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use costrel_agent_proto::{
    relay::{CarryError, ResetOnDrop, Side, carry},
    v1::{RelayPiece, relay_client::RelayClient, relay_piece::Piece},
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::AgentClient;

/// How many connections of one machine are relayed at a time. More wait in the guest's kernel.
pub const RELAYED_CONNECTIONS: usize = 64;

/// How many calls wait for connections, so that those that come together need not come one by one.
const WAITING_CALLS: usize = 4;

/// How long a port of this host's loopback may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Carries a workload's connections to ports of this host's loopback, and to no others. Dropping it
/// resets them.
///
/// Each takes at most 128 KiB of this host's memory in each direction. An agent that names another
/// port, or does not keep to the protocol before a connection is open, is relayed nothing more.
#[derive(Debug)]
pub struct HostRelay {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl HostRelay {
    /// Begins, on a connection to the agent of a machine that was prepared with these ports. It goes
    /// on until that connection ends.
    ///
    /// # Panics
    /// Outside of a tokio executor.
    #[must_use]
    pub fn start(agent: &AgentClient, ports: impl IntoIterator<Item = u16>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let relaying = Relaying {
            client: agent.relay(),
            ports: Arc::new(ports.into_iter().collect()),
            room: Arc::new(Semaphore::new(RELAYED_CONNECTIONS)),
        };
        Self { stop, task: tokio::spawn(relaying.run(stopped)) }
    }

    /// Ends it. When this returns, nothing of it uses the connection to the agent any more.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let _ = (&mut self.task).await;
    }
}

impl Drop for HostRelay {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Why no connections are relayed any more.
#[derive(Debug)]
struct Over;

struct Relaying {
    client: RelayClient<Channel>,
    ports: Arc<BTreeSet<u16>>,
    room: Arc<Semaphore>,
}

/// A connection that has come.
struct Opened {
    port: u16,
    incoming: Streaming<RelayPiece>,
    outgoing: mpsc::Sender<RelayPiece>,
    room: OwnedSemaphorePermit,
}

impl Relaying {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let mut calls = JoinSet::new();
        let mut connections = JoinSet::new();
        for _ in 0..WAITING_CALLS {
            calls.spawn(self.next());
        }
        loop {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => break,
                Some(_ended) = connections.join_next() => {}
                Some(call) = calls.join_next() => {
                    let Ok(Ok(opened)) = call else { break };
                    connections.spawn(opened.carry());
                    calls.spawn(self.next());
                }
            }
        }
        calls.shutdown().await;
        connections.shutdown().await;
    }

    /// Waits for the next connection.
    fn next(&self) -> impl Future<Output = Result<Opened, Over>> + Send + use<> {
        let (mut client, ports) = (self.client.clone(), Arc::clone(&self.ports));
        let room = Arc::clone(&self.room);
        async move {
            let room = room.acquire_owned().await.map_err(|_| Over)?;
            let (outgoing, receiver) = mpsc::channel(4);
            let response = client.accept(ReceiverStream::new(receiver)).await;
            let mut incoming = response.map_err(|_| Over)?.into_inner();
            let first = incoming.message().await.ok().flatten().and_then(|piece| piece.piece);
            let Some(Piece::Opened(port)) = first else { return Err(Over) };
            let port = u16::try_from(port).ok().filter(|port| ports.contains(port)).ok_or(Over)?;
            Ok(Opened { port, incoming, outgoing, room })
        }
    }
}

impl Opened {
    /// However it fails, both ends of the connection are reset: the one here when it is dropped, the
    /// other one when the call is.
    async fn carry(self) -> Result<(), CarryError> {
        let Self { port, incoming, outgoing, room: _held } = self;
        let mut stream = ResetOnDrop::new(connect(port).await.map_err(CarryError::Socket)?);
        carry(Side::Host, &mut *stream, incoming, outgoing).await?;
        stream.finish();
        Ok(())
    }
}

/// As most programs do it that are told `localhost`, but IPv4 first.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let attempt = async {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await
            }
            connected => connected,
        }
    };
    let stream = timeout(CONNECT_LIMIT, attempt).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
