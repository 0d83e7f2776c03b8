//! A proxy in front of a registry that can be told to misbehave.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
};

/// A request that passed.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
    /// How many requests of this method and path came before it.
    pub(crate) earlier: usize,
}

impl Request {
    pub(crate) fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }
}

/// What happens to an answer.
pub(crate) enum Fault {
    None,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The connection stays open after so many bytes of the body, and nothing comes.
    Stall(usize),
    /// One bit of the body is flipped, at this byte.
    Flip(usize),
    /// The registry is asked for everything, whatever the client asks for.
    IgnoreRange,
    /// The registry is not asked.
    Answer(&'static str, String, String),
}

type Faults = dyn Fn(&Request) -> Fault + Send + Sync;

struct Shared {
    upstream: String,
    faults: Box<Faults>,
    log: Mutex<Vec<Request>>,
    stalled: Notify,
}

pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(
        upstream: &str,
        faults: impl Fn(&Request) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            faults: Box::new(faults),
            log: Mutex::default(),
            stalled: Notify::new(),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let shared = serving.clone();
                connections.spawn(async move { shared.serve(client).await });
            }
        });
        Self { address, shared, task }
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Waits until an answer has stalled.
    pub(crate) async fn stalled(&self) {
        self.shared.stalled.notified().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

impl Shared {
    fn note(&self, head: &str) -> Request {
        let mut line = head.split_whitespace();
        let method = line.next().unwrap_or_default().to_owned();
        let target = line.next().unwrap_or_default();
        // What is sent to a proxy names the host.
        let path = match target.strip_prefix("http://").and_then(|rest| rest.find('/')) {
            Some(slash) => target["http://".len() + slash..].to_owned(),
            None => target.to_owned(),
        };
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let mut log = self.log.lock().unwrap();
        let same = |other: &&Request| other.method == method && other.path == path;
        let earlier = log.iter().filter(same).count();
        let (range, authorization) = (header("range"), header("authorization"));
        let request = Request { method, path, range, authorization, earlier };
        log.push(request.clone());
        request
    }

    async fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let head = read_head(&mut client).await?;
        let request = self.note(&head);
        let fault = (self.faults)(&request);
        if let Fault::Answer(status, headers, body) = &fault {
            let answer = format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            client.write_all(answer.as_bytes()).await?;
            client.write_all(body.as_bytes()).await?;
            return client.shutdown().await;
        }
        let mut upstream = TcpStream::connect(&self.upstream).await?;
        let mut forwarded = format!("{} {} HTTP/1.1\r\n", request.method, request.path);
        for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            let drop = matches!(fault, Fault::IgnoreRange) && name == "range";
            if name != "connection" && !drop {
                forwarded.push_str(&format!("{line}\r\n"));
            }
        }
        forwarded.push_str("Connection: close\r\n\r\n");
        upstream.write_all(forwarded.as_bytes()).await?;
        let answer_head = read_head(&mut upstream).await?;
        let mut body = Vec::new();
        upstream.read_to_end(&mut body).await?;
        client.write_all(answer_head.as_bytes()).await?;
        match fault {
            Fault::Cut(length) => body.truncate(length),
            Fault::Flip(at) if at < body.len() => body[at] ^= 1,
            Fault::Stall(length) => {
                client.write_all(&body[..length.min(body.len())]).await?;
                self.stalled.notify_one();
                std::future::pending::<()>().await;
            }
            _ => {}
        }
        client.write_all(&body).await?;
        client.shutdown().await
    }
}
