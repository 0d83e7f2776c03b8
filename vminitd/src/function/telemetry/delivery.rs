//! Carries batches to a subscriber.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::{queue::Queue, subscription::Destination};

/// How often a batch is sent again, and after which pauses.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(300),
    Duration::from_millis(1000),
    Duration::from_millis(3000),
];

/// How long a subscriber may take to acknowledge a batch.
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// Why a batch was not delivered.
#[derive(Debug, thiserror::Error)]
enum DeliverError {
    #[error("nobody listens: {0}")]
    Connect(#[from] io::Error),
    #[error("the subscriber broke off: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
    #[error("the subscriber answered {0}")]
    Refused(http::StatusCode),
    #[error("the subscriber did not answer")]
    Timeout(#[from] tokio::time::error::Elapsed),
}

/// Delivers what is put into the queue, until it is dropped.
pub(super) async fn deliver(queue: Arc<Queue>, destination: Destination) {
    let mut line = Line::default();
    loop {
        let batch = queue.batch().await;
        if !delivered(&destination, &mut line, &batch).await {
            queue.lost(&batch);
        }
    }
}

async fn delivered(destination: &Destination, line: &mut Line, batch: &[String]) -> bool {
    let mut pauses = PAUSES.iter();
    loop {
        let sent = match destination {
            Destination::Http { port, authority, path } => {
                let body = format!("[{}]", batch.join(","));
                post(*port, authority, path, body.into()).await
            }
            Destination::Tcp { port } => line.send(*port, batch).await,
        };
        if sent.is_ok() {
            return true;
        }
        let Some(pause) = pauses.next() else { return false };
        tokio::time::sleep(*pause).await;
    }
}

/// A connection for each batch: subscribers need not know how to keep one.
async fn post(port: u16, authority: &str, path: &str, body: Bytes) -> Result<(), DeliverError> {
    let request = Request::post(path)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))?;
    let exchange = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let asking = async { Ok::<_, DeliverError>(sender.send_request(request).await?.status()) };
        tokio::pin!(asking);
        tokio::pin!(connection);
        // The connection may end before the reply is looked at, but not before it is there.
        tokio::select! {
            biased;
            status = &mut asking => status,
            _ = &mut connection => asking.await,
        }
    };
    match timeout(REPLY_LIMIT, exchange).await?? {
        status if status.is_success() => Ok(()),
        status => Err(DeliverError::Refused(status)),
    }
}

/// The connection of a subscriber who gets a record a line.
#[derive(Default)]
struct Line {
    stream: Option<TcpStream>,
}

impl Line {
    async fn send(&mut self, port: u16, batch: &[String]) -> Result<(), DeliverError> {
        let mut text = batch.join("\n");
        text.push('\n');
        let stream = match self.stream.take() {
            Some(stream) => stream,
            None => TcpStream::connect(("127.0.0.1", port)).await?,
        };
        let mut stream = stream;
        timeout(REPLY_LIMIT, stream.write_all(text.as_bytes())).await??;
        // One that failed is not used again.
        self.stream = Some(stream);
        Ok(())
    }
}
