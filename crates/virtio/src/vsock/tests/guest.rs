//! The guest's side: its driver, and its packets.

use std::{
    collections::{HashMap, VecDeque},
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    time::{Duration, Instant},
};

use super::super::{
    Vsock, VsockSettings,
    muxer::{RECEIVE, TRANSMIT},
    packet::{HOST_CID, Header, Operation, STREAM},
};
use crate::mock::{Bench, FREE, readable, writable};

pub(super) const CID: u64 = 7;
const SLOT: u64 = 0x2_0000;
const TRANSMIT_SLOTS: u64 = FREE + 0x80_0000;

/// A guest, its device, and where its clients dial.
pub(super) struct Guest {
    pub(super) bench: Bench<Vsock>,
    directory: tempfile::TempDir,
    /// How receive buffers are cut into descriptors.
    pub(super) layout: Vec<usize>,
    offered: HashMap<u16, Vec<(u64, usize)>>,
    free_slots: Vec<u64>,
    /// Packets that came and were not looked at yet.
    pub(super) packets: VecDeque<(Header, Vec<u8>)>,
}

pub(super) fn listener(directory: &tempfile::TempDir) -> VsockSettings {
    let listener = UnixListener::bind(directory.path().join("vsock")).unwrap();
    VsockSettings { guest_cid: CID, listener }
}

impl Guest {
    /// One with receive buffers.
    pub(super) fn new() -> Self {
        let mut guest = Self::without_buffers();
        guest.offer(32);
        guest
    }

    pub(super) fn without_buffers() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let device = Vsock::new(listener(&directory)).unwrap();
        Self::of(directory, device)
    }

    pub(super) fn of(directory: tempfile::TempDir, device: Vsock) -> Self {
        Self {
            bench: Bench::new(device),
            directory,
            layout: vec![4096],
            offered: HashMap::new(),
            free_slots: (0..48).map(|slot| FREE + slot * SLOT).collect(),
            packets: VecDeque::new(),
        }
    }

    /// Gives the device so many more receive buffers.
    pub(super) fn offer(&mut self, count: usize) {
        for _ in 0..count {
            if !self.bench.rings[RECEIVE].has_room(self.layout.len()) {
                return;
            }
            let Some(slot) = self.free_slots.pop() else { return };
            let mut pieces = Vec::new();
            let mut address = slot;
            for &length in &self.layout {
                pieces.push((address, length));
                // Leave a gap, so that what is written past a buffer's end is seen.
                address += length as u64 + 16;
            }
            let chain: Vec<_> =
                pieces.iter().map(|&(address, length)| writable(address, length)).collect();
            let head = self.bench.rings[RECEIVE].offer(&self.bench.memory, &chain);
            self.offered.insert(head, pieces);
        }
        self.bench.kick(RECEIVE).unwrap();
    }

    /// Takes what the device has given; the buffers are offered again if wanted.
    pub(super) fn collect(&mut self, again: bool) {
        let mut count = 0;
        while let Some((head, written)) = self.bench.rings[RECEIVE].take(&self.bench.memory) {
            let mut bytes = Vec::new();
            let pieces = self.offered.remove(&head).unwrap();
            for &(address, length) in &pieces {
                bytes.extend(self.bench.read(address, length));
                assert_eq!(self.bench.read(address + length as u64, 16), [0; 16]);
            }
            bytes.truncate(written as usize);
            self.free_slots.push(pieces[0].0);
            let header = Header::decode(bytes.first_chunk().unwrap());
            assert_eq!(header.length as usize, bytes.len() - Header::BYTES);
            assert_eq!(header.destination_cid, CID);
            self.packets.push_back((header, bytes.split_off(Header::BYTES)));
            count += 1;
        }
        if again {
            self.offer(count);
        }
    }

    /// Lets device and guest work until nothing happens any more.
    pub(super) fn settle(&mut self) {
        loop {
            let happened = self.bench.turn().unwrap();
            let before = self.packets.len();
            self.collect(true);
            if happened == 0 && self.packets.len() == before {
                return;
            }
        }
    }

    /// The next packet that comes within a moment.
    pub(super) fn packet(&mut self) -> Option<(Header, Vec<u8>)> {
        if self.packets.is_empty() {
            self.settle();
        }
        self.packets.pop_front()
    }

    pub(super) fn expect(&mut self, operation: Operation) -> Header {
        let (header, data) = self.packet().expect("a packet");
        assert_eq!(Operation::of(&header), Some(operation), "{header:?}");
        assert!(data.is_empty());
        header
    }

    /// Has the guest send a packet that is cut into descriptors as `layout` says, the rest being one
    /// more.
    pub(super) fn send_cut(&mut self, header: &Header, data: &[u8], layout: &[usize]) {
        let mut bytes = header.encode().to_vec();
        bytes.extend(data);
        let mut pieces = Vec::new();
        let (mut at, mut address) = (0, TRANSMIT_SLOTS);
        for &length in layout.iter().chain([&usize::MAX]) {
            let end = at + length.min(bytes.len() - at);
            self.bench.write(address, &bytes[at..end]);
            pieces.push(readable(address, end - at));
            address += (end - at) as u64 + 100;
            at = end;
        }
        self.bench.request(TRANSMIT, &pieces).unwrap();
    }

    pub(super) fn send(&mut self, header: &Header, data: &[u8]) {
        self.send_cut(header, data, &[Header::BYTES]);
    }

    pub(super) fn dial(&self) -> UnixStream {
        let client = UnixStream::connect(self.directory.path().join("vsock")).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    /// A client that is connected to a port, and how the guest sees it.
    pub(super) fn connect(&mut self, port: u32) -> (UnixStream, Peer) {
        let mut client = self.dial();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let request = self.expect(Operation::Request);
        assert_eq!((request.destination_port, request.source_cid), (port, HOST_CID));
        let mut peer = Peer { port, host_port: request.source_port, buffer: 1 << 18, taken: 0 };
        self.send(&peer.header(Operation::Response, 0), b"");
        self.settle();
        assert_eq!(read(&mut client), format!("OK {}\n", peer.host_port).into_bytes());
        peer.taken = 0;
        (client, peer)
    }
}

/// A connection as the guest has it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) port: u32,
    pub(super) host_port: u32,
    pub(super) buffer: u32,
    /// What it let go of.
    pub(super) taken: u32,
}

impl Peer {
    pub(super) fn header(&self, operation: Operation, length: usize) -> Header {
        Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: self.port,
            destination_port: self.host_port,
            length: u32::try_from(length).unwrap(),
            kind: STREAM,
            operation: operation as u16,
            flags: 0,
            buffer: self.buffer,
            forwarded: self.taken,
        }
    }

    pub(super) fn shutdown(&self, flags: u32) -> Header {
        Header { flags, ..self.header(Operation::Shutdown, 0) }
    }
}

/// What can be read of a socket now.
pub(super) fn read(client: &mut UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut bytes = [0; 4096];
    while let Ok(count) = client.read(&mut bytes) {
        if count == 0 {
            break;
        }
        all.extend(&bytes[..count]);
    }
    all
}

/// Whether the other end has ended the stream, or will within a moment.
pub(super) fn has_ended(client: &mut UnixStream) -> bool {
    let start = Instant::now();
    loop {
        match client.read(&mut [0; 64]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return true,
            Err(_) if start.elapsed() > Duration::from_millis(50) => return false,
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}
