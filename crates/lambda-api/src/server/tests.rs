//! What peers may do to a connection, spoken byte by byte.

use std::sync::atomic::Ordering;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;
use crate::{
    router,
    testing::{Functions, LEAVE, services},
};

struct Running {
    address: SocketAddr,
    functions: Arc<Functions>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

async fn start(limits: ServerLimits) -> Running {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(loopback, Remote::Refused, None, limits).await.unwrap();
    let address = server.address();
    let functions = Arc::<Functions>::default();
    let router = router(&services(&functions, None));
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = tokio::spawn(async move {
        let stop = async { drop(stopped.await) };
        server.serve(router, stop, Duration::from_secs(5)).await;
    });
    Running { address, functions, stop, ended }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes, and reads until the server closes.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may have closed before all is sent.
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }

    fn invocation(&self, more: &str, body: &str) -> String {
        format!(
            "POST /2015-03-31/functions/echo/invocations HTTP/1.1\r\nHost: {}\r\n{more}\r\n{body}",
            self.address
        )
    }

    fn ran(&self) -> bool {
        self.functions.last.lock().unwrap().is_some()
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(20), read).await;
    // A reset is an end as well.
    let _ = read.expect("the server closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn short() -> ServerLimits {
    ServerLimits {
        head: Duration::from_millis(300),
        body_pause: Duration::from_millis(300),
        ..ServerLimits::default()
    }
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = start(ServerLimits::default()).await;
    let one = server.invocation("Content-Length: 3\r\n", "[1]");
    let two = server.invocation("Content-Length: 3\r\nConnection: close\r\n", "[2]");
    let answer = server.exchange(format!("{one}{two}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
    assert!(answer.find("[1]").unwrap() < answer.find("[2]").unwrap());
}

#[tokio::test]
async fn the_host_must_name_the_port_that_is_listened_on() {
    let server = start(ServerLimits::default()).await;
    let request = server.invocation("Content-Length: 0\r\nConnection: close\r\n", "");
    assert_eq!(status(&server.exchange(request.as_bytes()).await), "200");
    for host in ["localhost:1", "localhost", "evil.example"] {
        let request = request.replace(&server.address.to_string(), host);
        assert_eq!(status(&server.exchange(request.as_bytes()).await), "403", "{host}");
    }
    let none = request.replace(&format!("Host: {}\r\n", server.address), "");
    assert_eq!(status(&server.exchange(none.as_bytes()).await), "400");
}

#[tokio::test]
async fn requests_of_two_meanings_are_refused() {
    let server = start(short()).await;
    for head in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3, 4\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length : 3\r\n",
        "X-A: b\r\n c\r\n",
        "X-A: b\0c\r\n",
    ] {
        let answer = server.exchange(server.invocation(head, "{}x").as_bytes()).await;
        assert_eq!(status(&answer), "400", "{head:?}: {answer}");
    }
    assert!(!server.ran());
}

#[tokio::test]
async fn a_length_beside_chunks_smuggles_nothing() {
    let server = start(short()).await;
    let smuggled = "GET /metrics HTTP/1.1\r\n\r\n";
    let body = format!("0\r\n\r\n{smuggled}");
    let head = format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", body.len());
    let answer = server.exchange(server.invocation(&head, &body).as_bytes()).await;
    // What stands behind the last chunk is a request of its own, without a host, or nothing at all.
    assert!(!answer.contains("costrel_"), "{answer}");
}

#[tokio::test]
async fn bad_chunks_are_no_body() {
    let server = start(short()).await;
    let head = "Transfer-Encoding: chunked\r\n";
    for body in ["x\r\n{}\r\n0\r\n\r\n", "2\r\n{}x0\r\n\r\n", "-1\r\n", "fffffffffffffffff\r\n{}"] {
        let answer = server.exchange(server.invocation(head, body).as_bytes()).await;
        assert_eq!(status(&answer), "400", "{body:?}: {answer}");
    }
    assert!(!server.ran());
}

#[tokio::test]
async fn large_heads_are_refused() {
    let server = start(short()).await;
    let large = format!("X-A: {}\r\n", "a".repeat(256 << 10));
    assert_eq!(status(&server.exchange(server.invocation(&large, "").as_bytes()).await), "431");
    let many = "X-A: b\r\n".repeat(200);
    assert_eq!(status(&server.exchange(server.invocation(&many, "").as_bytes()).await), "431");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(256 << 10));
    let answer = server.exchange(long.as_bytes()).await;
    assert!(["414", "431"].contains(&status(&answer)), "{answer}");
}

#[tokio::test]
async fn what_comes_too_slowly_is_ended() {
    let server = start(short()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: ").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.is_empty() || status(&answer) == "408", "{answer}");
    let mut stream = server.connect().await;
    let half = server.invocation("Content-Length: 10\r\n", "{");
    stream.write_all(half.as_bytes()).await.unwrap();
    assert_eq!(status(&read_to_end(&mut stream).await), "400");
    let mut silent = server.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    assert!(!server.ran());
}

#[tokio::test]
async fn who_sends_too_much_gets_to_read_the_answer() {
    let server = start(ServerLimits::default()).await;
    let size = 7 << 20;
    let head = format!("Content-Length: {size}\r\nConnection: close\r\n");
    let answer = server.exchange(server.invocation(&head, &"a".repeat(size)).as_bytes()).await;
    assert_eq!(status(&answer), "413", "{answer}");
    assert!(answer.contains(&format!("{size} byte payload is too large")), "{answer}");
}

#[tokio::test]
async fn requests_under_way_end_before_the_server_does() {
    let server = start(ServerLimits::default()).await;
    let slow = server.invocation("Content-Length: 3\r\n", "[1]").replace("/echo/", "/slow/");
    let mut busy = server.connect().await;
    busy.write_all(slow.as_bytes()).await.unwrap();
    let mut idle = server.connect().await;
    while server.functions.running.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.stop.send(()).unwrap();
    assert_eq!(read_to_end(&mut idle).await, "", "an idle connection is closed");
    assert!(TcpStream::connect(server.address).await.is_err(), "none is accepted any more");
    assert!(!server.ended.is_finished());
    LEAVE.add_permits(1);
    assert!(read_to_end(&mut busy).await.ends_with("[1]"));
    server.ended.await.unwrap();
}

#[tokio::test]
async fn others_are_let_in_only_with_a_token() {
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let token = Token::new("secret".to_owned());
    let bind = |remote, token| Server::bind(anywhere, remote, token, ServerLimits::default());
    let error = bind(Remote::Refused, Some(&token)).await.err();
    assert!(matches!(error, Some(BindError::NotLoopback(_))));
    let error = bind(Remote::Allowed, None).await.err();
    assert!(matches!(error, Some(BindError::NoToken(_))));
    assert!(bind(Remote::Allowed, Some(&token)).await.is_ok());
    let mapped = "[::ffff:127.0.0.1]:0".parse().unwrap();
    let server = Server::bind(mapped, Remote::Refused, None, ServerLimits::default()).await;
    assert!(!matches!(server.err(), Some(BindError::NotLoopback(_))));
}
