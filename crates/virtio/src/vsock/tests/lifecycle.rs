//! How connections begin and end.

use std::{
    io::Write as _,
    net::Shutdown,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use super::{
    super::{
        Vsock,
        credit::BUFFER,
        muxer::{MOST_CONNECTIONS, RECEIVE},
        packet::{HOST_CID, Header, Operation, ended},
    },
    guest::{CID, Guest, Peer, has_ended, listener, read},
};
use crate::{
    Device as _,
    mock::{FREE, writable},
};

#[test]
fn a_greeting_in_pieces_and_what_follows_it_arrive() {
    let mut guest = Guest::new();
    let mut client = guest.dial();
    for piece in ["CONN", "ECT 10", "24\nfirst"] {
        assert!(guest.packet().is_none());
        client.write_all(piece.as_bytes()).unwrap();
    }
    let request = guest.expect(Operation::Request);
    assert_eq!(request.destination_port, 1024);
    assert_eq!((request.buffer, request.forwarded), (BUFFER, 0));
    let peer = Peer { port: 1024, host_port: request.source_port, buffer: 100, taken: 0 };
    guest.send(&peer.header(Operation::Response, 0), b"");
    client.write_all(b" second").unwrap();
    let (header, data) = guest.packet().unwrap();
    assert_eq!(Operation::of(&header), Some(Operation::Data));
    assert_eq!(data, b"first second");
    assert_eq!(read(&mut client), format!("OK {}\n", request.source_port).as_bytes());
}

#[test]
fn garbage_is_turned_away() {
    let mut guest = Guest::new();
    for line in ["hello\n", "CONNECT 1 CONNECT 1 CONNECT 1 CONNECT 1"] {
        let mut client = guest.dial();
        client.write_all(line.as_bytes()).unwrap();
        assert!(guest.packet().is_none());
        assert!(has_ended(&mut client));
    }
    let client = guest.dial();
    guest.settle();
    drop(client);
    assert!(guest.packet().is_none());
}

#[test]
fn what_the_guest_refuses_is_closed() {
    let mut guest = Guest::new();
    let mut client = guest.dial();
    client.write_all(b"CONNECT 5\n").unwrap();
    let request = guest.expect(Operation::Request);
    let peer = Peer { port: 5, host_port: request.source_port, buffer: 0, taken: 0 };
    guest.send(&peer.header(Operation::Reset, 0), b"");
    assert!(guest.packet().is_none());
    assert_eq!(read(&mut client), b"");
    assert!(has_ended(&mut client));
}

#[test]
fn a_client_that_gives_up_while_it_waits_is_forgotten() {
    let mut guest = Guest::new();
    let mut client = guest.dial();
    client.write_all(b"CONNECT 5\n").unwrap();
    let request = guest.expect(Operation::Request);
    drop(client);
    let reset = guest.expect(Operation::Reset);
    assert_eq!((reset.source_port, reset.destination_port), (request.source_port, 5));
    // An answer that was on its way.
    let peer = Peer { port: 5, host_port: request.source_port, buffer: 0, taken: 0 };
    guest.send(&peer.header(Operation::Response, 0), b"");
    guest.expect(Operation::Reset);
}

#[test]
fn streams_that_the_guest_opens_are_refused() {
    let mut guest = Guest::new();
    let peer = Peer { port: 9, host_port: 80, buffer: 10, taken: 0 };
    guest.send(&peer.header(Operation::Request, 0), b"");
    let reset = guest.expect(Operation::Reset);
    assert_eq!((reset.source_port, reset.destination_port), (80, 9));
    // No answer to what is itself one, or to who claims to be somebody else.
    guest.send(&peer.header(Operation::Reset, 0), b"");
    guest.send(&Header { source_cid: 8, ..peer.header(Operation::Request, 0) }, b"");
    assert!(guest.packet().is_none());
    // Other types of socket, and other machines.
    guest.send(&Header { kind: 2, ..peer.header(Operation::Request, 0) }, b"");
    assert_eq!(guest.expect(Operation::Reset).kind, 2);
    guest.send(&Header { destination_cid: 3, ..peer.header(Operation::Request, 0) }, b"");
    assert_eq!(guest.expect(Operation::Reset).source_cid, 3);
}

#[test]
fn a_client_may_end_its_half() {
    let mut guest = Guest::new();
    let (mut client, peer) = guest.connect(1);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.packet().unwrap().1, b"question");
    assert_eq!(guest.expect(Operation::Shutdown).flags, ended::SENDING);
    guest.send(&peer.header(Operation::Data, 6), b"answer");
    guest.settle();
    assert_eq!(read(&mut client), b"answer");
    assert!(!has_ended(&mut client));
    guest.send(&peer.shutdown(ended::BOTH), b"");
    guest.expect(Operation::Reset);
    assert!(has_ended(&mut client));
    assert!(guest.packet().is_none());
}

#[test]
fn the_guest_may_end_its_half() {
    let mut guest = Guest::new();
    let (mut client, mut peer) = guest.connect(1);
    guest.send(&peer.header(Operation::Data, 4), b"last");
    guest.send(&peer.shutdown(ended::SENDING), b"");
    assert_eq!(read(&mut client), b"last");
    assert!(has_ended(&mut client));
    client.write_all(b"more").unwrap();
    assert_eq!(guest.packet().unwrap().1, b"more");
    peer.taken = 4;
    drop(client);
    assert_eq!(guest.expect(Operation::Shutdown).flags, ended::BOTH);
    guest.send(&peer.header(Operation::Reset, 0), b"");
    assert!(guest.packet().is_none());
    // To send on is to break the rules, hence nothing is known of it any more.
    guest.send(&peer.header(Operation::Data, 1), b"x");
    guest.expect(Operation::Reset);
}

#[test]
fn a_guest_that_receives_no_more_stops_its_client() {
    let mut guest = Guest::new();
    let (mut client, peer) = guest.connect(1);
    guest.send(&peer.shutdown(ended::RECEIVING), b"");
    assert_eq!(client.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(guest.expect(Operation::Shutdown).flags, ended::SENDING);
    guest.send(&peer.header(Operation::Data, 4), b"data");
    assert_eq!(read(&mut client), b"data");
    drop(client);
    assert_eq!(guest.expect(Operation::Shutdown).flags, ended::BOTH);
}

#[test]
fn what_a_client_left_behind_arrives_before_its_end() {
    let mut guest = Guest::new();
    let (mut client, mut peer) = guest.connect(1);
    peer.buffer = 10;
    guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
    client.write_all(b"0123456789abcdef").unwrap();
    drop(client);
    // What the guest says meanwhile is for nobody, and no reason to lose the rest.
    guest.send(&peer.header(Operation::Data, 3), b"abc");
    let mut got = Vec::new();
    loop {
        let (header, data) = guest.packet().unwrap();
        got.extend(data);
        match Operation::of(&header).unwrap() {
            Operation::Data => {}
            Operation::CreditRequest => {
                peer.taken = u32::try_from(got.len()).unwrap();
                guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
            }
            Operation::Shutdown if header.flags == ended::RECEIVING => {}
            Operation::Shutdown => break assert_eq!(header.flags, ended::BOTH),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, b"0123456789abcdef");
}

#[test]
fn what_the_guest_sent_before_its_reset_is_the_clients() {
    let mut guest = Guest::new();
    let (mut client, peer) = guest.connect(1);
    let data = vec![7; BUFFER as usize / 4];
    let mut sent = 0;
    // More than the socket holds.
    while read_ahead(&guest) == 0 {
        guest.send(&peer.header(Operation::Data, data.len()), &data);
        sent += data.len();
        assert!(sent < 64 << 20);
    }
    guest.send(&peer.header(Operation::Reset, 0), b"");
    let mut got = 0;
    while got < sent {
        got += read(&mut client).len();
        guest.settle();
    }
    assert_eq!(got, sent);
    assert!(has_ended(&mut client));
}

/// How many bytes the device holds for clients.
fn read_ahead(guest: &Guest) -> usize {
    guest.bench.device.held()
}

#[test]
fn an_end_that_is_not_confirmed_is_enforced() {
    let mut guest = Guest::new();
    let (client, peer) = guest.connect(1);
    drop(client);
    assert_eq!(guest.expect(Operation::Shutdown).flags, ended::BOTH);
    let Guest { bench, .. } = &mut guest;
    bench.device.tick(Instant::now(), &bench.poller);
    assert!(guest.packet().is_none());
    let Guest { bench, .. } = &mut guest;
    bench.device.tick(Instant::now() + Duration::from_secs(11), &bench.poller);
    guest.bench.kick(RECEIVE).unwrap();
    assert_eq!(guest.expect(Operation::Reset).source_port, peer.host_port);
}

#[test]
fn five_hundred_clients_are_served() {
    let mut guest = Guest::new();
    let mut all: Vec<_> = (0..500).map(|port| guest.connect(port)).collect();
    for (client, peer) in &mut all {
        client.write_all(&peer.port.to_le_bytes()).unwrap();
    }
    let mut seen = Vec::new();
    while let Some((header, data)) = guest.packet() {
        assert_eq!(header.destination_port.to_le_bytes(), *data);
        seen.push(header.destination_port);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    for (client, peer) in &mut all {
        guest.send(&peer.header(Operation::Data, 4), &peer.port.to_le_bytes());
        assert_eq!(read(client), peer.port.to_le_bytes());
    }
}

#[test]
fn one_client_too_many_is_turned_away() {
    let mut guest = Guest::new();
    let mut clients = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        clients.push(guest.dial());
        guest.bench.turn().unwrap();
    }
    let mut late = guest.dial();
    guest.settle();
    assert!(has_ended(&mut late));
    clients.pop();
    guest.settle();
    guest.connect(1);
}

#[test]
fn a_flood_of_strays_makes_the_device_deaf_until_they_are_answered() {
    let mut guest = Guest::without_buffers();
    let peer = Peer { port: 9, host_port: 80, buffer: 10, taken: 0 };
    let header = peer.header(Operation::Request, 0).encode();
    let address = FREE + 0x90_0000;
    guest.bench.write(address, &header);
    let mut answered = 0;
    for _ in 0..200 {
        let chain = [crate::mock::readable(address, Header::BYTES)];
        guest.bench.rings[1].offer(&guest.bench.memory, &chain);
    }
    guest.bench.kick(1).unwrap();
    while guest.bench.rings[1].take(&guest.bench.memory).is_some() {
        answered += 1;
    }
    assert_eq!(answered, 64);
    guest.offer(32);
    guest.settle();
    assert_eq!(guest.packets.len(), 200);
}

#[test]
fn a_reset_ends_all_and_the_next_driver_is_served() {
    let mut guest = Guest::new();
    let (mut client, _) = guest.connect(1);
    let bench = &mut guest.bench;
    bench.device.reset(&bench.poller);
    assert!(has_ended(&mut client));
    let mut waiting = guest.dial();
    waiting.write_all(b"CONNECT 2\n").unwrap();
    assert_eq!(guest.bench.turn().unwrap(), 0);
    let bench = &mut guest.bench;
    bench.device.activate(&mut bench.active, &bench.poller).unwrap();
    assert_eq!(guest.expect(Operation::Request).destination_port, 2);
}

#[test]
fn a_restored_guest_hears_that_its_connections_are_dead() {
    let mut before = Guest::new();
    let (_client, old) = before.connect(1);
    let state = before.bench.device.state();
    assert_eq!(state.guest_cid, CID);

    let directory = tempfile::tempdir().unwrap();
    let device = Vsock::restored(listener(&directory), &state).unwrap();
    let mut guest = Guest::of(directory, device);
    guest.offer(32);
    let mut client: UnixStream = guest.dial();
    client.write_all(b"CONNECT 1\n").unwrap();
    guest.bench.kick(2).unwrap();
    assert!(guest.packet().is_none());
    // The buffers for events come late.
    let (events, memory) = (FREE + 0x90_0000, std::sync::Arc::clone(&guest.bench.memory));
    for at in 0..8 {
        guest.bench.write(events + at * 4, &[0xff; 4]);
        guest.bench.rings[2].offer(&memory, &[writable(events + at * 4, 4)]);
    }
    guest.bench.kick(2).unwrap();
    assert_eq!(guest.bench.rings[2].take(&memory).unwrap().1, 4);
    assert_eq!(guest.bench.read(events, 4), [0; 4]);
    assert_eq!(guest.bench.read(events + 4, 4), [0xff; 4]);
    assert!(guest.bench.rings[2].take(&memory).is_none());
    assert!(guest.packet().is_none(), "no client is served before the guest has heard");
    // Of packets of old connections nothing is known.
    guest.send(&old.header(Operation::Data, 1), b"x");
    guest.expect(Operation::Reset);
    guest.bench.rings[2].offer(&memory, &[writable(events, 4)]);
    assert!(guest.bench.rings[2].wants_kick(&memory));
    guest.bench.kick(2).unwrap();
    let request = guest.expect(Operation::Request);
    assert_ne!(request.source_port, old.host_port);
    assert_eq!((request.source_cid, request.destination_cid), (HOST_CID, CID));
    assert!(guest.bench.rings[2].take(&memory).is_none());
}

#[test]
fn a_driver_that_does_not_want_the_news_keeps_nobody_out_for_long() {
    let directory = tempfile::tempdir().unwrap();
    let state = super::super::VsockState { guest_cid: CID, next_port: 0 };
    let device = Vsock::restored(listener(&directory), &state).unwrap();
    let mut guest = Guest::of(directory, device);
    guest.offer(32);
    let mut client = guest.dial();
    client.write_all(b"CONNECT 1\n").unwrap();
    assert!(guest.packet().is_none());
    std::thread::sleep(Duration::from_millis(1100));
    guest.expect(Operation::Request);
}
