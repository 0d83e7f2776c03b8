//! The port's connections, with stand-ins for the port: a FIFO hangs up and comes back as a port
//! does, a pair of sockets carries both ways and never hangs up while the test holds its end.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::{fs::OpenOptionsExt as _, net::UnixStream as BlockingStream},
    path::Path,
    pin::pin,
};

use costrel_agent_proto::v1::{
    DescribeRequest, DescribeResponse, PowerOffRequest, PowerOffResponse, PrepareRequest,
    PrepareResponse, ResumeRequest, ResumeResponse, SuspendRequest, SuspendResponse,
    agent_server::{Agent, AgentServer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status};

use super::*;
use crate::transport::Retirement;

const LONG: Duration = Duration::from_secs(20);

fn fifo(path: &Path) -> OwnedFd {
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .unwrap()
        .into()
}

fn writer(path: &Path) -> File {
    OpenOptions::new().write(true).open(path).unwrap()
}

#[tokio::test]
async fn a_hang_up_ends_a_connection_and_the_next_one_begins_with_its_greeting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("port");
    let mut connections = pin!(greeted(fifo(&path)));
    for round in 0..3 {
        let mut client = writer(&path);
        client.write_all(GREETING).unwrap();
        client.write_all(&[round]).unwrap();
        let mut connection = timeout(LONG, connections.next()).await.unwrap().unwrap().unwrap();
        let mut read = vec![0; GREETING.len() + 1];
        timeout(LONG, connection.read_exact(&mut read)).await.unwrap().unwrap();
        assert_eq!(read, [GREETING, &[round]].concat());
        // What nobody has read when the hang-up is seen belongs to nobody.
        let mut left = writer(&path);
        left.write_all(&[b'x'; 100]).unwrap();
        drop((client, left));
        let rest = timeout(LONG, connection.read(&mut read)).await.unwrap();
        assert!(matches!(rest, Ok(0 | 25)), "{rest:?}");
        while timeout(LONG, connection.read(&mut read)).await.unwrap().unwrap() > 0 {}
        assert_eq!(connection.read(&mut read).await.unwrap(), 0, "an end is an end");
    }
}

#[tokio::test]
async fn a_greeting_is_found_among_what_others_left_and_across_pieces() {
    let (port, mut client) = pair();
    let mut connections = pin!(greeted(port));
    client.write_all(b"left over PRI * HTTP/2.0\r\n\r\nSM\r\n").await.unwrap();
    client.write_all(&vec![b'P'; 10_000]).await.unwrap();
    let found = async {
        for byte in GREETING {
            client.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.write_all(b"more").await.unwrap();
    };
    let (connection, ()) = tokio::join!(timeout(LONG, connections.next()), found);
    let mut connection = connection.unwrap().unwrap().unwrap();
    let mut read = vec![0; GREETING.len() + 4];
    // In pieces, as whoever reads has room for.
    let (first, rest) = read.split_at_mut(5);
    connection.read_exact(first).await.unwrap();
    connection.read_exact(rest).await.unwrap();
    assert_eq!(read, [GREETING, b"more"].concat());
}

/// An agent that only suspends, and not much of that.
struct Suspending;

#[tonic::async_trait]
impl Agent for Suspending {
    async fn describe(
        &self,
        _request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(DescribeResponse::default()))
    }

    async fn suspend(
        &self,
        request: Request<SuspendRequest>,
    ) -> Result<Response<SuspendResponse>, Status> {
        request.extensions().get::<Retirement>().unwrap().retire();
        Ok(Response::new(SuspendResponse {}))
    }

    async fn prepare(
        &self,
        _request: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resume(
        &self,
        _request: Request<ResumeRequest>,
    ) -> Result<Response<ResumeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn power_off(
        &self,
        _request: Request<PowerOffRequest>,
    ) -> Result<Response<PowerOffResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn pair() -> (OwnedFd, UnixStream) {
    let (port, client) = BlockingStream::pair().unwrap();
    port.set_nonblocking(true).unwrap();
    client.set_nonblocking(true).unwrap();
    (port.into(), UnixStream::from_std(client).unwrap())
}

/// The host's end of a port that is served. Its clients come and go without the agent's notice.
struct Host(UnixStream);

impl Host {
    fn new() -> Self {
        let (port, client) = pair();
        let server = tonic::transport::Server::builder().add_service(AgentServer::new(Suspending));
        tokio::spawn(server.serve_with_incoming(greeted(port)));
        Self(client)
    }

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// A client greets, calls, and leaves when the call was answered: true if it was.
    async fn call(&mut self, method: &str) -> bool {
        let path = format!("/costrel.agent.v1.Agent/{method}");
        let mut headers = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &path),
            (":authority", "agent"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            // Literal, without an index (RFC 7541, section 6.2.2).
            headers.push(0);
            for text in [name, value] {
                headers.push(u8::try_from(text.len()).unwrap());
                headers.extend_from_slice(text.as_bytes());
            }
        }
        let (settings, end_headers, end_stream) = (4, 4, 1);
        let words = [
            GREETING,
            &Self::frame(settings, 0, 0, &[]),
            &Self::frame(1, end_headers, 1, &headers),
            &Self::frame(0, end_stream, 1, &[0; 5]),
        ];
        self.0.write_all(&words.concat()).await.unwrap();
        let mut first = true;
        loop {
            let mut head = [0; 9];
            timeout(LONG, self.0.read_exact(&mut head)).await.expect("it hangs").unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            timeout(LONG, self.0.read_exact(&mut payload)).await.expect("it hangs").unwrap();
            let (kind, flags) = (head[3], head[4]);
            if (first && kind != settings) || kind == 7 {
                return false;
            }
            if kind == 1 && flags & end_stream != 0 {
                return true;
            }
            first = false;
        }
    }

    /// What the agent said is lost when nobody is there to hear it.
    async fn forget(&mut self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut heard = [0; 4096];
        while self.0.try_read(&mut heard).is_ok() {}
    }
}

#[tokio::test]
async fn whoever_comes_after_a_suspended_connection_is_served_at_once() {
    let mut host = Host::new();
    for round in 0..5 {
        assert!(host.call("Suspend").await, "round {round}");
        // Its last words, cut short in the middle of a frame.
        host.0.write_all(&Host::frame(0, 0, 1, &[7; 100])[..40]).await.unwrap();
        if round % 2 == 0 {
            host.forget().await;
        }
    }
    assert!(host.call("Describe").await);
}

#[tokio::test]
async fn whoever_comes_after_an_unnoticed_hang_up_is_served_too() {
    let mut host = Host::new();
    for round in 0..6 {
        if round % 2 == 0 {
            host.forget().await;
        }
        assert!(host.call("Describe").await, "round {round}");
        if round % 3 == 0 {
            let goodbye = Host::frame(7, 0, 0, &[0; 8]);
            host.0.write_all(&goodbye).await.unwrap();
        }
    }
}
