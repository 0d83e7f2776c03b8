//! Agent and host over an in-memory stream: the test is the workload, at the alias's address, and
//! the host's service, at 127.0.0.1.

use std::net::Ipv4Addr;

use costrel_agent_client::{AgentClient, HostRelay, RELAYED_CONNECTIONS};
use costrel_agent_proto::v1::relay_server::RelayServer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::Server;

use super::*;

const A_WHILE: Duration = Duration::from_millis(200);

/// A connection of the host's to an agent with this service.
async fn connected(service: &RelayService) -> AgentClient {
    let (host, guest) = duplex(64 << 10);
    let server = Server::builder().add_service(RelayServer::new(service.clone()));
    tokio::spawn(server.serve_with_incoming(tokio_stream::once(Ok::<_, io::Error>(guest))));
    AgentClient::connect(host).await.unwrap()
}

/// A service of the host's, its port, and an agent that listens there for the workload.
async fn guest() -> (TcpListener, u16, RelayService) {
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = service.local_addr().unwrap().port();
    let relay = RelayService::new();
    let ports = [HostPort { port: port.into(), at_localhost: false }];
    relay.listen(&ports).await.unwrap();
    (service, port, relay)
}

async fn dial(port: u16) -> TcpStream {
    TcpStream::connect((HOST_ALIAS_ADDRESS, port)).await.unwrap()
}

async fn is_reset(connection: &mut TcpStream) {
    let read = timeout(Duration::from_secs(10), connection.read(&mut [0; 64])).await;
    let error = read.expect("it stays open").expect_err("an end, and no reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_connection_reaches_the_hosts_port_whole() {
    let (service, port, relay) = guest().await;
    let agent = connected(&relay).await;
    let _relaying = HostRelay::start(&agent, [port]);
    let sent: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 249) as u8).collect();
    for length in [0, 1, sent.len()] {
        let echo = async {
            let (mut connection, _) = service.accept().await.unwrap();
            let mut received = Vec::new();
            connection.read_to_end(&mut received).await.unwrap();
            received.reverse();
            connection.write_all(&received).await.unwrap();
        };
        let call = async {
            let mut connection = dial(port).await;
            connection.write_all(&sent[..length]).await.unwrap();
            connection.shutdown().await.unwrap();
            let mut received = Vec::new();
            connection.read_to_end(&mut received).await.unwrap();
            received.reverse();
            assert!(received == sent[..length], "{} of {length} bytes", received.len());
        };
        tokio::join!(echo, call);
    }
}

#[tokio::test]
async fn a_refused_or_reset_connection_is_reset() {
    let (service, port, relay) = guest().await;
    let agent = connected(&relay).await;
    let _relaying = HostRelay::start(&agent, [port]);
    let mut connection = dial(port).await;
    let (served, _) = service.accept().await.unwrap();
    served.set_zero_linger().unwrap();
    drop(served);
    is_reset(&mut connection).await;

    let connection = dial(port).await;
    let (mut served, _) = service.accept().await.unwrap();
    connection.set_zero_linger().unwrap();
    drop(connection);
    is_reset(&mut served).await;

    drop(service);
    is_reset(&mut dial(port).await).await;
}

#[tokio::test]
async fn the_host_goes_by_its_own_list() {
    let (service, port, relay) = guest().await;
    let agent = connected(&relay).await;
    let _relaying = HostRelay::start(&agent, [port ^ 1]);
    is_reset(&mut dial(port).await).await;
    assert!(timeout(A_WHILE, service.accept()).await.is_err(), "it was reached");
    // Nor is anything relayed to an agent that has asked for what it may not have.
    let mut second = dial(port).await;
    assert!(timeout(A_WHILE, second.read(&mut [0])).await.is_err(), "it was taken");
}

#[tokio::test]
async fn no_more_than_the_limit_are_carried_at_a_time() {
    let (service, port, relay) = guest().await;
    let agent = connected(&relay).await;
    let _relaying = HostRelay::start(&agent, [port]);
    let mut connections = Vec::new();
    for _ in 0..RELAYED_CONNECTIONS + 3 {
        connections.push(dial(port).await);
    }
    let mut served = Vec::new();
    while let Ok(accepted) = timeout(A_WHILE, service.accept()).await {
        served.push(accepted.unwrap().0);
    }
    assert_eq!(served.len(), RELAYED_CONNECTIONS);
    // Those that wait are taken when there is room.
    drop(connections.drain(..2));
    drop(served.drain(..2));
    for _ in 0..2 {
        timeout(10 * A_WHILE, service.accept()).await.expect("there is room").unwrap();
    }
}

#[tokio::test]
async fn listeners_outlast_the_hosts_connection() {
    let (service, port, relay) = guest().await;
    let agent = connected(&relay).await;
    let relaying = HostRelay::start(&agent, [port]);
    let mut connection = dial(port).await;
    let (mut served, _) = service.accept().await.unwrap();
    served.write_all(b"x").await.unwrap();
    connection.read_exact(&mut [0]).await.unwrap();
    relaying.stop().await;
    is_reset(&mut connection).await;
    is_reset(&mut served).await;
    drop(agent);

    // One that comes while no host is there waits for the next.
    let mut connection = dial(port).await;
    assert!(timeout(A_WHILE, service.accept()).await.is_err());
    let agent = connected(&relay).await;
    let _relaying = HostRelay::start(&agent, [port]);
    let (mut served, _) = service.accept().await.unwrap();
    served.write_all(b"y").await.unwrap();
    drop(served);
    let mut received = Vec::new();
    connection.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"y");
}

#[tokio::test]
async fn localhost_is_listened_at_where_it_is_asked_for() {
    // By the alias only, and at all addresses.
    let (service, at_alias, relay) = guest().await;
    drop(service);
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at_both = free.local_addr().unwrap().port();
    drop(free);
    let ports = [HostPort { port: at_both.into(), at_localhost: true }];
    relay.listen(&ports).await.unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, at_both)).await.unwrap();
    TcpStream::connect((HOST_ALIAS_ADDRESS, at_both)).await.unwrap();
    TcpStream::connect((HOST_ALIAS_ADDRESS, at_alias)).await.unwrap();
    let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, at_alias)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn no_port_is_no_port() {
    for port in [0, 65536] {
        let ports = [HostPort { port, at_localhost: false }];
        let error = RelayService::new().listen(&ports).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
