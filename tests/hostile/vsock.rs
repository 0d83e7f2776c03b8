//! Packets that break the rules, and connections that are dialled and neglected.

use crate::{
    Orders,
    machine::{SECOND, fill, get, now, put},
    say,
    virtio::{BUFFERS, Outcome, Ring, VSOCK, WRITE, any_length, device},
};

const HEADER: u32 = 44;
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const DATA: u16 = 5;

/// Where the guest's packets are, and where those for it go.
const OUTGOING: u64 = BUFFERS;
const INCOMING: u64 = BUFFERS + (1 << 20);
const EACH: u64 = 8192;

fn header(ports: (u32, u32), length: u32, kind: u16, operation: u16, room: u32) {
    put(OUTGOING, 3u64);
    put(OUTGOING + 8, 2u64);
    put(OUTGOING + 16, ports.0);
    put(OUTGOING + 20, ports.1);
    put(OUTGOING + 24, length);
    put(OUTGOING + 28, kind);
    put(OUTGOING + 30, operation);
    put(OUTGOING + 32, 0u32);
    put(OUTGOING + 36, room);
    put(OUTGOING + 40, 0u32);
}

fn give_room(ring: &Ring) {
    for index in 0..ring.size {
        ring.describe(index, INCOMING + u64::from(index) * EACH, EACH as u32, WRITE, 0);
        ring.offer(index);
    }
    ring.kick();
}

/// A packet to a port that nobody has is answered.
pub fn check() {
    let [receive, transmit, _] = device(VSOCK, 0).start(true);
    give_room(&receive);
    header((1, 2), 0, 1, REQUEST, 0);
    transmit.chain(&[(OUTGOING, HEADER, 0)]);
    let sent = transmit.submit(0);
    let heard = receive.outcome(1, SECOND * 5);
    let operation = get::<u16>(INCOMING + 30);
    if (sent, heard, operation) != (Outcome::Used, Outcome::Used, 3) {
        say!("FAIL: vsock does not work: {sent:?} {heard:?} {operation}");
    }
}

/// Every operation, type, flag and address; more data than there is; floods of requests.
pub fn packets(orders: &mut Orders) {
    let Orders { ref mut random, rounds, .. } = *orders;
    let mut rings = device(VSOCK, 0).start(true);
    give_room(&rings[0]);
    for round in 0..rounds * 4 {
        if device(VSOCK, 0).needs_reset() || round % 16 == 0 {
            rings = device(VSOCK, 0).start(round % 2 == 0);
            if random.below(4) != 0 {
                give_room(&rings[0]);
            }
        }
        let ring = &rings[1];
        let length = any_length(random);
        let ports = (random.below(4) as u32, (1 << 30) + random.below(4) as u32);
        header(ports, length, random.below(3) as u16, random.below(10) as u16, any_length(random));
        put(OUTGOING, random.one_of(&[3, 3, 3, 3, 2, 0, 1, u64::MAX, 1 << 32 | 3]));
        put(OUTGOING + 8, random.one_of(&[2, 2, 2, 2, 3, 0, u64::MAX, 1 << 32 | 2]));
        put(OUTGOING + 32, random.next() as u32 >> random.below(32));
        put(OUTGOING + 40, random.next() as u32 >> random.below(32));
        let given = match random.below(4) {
            0 => length.min(1 << 20),
            _ => random.below(70_000) as u32,
        };
        let buffers = [(OUTGOING, HEADER, 0), (OUTGOING + 64, given, 0)];
        ring.chain(&buffers[..1 + random.below(2) as usize]);
        if random.below(16) == 0 {
            ring.describe(0, OUTGOING, random.below(44) as u32, 0, 0);
        }
        ring.offer(0);
        ring.kick();
    }
    // Requests without end, and no room for the answers.
    let [_, transmit, _] = device(VSOCK, 0).start(false);
    header((1, 2), 0, 1, REQUEST, u32::MAX);
    transmit.chain(&[(OUTGOING, HEADER, 0)]);
    let began = now();
    for round in 0..rounds * 10 {
        let waiting = transmit.available_index().wrapping_sub(transmit.used_index());
        if waiting < transmit.size {
            put(OUTGOING + 16, round as u32);
            transmit.offer(0);
        }
        transmit.kick();
        if now() - began > SECOND {
            break;
        }
    }
    if device(VSOCK, 0).needs_reset() {
        say!("FAIL: requests make vsock give up");
    }
}

/// Waits for somebody to dial, and says yes, with all the room in the world.
fn accept() -> (Ring, Ring, (u32, u32)) {
    let [receive, transmit, _] = device(VSOCK, 0).start(true);
    give_room(&receive);
    say!("now");
    let mut seen = 0;
    loop {
        while receive.used_index() == seen {
            core::hint::spin_loop();
        }
        let packet = INCOMING + u64::from(seen % receive.size) * EACH;
        seen += 1;
        if get::<u16>(packet + 30) == REQUEST {
            let ports = (get::<u32>(packet + 20), get::<u32>(packet + 16));
            header(ports, 0, 1, RESPONSE, u32::MAX);
            transmit.chain(&[(OUTGOING, HEADER, 0)]);
            transmit.submit(0);
            return (receive, transmit, ports);
        }
    }
}

/// Accepts a connection, and never reads.
pub fn mute(_: &mut Orders) {
    let (receive, _, _) = accept();
    // All the room that it gave, and no more.
    receive.outcome(receive.size, SECOND * 3);
    say!("mute");
    let began = now();
    while now() - began < SECOND * 2 {
        core::hint::spin_loop();
    }
}

/// Accepts a connection, and sends without end, whatever credit it has.
pub fn flood(orders: &mut Orders) {
    let (_, transmit, ports) = accept();
    fill(OUTGOING + 64, 7, 65536);
    header(ports, 65536, 1, DATA, u32::MAX);
    transmit.chain(&[(OUTGOING, HEADER, 0), (OUTGOING + 64, 65536, 0)]);
    for _ in 0..orders.rounds * 2 {
        transmit.submit(0);
    }
    say!("flooded");
}
