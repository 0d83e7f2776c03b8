//! How bytes flow, and what keeps them in bounds.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Instant,
};

use super::{
    super::{
        credit::BUFFER,
        packet::{Header, Operation},
    },
    guest::{Guest, Peer, has_ended, read},
};

const TEN_MEGABYTES: usize = 10 << 20;

/// Bytes that tell where they are.
fn pattern(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|at| (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]).collect()
}

#[test]
fn packets_may_be_cut_into_any_descriptors() {
    let mut guest = Guest::without_buffers();
    guest.layout = vec![10, 1, 40, 0, 5, 100];
    guest.offer(20);
    let (mut client, peer) = guest.connect(1);
    let header = peer.header(Operation::Data, 300);
    for layout in [
        &[][..],
        &[44],
        &[20, 24],
        &[1, 1, 42],
        &[44, 1, 100, 0, 7],
        &[0, 50],
        &[100, 200],
        &[43, 2],
    ] {
        guest.send_cut(&header, &pattern(0, 300), layout);
        assert_eq!(read(&mut client), pattern(0, 300), "{layout:?}");
    }
    client.write_all(&pattern(0, 1000)).unwrap();
    let mut got = Vec::new();
    while let Some((header, data)) = guest.packet() {
        assert_eq!(Operation::of(&header), Some(Operation::Data));
        assert!(data.len() <= 156 - Header::BYTES);
        got.extend(data);
    }
    assert_eq!(got, pattern(0, 1000));
}

#[test]
fn ten_megabytes_arrive_in_the_guest_through_a_small_window() {
    for (buffer, layout) in [(1000, vec![44, 300, 500]), (65536, vec![4096])] {
        let mut guest = Guest::without_buffers();
        guest.layout = layout;
        guest.offer(30);
        let (client, mut peer) = guest.connect(1);
        peer.buffer = buffer;
        guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
        client.set_nonblocking(false).unwrap();
        let total = if buffer < 4096 { TEN_MEGABYTES / 8 } else { TEN_MEGABYTES };
        let writer = std::thread::spawn(move || {
            (&client).write_all(&pattern(0, total)).unwrap();
            client
        });
        let (mut got, mut in_flight) = (0, 0);
        while got < total {
            let Some((header, data)) = guest.packet() else { continue };
            match Operation::of(&header).unwrap() {
                Operation::Data => {
                    assert_eq!(data, pattern(got, data.len()));
                    got += data.len();
                    in_flight += data.len();
                    assert!(in_flight <= buffer as usize, "more than the guest has room for");
                }
                Operation::CreditRequest => {}
                other => panic!("{other:?}"),
            }
            if guest.packets.is_empty() {
                in_flight = 0;
                peer.taken = u32::try_from(got).unwrap();
                guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
            }
        }
        drop(writer.join().unwrap());
    }
}

#[test]
fn ten_megabytes_arrive_at_a_slow_client() {
    let mut guest = Guest::new();
    let (client, peer) = guest.connect(1);
    client.set_nonblocking(false).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut client, mut got) = (client, 0);
        let mut bytes = vec![0; 7777];
        while got < TEN_MEGABYTES {
            let count = client.read(&mut bytes).unwrap();
            assert_eq!(bytes[..count], pattern(got, count));
            got += count;
            if got % 64 == 0 {
                std::thread::yield_now();
            }
        }
    });
    let (mut sent, mut credit) = (0usize, Credit::new());
    while sent < TEN_MEGABYTES {
        while let Some((header, _)) = guest.packet() {
            assert_eq!(Operation::of(&header), Some(Operation::CreditUpdate));
            credit.heard(&header);
        }
        let count = credit.left(sent).min(60_000).min(TEN_MEGABYTES - sent);
        if count > 0 {
            guest.send(&peer.header(Operation::Data, count), &pattern(sent, count));
            sent += count;
        }
    }
    while !reader.is_finished() {
        guest.settle();
    }
    reader.join().unwrap();
}

/// What the device says that it has room for.
struct Credit {
    buffer: u32,
    forwarded: u32,
}

impl Credit {
    fn new() -> Self {
        Self { buffer: BUFFER, forwarded: 0 }
    }

    fn heard(&mut self, header: &Header) {
        (self.buffer, self.forwarded) = (header.buffer, header.forwarded);
    }

    fn left(&self, sent: usize) -> usize {
        self.buffer as usize - (sent - self.forwarded as usize)
    }
}

#[test]
fn without_credit_the_device_asks_once_and_waits() {
    let mut guest = Guest::new();
    let (mut client, mut peer) = guest.connect(1);
    peer.buffer = 5;
    guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
    client.write_all(b"0123456789").unwrap();
    assert_eq!(guest.packet().unwrap().1, b"01234");
    guest.expect(Operation::CreditRequest);
    client.write_all(b"abc").unwrap();
    assert!(guest.packet().is_none());
    // It does not spin while it waits.
    assert_eq!(guest.bench.turn().unwrap(), 0);
    guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
    assert!(guest.packet().is_none());
    (peer.taken, peer.buffer) = (5, 100);
    guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
    assert_eq!(guest.packet().unwrap().1, b"56789abc");
}

#[test]
fn without_buffers_the_device_waits() {
    let mut guest = Guest::new();
    let (mut client, _) = guest.connect(1);
    client.write_all(&pattern(0, 150_000)).unwrap();
    while guest.bench.turn().unwrap() > 0 {}
    guest.collect(false);
    let count = guest.packets.len();
    assert!(count < 48);
    assert_eq!(guest.bench.turn().unwrap(), 0);
    guest.offer(count);
    guest.settle();
    let got: Vec<u8> = guest.packets.drain(..).flat_map(|(_, data)| data).collect();
    assert_eq!(got, pattern(0, 150_000));
}

#[test]
fn the_guest_is_told_its_credit_when_it_asks() {
    let mut guest = Guest::new();
    let (mut client, peer) = guest.connect(1);
    guest.send(&peer.header(Operation::Data, 10), &pattern(0, 10));
    assert!(guest.packet().is_none());
    guest.send(&peer.header(Operation::CreditRequest, 0), b"");
    let update = guest.expect(Operation::CreditUpdate);
    assert_eq!((update.buffer, update.forwarded), (BUFFER, 10));
    assert_eq!(read(&mut client), pattern(0, 10));
}

#[test]
fn for_a_client_that_never_reads_no_more_than_the_credit_is_held() {
    let mut guest = Guest::new();
    let (mut client, peer) = guest.connect(1);
    let (mut other, other_peer) = guest.connect(2);
    let (mut sent, mut credit) = (0, Credit::new());
    loop {
        while let Some((header, _)) = guest.packet() {
            credit.heard(&header);
        }
        let count = credit.left(sent).min(50_000);
        if count == 0 {
            break;
        }
        guest.send(&peer.header(Operation::Data, count), &pattern(sent, count));
        sent += count;
        assert!(guest.bench.device.held() <= BUFFER as usize);
    }
    assert!(guest.bench.device.held() > BUFFER as usize / 2);
    // Others are served.
    guest.send(&other_peer.header(Operation::Data, 3), b"abc");
    assert_eq!(read(&mut other), b"abc");
    // One byte more is too much, and costs the guest that connection.
    guest
        .send(&peer.header(Operation::Data, BUFFER as usize / 2), &pattern(0, BUFFER as usize / 2));
    let reset = guest.expect(Operation::Reset);
    assert_eq!(reset.source_port, peer.host_port);
    assert_eq!(guest.bench.device.held(), 0);
    let got = read(&mut client);
    assert_eq!(got, pattern(0, got.len()));
    assert!(has_ended(&mut client));
    guest.send(&other_peer.header(Operation::Data, 3), b"def");
    assert_eq!(read(&mut other), b"def");
}

#[test]
fn who_breaks_the_rules_loses_that_connection_only() {
    type Violation = fn(&Peer) -> (Header, usize);
    let violations: [Violation; 6] = [
        |peer| (peer.header(Operation::Data, BUFFER as usize + 1), 10),
        // More than there is.
        |peer| (peer.header(Operation::Data, 11), 10),
        |peer| (Header { forwarded: 1, ..peer.header(Operation::CreditUpdate, 0) }, 0),
        |peer| (peer.header(Operation::Request, 0), 0),
        |peer| (peer.header(Operation::Response, 0), 0),
        |peer| (Header { operation: 99, ..peer.header(Operation::Data, 0) }, 0),
    ];
    let mut guest = Guest::new();
    let (mut other, other_peer) = guest.connect(2);
    for violation in violations {
        let (mut client, peer): (UnixStream, _) = guest.connect(1);
        let (header, length) = violation(&peer);
        guest.send(&header, &pattern(0, length));
        assert_eq!(guest.expect(Operation::Reset).source_port, peer.host_port);
        assert!(has_ended(&mut client));
    }
    guest.send(&other_peer.header(Operation::Data, 3), b"def");
    assert_eq!(read(&mut other), b"def");
}

#[test]
fn clients_take_turns() {
    let mut guest = Guest::new();
    let mut all: Vec<_> = (0..4).map(|port| guest.connect(port)).collect();
    for (client, _) in &mut all {
        client.write_all(&pattern(0, 60_000)).unwrap();
    }
    guest.settle();
    let ports: Vec<_> = guest.packets.iter().map(|(header, _)| header.destination_port).collect();
    // The first wake-up may find one client only.
    let turns = ports[32..48].windows(2).filter(|two| two[0] != two[1]).count();
    assert!(turns >= 12, "{ports:?}");
}

/// Not a benchmark, but it shows when something is badly wrong.
#[test]
fn throughput() {
    const TOTAL: usize = 32 << 20;
    let mut guest = Guest::new();
    let (client, mut peer) = guest.connect(1);
    client.set_nonblocking(false).unwrap();
    let writer = std::thread::spawn(move || {
        (&client).write_all(&vec![1; TOTAL]).unwrap();
        client
    });
    let start = Instant::now();
    let mut got = 0;
    while got < TOTAL {
        guest.settle();
        got += guest.packets.drain(..).map(|(_, data)| data.len()).sum::<usize>();
        peer.taken = u32::try_from(got).unwrap();
        guest.send(&peer.header(Operation::CreditUpdate, 0), b"");
    }
    let rate = TOTAL as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20);
    assert!(rate > 1.0, "{rate:.0} MiB/s");
    if std::env::var_os("SHOW_THROUGHPUT").is_some() {
        panic!("{rate:.0} MiB/s to the guest, with a mock driver");
    }
    drop(writer.join());
}
