//! Both sides over channels, with in-memory sockets; and one side against a peer that breaks the
//! rules.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;

use super::*;

type Ended = JoinHandle<Result<(), CarryError>>;

/// A program inside, a service outside, and how the carrying on each side ended.
fn relayed(socket_buffer: usize) -> (DuplexStream, DuplexStream, Ended, Ended) {
    let (program, inside) = duplex(socket_buffer);
    let (service, outside) = duplex(socket_buffer);
    let (to_host, at_host) = mpsc::channel(4);
    let (to_agent, at_agent) = mpsc::channel(4);
    let pieces = |receiver| ReceiverStream::new(receiver).map(Ok);
    let agent = tokio::spawn(carry(Side::Agent, inside, pieces(at_agent), to_host));
    let host = tokio::spawn(carry(Side::Host, outside, pieces(at_host), to_agent));
    (program, service, agent, host)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at / 7 + at) % 251).unwrap()).collect()
}

async fn both_fine(agent: Ended, host: Ended) {
    agent.await.unwrap().unwrap();
    host.await.unwrap().unwrap();
}

#[tokio::test]
async fn megabytes_cross_both_ways_at_once() {
    let (program, service, agent, host) = relayed(1000);
    let sent = pattern(3 << 20);
    let swap = |mut end: DuplexStream, what: Vec<u8>| async move {
        let mut received = Vec::new();
        let (mut reader, mut writer) = tokio::io::split(&mut end);
        let write = async {
            writer.write_all(&what).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        tokio::join!(write, async { reader.read_to_end(&mut received).await.unwrap() });
        received
    };
    let mut reversed = sent.clone();
    reversed.reverse();
    let (at_program, at_service) =
        tokio::join!(swap(program, sent.clone()), swap(service, reversed.clone()));
    assert!(at_program == reversed && at_service == sent);
    both_fine(agent, host).await;
}

#[tokio::test]
async fn one_half_may_close_long_before_the_other() {
    let (mut program, mut service, agent, host) = relayed(64);
    program.write_all(b"question").await.unwrap();
    program.shutdown().await.unwrap();
    let mut question = Vec::new();
    service.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    tokio::time::sleep(Duration::from_millis(20)).await;
    service.write_all(b"answer").await.unwrap();
    drop(service);
    let mut answer = Vec::new();
    program.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
    both_fine(agent, host).await;
}

#[tokio::test]
async fn nothing_at_all_is_carried_to_its_end() {
    let (program, service, agent, host) = relayed(64);
    drop((program, service));
    both_fine(agent, host).await;
}

#[tokio::test]
async fn what_nobody_reads_stops_at_the_window() {
    let (mut program, mut service, agent, host) = relayed(1);
    let mut sent = 0;
    let data = pattern(4 * WINDOW);
    loop {
        let write = program.write(&data[sent..]);
        match tokio::time::timeout(Duration::from_millis(200), write).await {
            Ok(count) => sent += count.unwrap(),
            Err(_) => break,
        }
    }
    // The sockets hold one byte each, the sender reads one piece ahead of none.
    assert!((WINDOW..=WINDOW + 2).contains(&sent), "{sent}");
    let mut received = vec![0; sent];
    service.read_exact(&mut received).await.unwrap();
    assert!(received == data[..sent]);
    drop((program, service));
    both_fine(agent, host).await;
}

#[tokio::test]
async fn a_service_that_writes_before_it_reads_is_not_stuck() {
    let (program, service, agent, host) = relayed(64);
    let data = pattern(3 * WINDOW);
    let (mut read, mut write) = tokio::io::split(program);
    let there = data.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&there).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let back = data.clone();
    let reader = tokio::spawn(async move {
        let mut received = Vec::new();
        read.read_to_end(&mut received).await.unwrap();
        assert!(received == back);
    });
    let mut service = service;
    service.write_all(&data).await.unwrap();
    let mut received = Vec::new();
    service.shutdown().await.unwrap();
    service.read_to_end(&mut received).await.unwrap();
    assert!(received == data);
    writer.await.unwrap();
    reader.await.unwrap();
    both_fine(agent, host).await;
}

/// A host's side whose service is the first, and which hears the pieces that are sent.
fn against(
    socket_buffer: usize,
) -> (DuplexStream, mpsc::Sender<Result<RelayPiece, Status>>, Ended) {
    let (service, outside) = duplex(socket_buffer);
    let (to_host, at_host) = mpsc::channel(1024);
    let (to_agent, mut at_agent) = mpsc::channel(4);
    tokio::spawn(async move { while at_agent.recv().await.is_some() {} });
    let host = tokio::spawn(carry(Side::Host, outside, ReceiverStream::new(at_host), to_agent));
    (service, to_host, host)
}

fn data(length: usize) -> Piece {
    Piece::Data(vec![1; length].into())
}

#[tokio::test]
async fn an_agent_that_breaks_the_rules_is_left() {
    let flood = vec![data(PIECE_LIMIT); WINDOW / PIECE_LIMIT + 1];
    let crumbs = vec![data(1); WINDOW + 1];
    for (what, pieces) in [
        ("a piece that has no place there", vec![Piece::Opened(80)]),
        ("a piece of a wrong size", vec![data(0)]),
        ("a piece of a wrong size", vec![data(PIECE_LIMIT + 1)]),
        ("data after its end", vec![Piece::Finished(Finished {}), data(1)]),
        ("a piece that has no place there", vec![Piece::Finished(Finished {}); 2]),
        ("word of more than it was sent", vec![Piece::Delivered(1)]),
        ("word of more than it was sent", vec![Piece::Delivered(u32::MAX)]),
        ("more than the window holds", flood),
        ("more than the window holds", crumbs),
    ] {
        let (service, to_host, host) = against(1);
        for piece in pieces {
            // It has left before it was sent everything.
            let _ = to_host.send(Ok(RelayPiece { piece: Some(piece) })).await;
        }
        let error = host.await.unwrap().unwrap_err();
        assert!(matches!(error, CarryError::Violation(told) if told == what), "{what}: {error:?}");
        drop(service);
    }
}

#[tokio::test]
async fn a_call_that_ends_early_is_no_end_of_the_connection() {
    // Without a word; with the word that all was sent, but not received; with an error.
    let (service, to_host, host) = against(64);
    drop(to_host);
    assert!(matches!(host.await.unwrap(), Err(CarryError::BrokeOff)));
    drop(service);
    let (service, to_host, host) = against(64);
    let finished = RelayPiece { piece: Some(Piece::Finished(Finished {})) };
    to_host.send(Ok(finished)).await.unwrap();
    drop(to_host);
    assert!(matches!(host.await.unwrap(), Err(CarryError::BrokeOff)));
    drop(service);
    let (service, to_host, host) = against(64);
    to_host.send(Err(Status::aborted("reset"))).await.unwrap();
    assert!(matches!(host.await.unwrap(), Err(CarryError::Call(_))));
    drop(service);
}
