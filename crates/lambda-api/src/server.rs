//! Listens, and serves HTTP/1.1 on each connection, until it is told to end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
};
use tower::ServiceExt as _;
use tower_http::timeout::RequestBodyTimeoutLayer;

use crate::{Connection, Token};

/// What a server does to its peers' connections.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// How many connections there may be. More wait to be accepted.
    pub connections: usize,
    /// How long a request's head may take, and a connection may be without a request.
    pub head: Duration,
    /// How long the body may pause.
    pub body_pause: Duration,
    /// The size of a request's head, in bytes: at least 8192.
    pub head_size: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head: Duration::from_secs(60),
            body_pause: Duration::from_secs(60),
            head_size: 64 << 10,
        }
    }
}

/// Listens with room for as many connections as are served at a time: callers that come all at once
/// would find theirs reset otherwise. The kernel has a limit of its own (net.core.somaxconn).
fn listen(address: SocketAddr, connections: usize) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A server that was just ended leaves connections that wait for nothing.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(u32::try_from(connections).unwrap_or(u32::MAX))
}

/// Whether others than this host may call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remote {
    /// They may not.
    Refused,
    /// They may, if they have the token.
    Allowed,
}

/// Why a server does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Others could reach it, and that was not asked for.
    #[error(
        "{0} is not a loopback address: others could call functions there. To have that, allow \
         remote calls and set a token"
    )]
    NotLoopback(SocketAddr),
    /// Others could reach it, and there is nothing to tell them apart by.
    #[error("remote calls at {0} are allowed, and there is no token that they would have to prove")]
    NoToken(SocketAddr),
    /// The address cannot be listened on.
    #[error("{address} cannot be listened on")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: ServerLimits,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// [`BindError`]: others could call, or the address cannot be had.
    pub async fn bind(
        address: SocketAddr,
        remote: Remote,
        token: Option<&Token>,
        limits: ServerLimits,
    ) -> Result<Self, BindError> {
        if !address.ip().to_canonical().is_loopback() {
            match (remote, token) {
                (Remote::Refused, _) => return Err(BindError::NotLoopback(address)),
                (Remote::Allowed, None) => return Err(BindError::NoToken(address)),
                (Remote::Allowed, Some(_)) => {}
            }
        }
        let failed = |source| BindError::Listen { address, source };
        let listener = listen(address, limits.connections).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, limits })
    }

    /// A server on a listener that others are not kept from.
    #[cfg(test)]
    pub(crate) fn of(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("it listens");
        Self { listener, address, limits: ServerLimits::default() }
    }

    /// Where it listens: with the port that it got, where it asked for any.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is done: then it accepts no more, lets requests under way end for
    /// `grace`, and returns.
    pub async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()> + Send,
        grace: Duration,
    ) {
        let Self { listener, limits, .. } = self;
        let router = router.layer(RequestBodyTimeoutLayer::new(limits.body_pause));
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(limits.connections));
        let mut stop = std::pin::pin!(stop);
        loop {
            let permit = tokio::select! {
                biased;
                () = &mut stop => break,
                permit = connections.clone().acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let Ok(local) = stream.local_addr() else { continue };
            // Answers are small, and none is to wait for the one before to be acknowledged.
            let _ = stream.set_nodelay(true);
            let connection = Connection { peer, local };
            let served = graceful.watch(http(&limits, stream, router.clone(), connection));
            tokio::spawn(async move {
                if let Err(error) = served.await {
                    tracing::debug!(%peer, error = crate::error::chain(&error), "a connection has ended early");
                }
                drop(permit);
            });
        }
        drop(listener);
        if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
            tracing::warn!("requests were under way when the server ended");
        }
    }
}

type Served = hyper::server::conn::http1::Connection<
    TokioIo<TcpStream>,
    TowerToHyperService<tower::util::BoxCloneService<Request, axum::response::Response, Never>>,
>;
type Request = http::Request<Incoming>;
type Never = std::convert::Infallible;

fn http(
    limits: &ServerLimits,
    stream: TcpStream,
    router: Router,
    connection: Connection,
) -> Served {
    let service = router.map_request(move |request: Request| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection);
        request
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_size)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.boxed_clone()))
}

/// Out of file descriptors, say: it would only be so again at once.
async fn pause_after(error: &io::Error) {
    let is_peers = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    );
    if !is_peers {
        tracing::warn!(error = error as &dyn std::error::Error, "no connection was accepted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests;
