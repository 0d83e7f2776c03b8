//! Packets of one stream: until the guest breaks its rules, bytes arrive in order both ways and the
//! device keeps to the credit; if it does, it is told.
#![no_main]

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
};

use costrel_fuzz::{
    directory,
    guest::{DATA, Input, Machine, Manners},
};
use costrel_virtio::vsock::{Vsock, VsockSettings};
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes as _, GuestAddress};

const RECEIVE: u64 = DATA;
const ROOM: u32 = 1024;
const TRANSMIT: u64 = 0x1_2000;
const BUFFERS: u16 = 8;

thread_local! {
    static LISTENER: UnixListener =
        UnixListener::bind(directory().join("packets")).expect("a listener");
}

fn byte(at: u32) -> u8 {
    (at ^ at >> 8).to_le_bytes()[0]
}

struct Stream {
    machine: Machine<Vsock>,
    client: UnixStream,
    host_port: u32,
    received: u16,
    written: u32,
    got: u32,
    sent: u32,
    read: u32,
    taken: u32,
    buffer: u32,
    most: u32,
    guest_ended: u8,
    open: bool,
}

impl Stream {
    fn send(&mut self, operation: u8, flags: u8, length: u32, cut: u32) {
        let mut packet = vec![0; 44];
        packet[0] = 3;
        packet[8] = 2;
        packet[16] = 9;
        packet[20..24].copy_from_slice(&self.host_port.to_le_bytes());
        packet[24..28].copy_from_slice(&length.to_le_bytes());
        packet[28] = 1;
        packet[30] = operation;
        packet[32] = flags;
        packet[36..40].copy_from_slice(&self.buffer.to_le_bytes());
        packet[40..44].copy_from_slice(&self.taken.to_le_bytes());
        packet.extend((self.sent..self.sent + length).map(byte));
        self.machine.put(TRANSMIT, &packet);
        let total = u32::try_from(packet.len()).expect("short");
        let cut = cut.min(total);
        let first = (TRANSMIT, cut, 0);
        self.machine.offer_pieces(1, &[first, (TRANSMIT + u64::from(cut), total - cut, 0)]);
        self.machine.kick(1);
    }

    /// Takes the packets that came, and gives their buffers back.
    fn receive(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut packets = Vec::new();
        loop {
            self.machine.turn();
            let used = self.machine.used(0, &mut self.received);
            if used.is_empty() {
                return packets;
            }
            for (head, written) in used {
                let address = RECEIVE + u64::from(head) * u64::from(ROOM);
                let mut bytes = vec![0; written as usize];
                self.machine.memory.read_slice(&mut bytes, GuestAddress(address)).expect("memory");
                self.host_port = u32::from_le_bytes(bytes[16..20].try_into().expect("a header"));
                packets.push((bytes[30], bytes.split_off(44)));
                // Descriptors are used in turn, so that a buffer is known by its number.
                self.offer();
            }
            self.machine.kick(0);
        }
    }

    fn offer(&mut self) {
        let slot = self.machine.next_index(0);
        let address = RECEIVE + u64::from(slot) * u64::from(ROOM);
        self.machine.offer_pieces(0, &[(address, ROOM, 2)]);
    }

    fn hear(&mut self) {
        for (operation, data) in self.receive() {
            match operation {
                3 => self.open = false,
                5 => {
                    for byte_there in data {
                        assert_eq!(byte_there, byte(self.got));
                        self.got += 1;
                    }
                    assert!(self.got <= self.most, "more than there was credit for");
                }
                4 | 6 | 7 => {}
                other => panic!("operation {other}"),
            }
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = self.client.read(&mut bytes) {
            for &byte_there in &bytes[..count] {
                assert_eq!(byte_there, byte(self.read));
                self.read += 1;
            }
            assert!(self.read <= self.sent);
        }
    }
}

fn connect() -> Stream {
    let listener = LISTENER.with(|listener| {
        listener.set_nonblocking(true).expect("a listener");
        while listener.accept().is_ok() {}
        listener.try_clone().expect("a listener")
    });
    let device = Vsock::new(VsockSettings { guest_cid: 3, listener }).expect("a device");
    let mut client = UnixStream::connect(directory().join("packets")).expect("a client");
    client.set_nonblocking(true).expect("a client");
    client.write_all(b"CONNECT 9\n").expect("a client");
    let mut stream = Stream {
        machine: Machine::new(device, Manners::None),
        client,
        host_port: 0,
        received: 0,
        written: 0,
        got: 0,
        sent: 0,
        read: 0,
        taken: 0,
        buffer: 3000,
        most: 3000,
        guest_ended: 0,
        open: true,
    };
    for _ in 0..BUFFERS {
        stream.offer();
    }
    stream.machine.kick(0);
    stream.machine.turn();
    let packets = stream.receive();
    assert!(matches!(packets[..], [(1, _)]), "{packets:?}");
    stream.send(2, 0, 0, 44);
    let line = format!("OK {}\n", stream.host_port);
    let mut answer = vec![0; line.len()];
    stream.client.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, line.as_bytes());
    stream
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut stream = connect();
    let mut client_ended = false;
    while !input.is_empty() && stream.open {
        match input.byte() % 9 {
            0 | 1 if !client_ended => {
                let length = u32::from(input.short() % 8192);
                let data: Vec<u8> = (stream.written..stream.written + length).map(byte).collect();
                if let Ok(count) = stream.client.write(&data) {
                    stream.written += u32::try_from(count).expect("short");
                }
            }
            2 => stream.read(),
            3 | 4 if stream.guest_ended & 2 == 0 => {
                let (length, cut) = (u32::from(input.short() % 16384), u32::from(input.byte()));
                // What is not read yet has to stay within the credit, or nothing is owed.
                if stream.sent + length - stream.read <= 200_000 {
                    stream.send(5, 0, length, cut);
                    stream.sent += length;
                }
            }
            5 => {
                stream.taken += (stream.got - stream.taken) / (1 + u32::from(input.byte() % 4));
                stream.buffer = u32::from(input.short());
                stream.most = stream.most.max(stream.taken + stream.buffer);
                stream.send(6 + input.byte() % 2, 0, 0, 44);
            }
            6 if input.byte() < 32 => {
                let flags = 1 + input.byte() % 3;
                stream.guest_ended |= flags;
                stream.send(4, flags, 0, 44);
            }
            7 if input.byte() < 32 => {
                let _ = stream.client.shutdown(Shutdown::Write);
                client_ended = true;
            }
            8 if input.byte() < 16 => {
                // Against the rules, one way or another. What was sent has to be known for that.
                stream.hear();
                match input.byte() % 4 {
                    0 => stream.send(input.byte().max(8), 0, 0, 44),
                    1 => stream.send(1, 0, 0, 44),
                    2 => {
                        stream.taken = stream.got + 1;
                        stream.send(6, 0, 0, 44);
                    }
                    _ => {
                        stream.guest_ended = 3;
                        stream.send(4, 3, 0, 44);
                    }
                }
                stream.read();
                stream.hear();
                // The end waits until the client has what was sent before.
                for _ in 0..50 {
                    stream.read();
                    stream.hear();
                }
                assert!(!stream.open, "the guest was not told");
                return;
            }
            _ => stream.hear(),
        }
    }
    // What was sent within the rules arrives.
    for _ in 0..200 {
        if !stream.open || stream.machine.turn() == 0 && stream.read == stream.sent {
            break;
        }
        stream.read();
        stream.hear();
    }
    assert!(!stream.open || stream.read == stream.sent);
});
