//! What devices are asked for that they must not do.

use core::arch::asm;

use crate::{
    Orders,
    machine::{SECOND, fill, get, now, out8, put},
    queues::disk,
    say,
    virtio::{
        BUFFERS, ENTROPY, NOTIFY, Outcome, STATUS, WINDOW, WRITE, any_length, device, devices,
    },
};

/// A driver that does nothing wrong: all devices work.
pub fn check(_: &mut Orders) {
    let (_, ring) = disk(0);
    fill(BUFFERS, 0, 4096);
    put(BUFFERS + 8, 1u64);
    put(BUFFERS + 1024, 0xffu8);
    ring.chain(&[(BUFFERS, 16, 0), (BUFFERS + 512, 512, WRITE), (BUFFERS + 1024, 1, WRITE)]);
    let outcome = ring.submit(0);
    let (first, status) = (get::<u64>(BUFFERS + 512), get::<u8>(BUFFERS + 1024));
    // What the host has put into the second sector.
    if (outcome, first, status) != (Outcome::Used, 0x6c65_7274_736f_63, 0) {
        say!("FAIL: a disk does not work: {outcome:?} {first:#x} {status}");
    }
    let ring = device(ENTROPY, 0).start(true)[0];
    fill(BUFFERS, 0, 4096);
    ring.chain(&[(BUFFERS, 64, WRITE)]);
    let outcome = ring.submit(0);
    if outcome != Outcome::Used || (0..8).all(|word| get::<u64>(BUFFERS + word * 8) == 0) {
        say!("FAIL: there is no entropy: {outcome:?}");
    }
    crate::vsock::check();
}

/// Garbage in every register of every device, in random order and width.
pub fn registers(orders: &mut Orders) {
    let Orders { ref mut random, rounds, .. } = *orders;
    for device in devices() {
        for _ in 0..rounds * 20 {
            let offset = match random.below(3) {
                0 => random.below(WINDOW),
                1 => random.below(64) * 4,
                _ => random.one_of(&[0x14, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84]),
            };
            let value = match random.below(3) {
                0 => random.next(),
                1 => random.below(16),
                _ => random.one_of(&[1, 3, 11, 15, 128, u64::MAX, 1 << 31]),
            };
            let at = device.base + offset;
            match random.below(8) {
                0 => drop(get::<u8>(at)),
                1 => drop(get::<u16>(at)),
                2 => drop(get::<u32>(at)),
                3 => drop(get::<u64>(at)),
                4 => put(at, value as u8),
                5 => put(at, value as u16),
                6 => put(at, value),
                _ => put(at, value as u32),
            }
        }
        // All of them, one after the other.
        for offset in (0..0x120).step_by(4) {
            device.write(offset, u32::MAX);
            device.read(offset);
        }
        device.reset();
    }
}

const READ: u32 = 0;
const OUT: u32 = 1;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

/// Requests that no disk can carry out.
pub fn block(orders: &mut Orders) {
    let Orders { ref mut random, rounds, .. } = *orders;
    let request = |nth: usize, kind: u32, sector: u64, data: (u32, u16)| {
        let (device, ring) = disk(nth);
        let status = BUFFERS + 32;
        put(BUFFERS, kind);
        put(BUFFERS + 8, sector);
        put(status, 0xffu8);
        ring.chain(&[(BUFFERS, 16, 0), (BUFFERS + 4096, data.0, data.1), (status, 1, WRITE)]);
        let outcome = ring.submit(0);
        device.reset();
        if outcome == Outcome::Used { u32::from(get::<u8>(status)) } else { 0x100 }
    };
    let range = |sector: u64, sectors: u32, flags: u32| {
        put(BUFFERS + 4096, sector);
        put(BUFFERS + 4104, sectors);
        put(BUFFERS + 4108, flags);
    };
    let expect = |what: &str, found: u32, wanted: u32| {
        if found != wanted {
            say!("FAIL: {what}: status {found}, not {wanted}");
        }
    };
    for sector in [u64::MAX, u64::MAX / 512, 1 << 55, 1 << 32, 2048] {
        for nth in [0, 1] {
            expect("a read outside", request(nth, READ, sector, (512, WRITE)), 1);
            expect("a write outside", request(nth, OUT, sector, (512, 0)), 1);
        }
    }
    expect("a read across the end", request(0, READ, 2047, (1024, WRITE)), 1);
    expect("a write across the end", request(1, OUT, 2047, (1024, 0)), 1);
    expect("half a sector", request(0, READ, 0, (511, WRITE)), 1);
    expect("a write to what is read-only", request(0, OUT, 0, (512, 0)), 1);
    for kind in [DISCARD, ZEROES] {
        range(0, 8, 0);
        expect("clearing what is read-only", request(0, kind, 0, (16, 0)), 1);
        range(0, u32::MAX, 0);
        expect("clearing too much", request(1, kind, 0, (16, 0)), 1);
        range(2047, 2, 0);
        expect("clearing across the end", request(1, kind, 0, (16, 0)), 1);
        range(u64::MAX, 1, 0);
        expect("clearing outside", request(1, kind, 0, (16, 0)), 1);
        range(0, 8, 0xff);
        expect("clearing with unknown flags", request(1, kind, 0, (16, 0)), 2);
        expect("half a range", request(1, kind, 0, (15, 0)), 1);
        expect("too many ranges", request(1, kind, 0, (17 * 16, 0)), 1);
    }
    for kind in [2, 3, 5, 9, 12, 14, 0x8000_0000, u32::MAX] {
        expect("a type that there is not", request(1, kind, 0, (512, WRITE)), 2);
    }
    for _ in 0..rounds {
        range(random.next(), random.next() as u32, random.below(4) as u32);
        let any = random.next();
        let kind = random.one_of(&[0, 1, 4, 8, 11, 13, any as u32]);
        let sector = random.one_of(&[0, 7, 2046, 2048, any]);
        let length = any_length(random).min(8 << 20);
        request(random.below(2) as usize, kind, sector, (length, random.one_of(&[0, WRITE])));
    }
    // The status outside of memory, and none at all.
    for status in [(0xd000_0000, 1, WRITE), (u64::MAX, 1, WRITE), (BUFFERS, 1, 0), (0, 0, WRITE)] {
        let (_, ring) = disk(1);
        put(BUFFERS, READ);
        ring.chain(&[(BUFFERS, 16, 0), status]);
        let outcome = ring.submit(0);
        if outcome != Outcome::NeedsReset {
            say!("FAIL: a status at {:#x}: {outcome:?}", status.0);
        }
    }
    // The whole disk, many times at once.
    let (_, ring) = disk(1);
    put(BUFFERS, READ);
    put(BUFFERS + 8, 0u64);
    let whole = (BUFFERS + (1 << 20), 1 << 20, WRITE);
    ring.chain(&[(BUFFERS, 16, 0), whole, (BUFFERS + 32, 1, WRITE)]);
    (0..16).for_each(|_| ring.offer(0));
    ring.kick();
    if ring.outcome(16, SECOND * 20) != Outcome::Used {
        say!("FAIL: a disk does not read all at once");
    }
}

/// Room for 64 MiB of random bytes, and for a bit more.
pub fn entropy(_: &mut Orders) {
    for (each, wanted) in [(8 << 20, Outcome::Used), ((8 << 20) + 1, Outcome::NeedsReset)] {
        let ring = device(ENTROPY, 0).start(false)[0];
        ring.chain(&[(BUFFERS, each, WRITE); 8]);
        let outcome = ring.submit(0);
        if outcome != wanted {
            say!("FAIL: entropy, 8 times {each}: {outcome:?}");
        }
    }
    // A readable buffer is none to be filled, yet nothing to fall over.
    let ring = device(ENTROPY, 0).start(false)[0];
    ring.chain(&[(BUFFERS, 64, 0)]);
    ring.submit(0);
}

/// Floods of notifications, of queues that there are and that there are not.
pub fn kicks(orders: &mut Orders) {
    for device in devices() {
        device.start(false);
    }
    for round in 0..orders.rounds * 25 {
        for device in devices_twice() {
            put(device + NOTIFY, (round % 5) as u32);
        }
    }
}

fn devices_twice() -> [u64; 4] {
    [0, 1, 2, 3].map(|index| 0xd000_0000 + index * WINDOW)
}

/// Resets while devices work, in a tight loop.
pub fn resets(orders: &mut Orders) {
    for _ in 0..orders.rounds {
        let (disk, ring) = disk(1);
        put(BUFFERS, READ);
        put(BUFFERS + 8, 0u64);
        let whole = (BUFFERS + (1 << 20), 1 << 20, WRITE);
        ring.chain(&[(BUFFERS, 16, 0), whole, (BUFFERS + 32, 1, WRITE)]);
        (0..16).for_each(|_| ring.offer(0));
        ring.kick();
        disk.reset();
        if disk.read(STATUS) != 0 || ring.used_index() > 16 {
            say!("FAIL: a disk after its reset: {} {}", disk.read(STATUS), ring.used_index());
        }
        let used = ring.used_index();
        (0..1000).for_each(|_| core::hint::spin_loop());
        if ring.used_index() != used {
            say!("FAIL: a disk writes after its reset");
        }
    }
    for device in devices() {
        for _ in 0..orders.rounds {
            device.start(true);
            device.reset();
        }
    }
}

/// Interrupts without end, acknowledged or not.
pub fn interrupts(orders: &mut Orders) {
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 32),
        (0xa1, 40),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0),
        (0xa1, 0),
    ] {
        out8(port, value);
    }
    let ring = device(ENTROPY, 0).start(false)[0];
    ring.chain(&[(BUFFERS, 64, WRITE)]);
    unsafe { asm!("sti") }
    let began = now();
    for round in 0..orders.rounds * 10 {
        ring.offer(0);
        ring.kick();
        out8(crate::machine::SERIAL + 1, (round & 15) as u8);
        device(ENTROPY, 0).write(0x64, round as u32);
        if now() - began > SECOND {
            break;
        }
    }
    unsafe { asm!("cli") }
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
}
