//! Whatever happens in whatever order, bytes keep theirs and everybody keeps to the credit.

use std::{io::Write as _, net::Shutdown, os::unix::net::UnixStream};

use proptest::prelude::*;

use super::{
    super::{
        credit::BUFFER,
        packet::{Header, Operation, ended},
    },
    guest::{Guest, Peer, read},
};

#[derive(Clone, Debug)]
enum Step {
    ClientWrites(usize),
    ClientReads,
    ClientEnds,
    GuestSends(usize, Vec<usize>),
    /// It lets go of so much of what it got, in 256ths, and says how much room it has.
    GuestTakes(u8, u32),
    GuestAsks,
    GuestEnds,
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..100_000usize).prop_map(Step::ClientWrites),
        3 => Just(Step::ClientReads),
        1 => Just(Step::ClientEnds),
        4 => (0..70_000usize, prop::collection::vec(0..5000usize, 0..5))
            .prop_map(|(length, layout)| Step::GuestSends(length, layout)),
        4 => (any::<u8>(), prop_oneof![0..10u32, 0..300_000u32])
            .prop_map(|(part, buffer)| Step::GuestTakes(part, buffer)),
        1 => Just(Step::GuestAsks),
        1 => Just(Step::GuestEnds),
        4 => Just(Step::Turn),
    ]
}

fn byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]
}

fn bytes(at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(byte).collect()
}

/// A stream as both ends have seen it so far.
struct Stream {
    client: UnixStream,
    peer: Peer,
    /// From the client: what it wrote, what the guest got.
    written: usize,
    got: usize,
    /// From the guest: what it sent, what the client read.
    sent: usize,
    read: usize,
    forwarded: u32,
    /// The most that the device may have sent by now.
    allowed: usize,
    client_ended: bool,
    guest_ended: bool,
    heard_end: bool,
}

impl Stream {
    fn play(&mut self, guest: &mut Guest, step: &Step) {
        match step {
            Step::ClientWrites(length) if !self.client_ended => {
                // What does not fit is not written.
                if let Ok(count) = self.client.write(&bytes(self.written, *length)) {
                    self.written += count;
                }
            }
            Step::ClientReads => self.client_reads(),
            Step::ClientEnds => {
                self.client.shutdown(Shutdown::Write).unwrap();
                self.client_ended = true;
            }
            Step::GuestSends(length, layout) if !self.guest_ended => {
                let in_flight = u32::try_from(self.sent).unwrap().wrapping_sub(self.forwarded);
                let length = (*length).min((BUFFER - in_flight) as usize);
                let header = self.peer.header(Operation::Data, length);
                guest.send_cut(&header, &bytes(self.sent, length), layout);
                self.sent += length;
            }
            Step::GuestTakes(part, buffer) => {
                let in_flight = self.got - self.peer.taken as usize;
                let taken = (in_flight * usize::from(*part)).div_ceil(255);
                self.peer.taken += u32::try_from(taken).unwrap();
                self.peer.buffer = *buffer;
                self.allowed = self.allowed.max((self.peer.taken + buffer) as usize);
                guest.send(&self.peer.header(Operation::CreditUpdate, 0), b"");
            }
            Step::GuestAsks => guest.send(&self.peer.header(Operation::CreditRequest, 0), b""),
            Step::GuestEnds => {
                guest.send(&self.peer.shutdown(ended::SENDING), b"");
                self.guest_ended = true;
            }
            Step::Turn => guest.settle(),
            Step::ClientWrites(_) | Step::GuestSends(..) => {}
        }
        while let Some((header, data)) = guest.packets.pop_front() {
            self.guest_hears(&header, &data);
        }
        assert!(guest.bench.device.held() <= BUFFER as usize);
    }

    fn client_reads(&mut self) {
        let new = read(&mut self.client);
        assert_eq!(new, bytes(self.read, new.len()));
        self.read += new.len();
    }

    fn guest_hears(&mut self, header: &Header, data: &[u8]) {
        assert!(!self.heard_end || data.is_empty(), "data after the end");
        assert_eq!(data, bytes(self.got, data.len()));
        self.got += data.len();
        assert!(self.got <= self.allowed, "more than there was credit for");
        self.forwarded = header.forwarded;
        assert!(self.forwarded as usize <= self.sent);
        match Operation::of(header).unwrap() {
            Operation::Shutdown => {
                self.heard_end |= header.flags & ended::SENDING != 0;
                assert!(self.client_ended);
            }
            Operation::Data | Operation::CreditUpdate | Operation::CreditRequest => {}
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn bytes_keep_their_order(
        steps in prop::collection::vec(step(), 1..60),
        layout in prop::collection::vec(0..2000usize, 1..4),
    ) {
        let mut guest = Guest::without_buffers();
        guest.layout = layout;
        guest.layout.push(50);
        guest.offer(32);
        let (client, peer) = guest.connect(1);
        let allowed = peer.buffer as usize;
        let mut stream = Stream {
            client, peer, written: 0, got: 0, sent: 0, read: 0, forwarded: 0, allowed,
            client_ended: false, guest_ended: false, heard_end: false,
        };
        for step in &steps {
            stream.play(&mut guest, step);
        }
        // In the end all that was sent arrives.
        for _ in 0..1000 {
            stream.play(&mut guest, &Step::GuestTakes(255, BUFFER));
            stream.play(&mut guest, &Step::ClientReads);
            stream.play(&mut guest, &Step::Turn);
            if stream.got == stream.written && stream.read == stream.sent {
                break;
            }
        }
        prop_assert_eq!((stream.got, stream.read), (stream.written, stream.sent));
        prop_assert_eq!(stream.heard_end, stream.client_ended);
        prop_assert_eq!(guest.bench.device.held(), 0);
    }
}
