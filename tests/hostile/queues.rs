//! Virtqueues that are none.

use crate::{
    Orders,
    machine::{Random, SECOND, fill, get, now, put, start_second},
    mutate, say,
    virtio::{
        ARENA, ARENA_END, BLOCK, BUFFERS, Device, INDIRECT, NEXT, Outcome, Ring, WRITE,
        any_address, any_length, describe, device, devices,
    },
};

/// Where indirect tables are.
const TABLES: u64 = ARENA + 0x2_0000;

/// Queues where they must not be: across the end of memory, in the gap, one over the other, at
/// addresses that wrap around, unaligned.
pub fn placement(orders: &mut Orders) {
    let Orders { ref mut random, rounds, memory_end } = *orders;
    for _ in 0..rounds / 2 {
        for device in devices() {
            device.begin(random.below(2) == 0);
            let same = any_address(random, memory_end);
            for queue in 0..device.queues() {
                let addresses = [0, 1, 2].map(|_| match random.below(4) {
                    0 => same,
                    _ => any_address(random, memory_end),
                });
                let size = random.one_of(&[0, 1, 2, 3, 8, 16, 256, 257, 32768, 65535, 1 << 31]);
                device.place(queue, size, addresses);
            }
            device.ready();
            (0..4).for_each(|queue| device.kick(queue));
            if random.below(4) == 0 {
                // A second time, and changes while it runs.
                device.place(0, 8, [ARENA, ARENA, ARENA]);
                device.ready();
            }
        }
    }
}

/// One rule broken at a time; each time the device must say that it gives up, and work again
/// afterwards.
pub fn chains(orders: &mut Orders) {
    let end = orders.memory_end;
    for device in devices() {
        let queue = usize::from(device.queues() > 1);
        let cases: &[(&str, &dyn Fn(&Ring) -> u16)] = &[
            ("its own next", &|ring| {
                ring.describe(0, BUFFERS, 16, NEXT, 0);
                0
            }),
            ("a circle", &|ring| {
                for index in 0..ring.size {
                    ring.describe(index, BUFFERS, 16, NEXT, (index + 1) % ring.size);
                }
                0
            }),
            ("next beyond the table", &|ring| {
                ring.describe(0, BUFFERS, 16, NEXT, ring.size);
                0
            }),
            ("next far beyond the table", &|ring| {
                ring.describe(0, BUFFERS, 16, NEXT, 0xffff);
                0
            }),
            ("a head beyond the table", &|ring| ring.size),
            ("a head far beyond the table", &|_| 0xffff),
            ("readable after writable", &|ring| {
                ring.chain(&[(BUFFERS, 16, WRITE), (BUFFERS, 64, 0), (BUFFERS, 1, WRITE)]);
                0
            }),
            ("not memory", &|ring| {
                ring.chain(&[(0xd000_0000, 64, 0), (BUFFERS, 1, WRITE)]);
                0
            }),
            ("across the end of memory", &|ring| {
                ring.chain(&[(end - 8, 64, 0), (BUFFERS, 1, WRITE)]);
                0
            }),
            ("a wrapping address", &|ring| {
                ring.chain(&[(0u64.wrapping_sub(8), 64, 0), (BUFFERS, 1, WRITE)]);
                0
            }),
            ("4 GiB less one", &|ring| {
                ring.chain(&[(BUFFERS, 0xffff_ffff, 0), (BUFFERS, 1, WRITE)]);
                0
            }),
            ("many times much", &|ring| {
                for index in 0..ring.size - 1 {
                    ring.describe(index, BUFFERS, 15 << 20, NEXT, index + 1);
                }
                ring.describe(ring.size - 1, BUFFERS, 1, WRITE, 0);
                0
            }),
            ("indirect in indirect", &|ring| {
                ring.describe(0, TABLES, 64, INDIRECT, 0);
                describe(TABLES, TABLES, 64, INDIRECT, 0);
                0
            }),
            ("an indirect table of odd length", &|ring| {
                ring.describe(0, TABLES, 17, INDIRECT, 0);
                describe(TABLES, BUFFERS, 64, 0, 0);
                0
            }),
            ("an indirect table of no length", &|ring| {
                ring.describe(0, TABLES, 0, INDIRECT, 0);
                0
            }),
            ("an endless indirect table", &|ring| {
                ring.describe(0, TABLES, 0xffff_fff0, INDIRECT, 0);
                describe(TABLES, BUFFERS, 16, NEXT, 0);
                0
            }),
            ("an indirect table that is no memory", &|ring| {
                ring.describe(0, 0u64.wrapping_sub(16), 64, INDIRECT, 0);
                0
            }),
            ("65535 descriptors", &|ring| {
                for index in 0..0xffffu64 {
                    let (at, next) = (TABLES + index * 16, index as u16 + 1);
                    describe(at, BUFFERS, 0, if next < 0xffff { NEXT } else { 0 }, next);
                }
                ring.describe(0, TABLES, 0xffff << 4, INDIRECT, 0);
                0
            }),
            ("a loop of empty ones", &|ring| {
                describe(TABLES, BUFFERS, 0, NEXT, 0);
                ring.describe(0, TABLES, 0xffff << 4, INDIRECT, 0);
                0
            }),
        ];
        for (name, case) in cases {
            for event_index in [false, true] {
                let ring = device.start(event_index)[queue];
                let head = case(&ring);
                let outcome = ring.submit(head);
                if outcome != Outcome::NeedsReset {
                    say!("FAIL: {name}: {outcome:?}, device {}", device.kind);
                }
            }
        }
        // Far more in the ring than there can be.
        for index in [17, 300, 0x7fff, 0x8000, 0xffff] {
            let ring = device.start(false)[queue];
            ring.set_available_index(index);
            ring.kick();
            let outcome = ring.outcome(index, SECOND * 5);
            if outcome != Outcome::NeedsReset {
                say!("FAIL: an index of {index}: {outcome:?}, device {}", device.kind);
            }
        }
        // Whatever the device writes there.
        for over_descriptors in [true, false] {
            let mut ring = device.start(true)[queue];
            ring.used = if over_descriptors { ring.descriptors } else { ring.available };
            device.begin(true);
            for queue in 0..device.queues() {
                let size = ring.size.into();
                device.place(queue, size, [ring.descriptors, ring.available, ring.used]);
            }
            device.ready();
            ring.chain(&[(BUFFERS, 64, 0), (BUFFERS, 512, WRITE), (BUFFERS, 1, WRITE)]);
            for _ in 0..32 {
                ring.offer(0);
                ring.kick();
            }
            ring.settle();
        }
        device.reset();
    }
}

/// Everything at random.
pub fn chaos(orders: &mut Orders) {
    let Orders { ref mut random, rounds, memory_end } = *orders;
    for round in 0..rounds {
        for device in devices() {
            let rings = device.start(round % 2 == 0);
            for ring in &rings[..device.queues()] {
                for index in 0..ring.size {
                    scribble(random, ring.descriptors + u64::from(index) * 16, memory_end);
                    scribble(random, TABLES + u64::from(index) * 16, memory_end);
                }
                for _ in 0..random.below(2 * u64::from(ring.size)) {
                    ring.offer(random.below(u64::from(ring.size) + 1) as u16);
                }
                if random.below(8) == 0 {
                    ring.set_available_index(random.next() as u16);
                }
                ring.kick();
            }
            if random.below(2) == 0 {
                rings[0].settle();
            }
        }
    }
}

/// A descriptor that would not hurt the guest itself.
fn scribble(random: &mut Random, at: u64, memory_end: u64) {
    let address = if random.below(8) == 0 { TABLES } else { any_address(random, memory_end) };
    let length = match random.below(3) {
        0 => any_length(random),
        1 => 16 * random.below(40) as u32,
        _ => random.below(70_000) as u32,
    };
    // What wraps into the guest's own program is left out.
    let flags = random.one_of(&[0, NEXT, NEXT, WRITE, NEXT | WRITE, INDIRECT, 7, 0xfff8]);
    describe(at, address, length, flags, random.below(20) as u16);
}

/// One processor hands out what is right, the other changes it meanwhile.
pub fn race(orders: &mut Orders) {
    start_second();
    let Orders { ref mut random, rounds, memory_end } = *orders;
    for round in 0..rounds {
        for device in devices() {
            let rings = device.start(round % 2 == 0);
            let queue = usize::from(device.queues() > 1);
            let ring = &rings[queue];
            fill(BUFFERS, 0, 4096);
            ring.chain(&[(BUFFERS, 64, 0), (BUFFERS + 4096, 65536, WRITE), (BUFFERS, 1, WRITE)]);
            ring.describe(4, TABLES, 64, INDIRECT, 0);
            describe(TABLES, BUFFERS, 44, NEXT, 1);
            describe(TABLES + 16, BUFFERS + 4096, 512, NEXT | WRITE, 2);
            describe(TABLES + 32, BUFFERS, 1, WRITE, 0);
            match random.below(5) {
                0 => mutate(ring.descriptors, 16 * 6),
                1 => mutate(ring.available, 64),
                2 => mutate(TABLES, 64),
                3 => mutate(BUFFERS, 64),
                _ => mutate(ring.used, 64),
            }
            let began = now();
            while !device.needs_reset() && now() - began < SECOND / 400 {
                ring.offer(random.one_of(&[0, 4]));
                ring.kick();
            }
            mutate(0, 0);
        }
        let _ = memory_end;
    }
}

/// What the second processor writes: mostly changes of what is there.
pub fn spoil(random: &mut Random, from: u64, length: u64) {
    let at = from + random.below(length / 4) * 4;
    let old = get::<u32>(at);
    put(
        at,
        match random.below(4) {
            0 => old ^ 1 << random.below(32),
            // Within the arena, whatever it is taken for.
            1 => (ARENA + random.below(ARENA_END - ARENA)) as u32,
            2 => random.below(70_000) as u32,
            _ => old.wrapping_add(random.one_of(&[1, 2, 16, 0xffff_ffff])),
        },
    );
}

/// The first disk's queue, ready.
pub fn disk(nth: usize) -> (Device, Ring) {
    let device = device(BLOCK, nth);
    (device, device.start(false)[0])
}
