//! The HTTP server on 127.0.0.1:9001 that runtime and extensions talk to.

use std::{convert::Infallible, io, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use super::{
    extensions, protocol,
    replies::{self, Reply},
    runtime_api,
    session::Shared,
    telemetry,
};

/// The most that a request's line and headers may have, in bytes: the cause of an error for X-Ray
/// is one of them, and has up to 1 MiB.
const HEADERS_LIMIT: usize = (1 << 20) + (64 << 10);

/// Binds the port, or any free one in tests.
pub(super) async fn bind(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port)).await
}

/// Serves connections until the executor ends.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve_connection(stream, Arc::clone(&shared)));
            }
            // Out of file descriptors: connections must end before another can begin.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(handle(&shared, request).await) }
    });
    // A runtime that breaks off is seen by its process's end, or by its next call.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(HEADERS_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn handle(shared: &Arc<Shared>, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        protocol::CREDENTIALS_PATH if request.method() == Method::GET => {
            credentials(shared, request.headers())
        }
        telemetry::TELEMETRY_PATH => telemetry::subscribe(shared, request, true).await,
        telemetry::LOGS_PATH => telemetry::subscribe(shared, request, false).await,
        path => {
            if let Some(path) = path.strip_prefix("/2018-06-01/") {
                runtime_api::handle(shared, path, request).await
            } else if let Some(path) = path.strip_prefix("/2020-01-01/") {
                extensions::handle(shared, path, request).await
            } else {
                replies::not_found()
            }
        }
    }
}

fn credentials(shared: &Shared, headers: &HeaderMap) -> Reply {
    let Some(credentials) = shared.credentials() else { return replies::not_found() };
    match headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes) {
        None | Some(b"") => replies::no_credentials(StatusCode::UNAUTHORIZED),
        Some(token) if token == credentials.authorization_token.as_bytes() => {
            replies::credentials(credentials.body)
        }
        Some(_) => replies::no_credentials(StatusCode::FORBIDDEN),
    }
}
