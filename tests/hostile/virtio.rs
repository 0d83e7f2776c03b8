//! A driver for virtio-mmio devices that does as it is told, however wrong.

use crate::machine::{Random, SECOND, fill, get, now, put};

const DEVICES: u64 = 0xd000_0000;
pub const WINDOW: u64 = 0x1000;

pub const BLOCK: u32 = 2;
pub const ENTROPY: u32 = 4;
pub const VSOCK: u32 = 19;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

pub const STATUS: u64 = 0x70;
pub const NOTIFY: u64 = 0x50;
const NEEDS_RESET: u32 = 64;

/// Where rings and buffers are: from here to half of the least memory, apart from all else.
pub const ARENA: u64 = 16 << 20;
pub const ARENA_END: u64 = 32 << 20;
/// The part of it that is for the rings.
const RINGS: u64 = ARENA;
const RING_SPACE: u64 = 0x4000;
/// The rest.
pub const BUFFERS: u64 = ARENA + (1 << 20);

#[derive(Clone, Copy)]
pub struct Device {
    pub base: u64,
    pub kind: u32,
}

/// The devices that there are.
pub fn devices() -> impl Iterator<Item = Device> {
    (0..16).map(|index| DEVICES + index * WINDOW).map_while(|base| {
        let there = get::<u32>(base) == 0x7472_6976;
        there.then(|| Device { base, kind: get(base + 8) })
    })
}

pub fn device(kind: u32, nth: usize) -> Device {
    devices().filter(|device| device.kind == kind).nth(nth).expect("a device")
}

/// What became of what the device was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Used,
    NeedsReset,
    Nothing,
}

impl Device {
    pub fn read(self, register: u64) -> u32 {
        get(self.base + register)
    }

    pub fn write(self, register: u64, value: u32) {
        put(self.base + register, value);
    }

    pub fn queues(self) -> usize {
        if self.kind == VSOCK { 3 } else { 1 }
    }

    pub fn reset(self) {
        self.write(STATUS, 0);
    }

    /// Everything up to the queues.
    pub fn begin(self, event_index: bool) {
        self.reset();
        self.write(STATUS, 1);
        self.write(STATUS, 3);
        self.write(0x14, 0);
        let mut low = self.read(0x10);
        if !event_index {
            low &= !(1 << 29);
        }
        self.write(0x24, 0);
        self.write(0x20, low);
        self.write(0x24, 1);
        self.write(0x20, 1);
        self.write(STATUS, 11);
    }

    pub fn place(self, queue: usize, size: u32, addresses: [u64; 3]) {
        self.write(0x30, queue as u32);
        self.write(0x38, size);
        for (register, address) in [0x80, 0x90, 0xa0].into_iter().zip(addresses) {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
    }

    pub fn ready(self) {
        self.write(STATUS, 15);
    }

    pub fn kick(self, queue: usize) {
        self.write(NOTIFY, queue as u32);
    }

    pub fn needs_reset(self) -> bool {
        self.read(STATUS) & NEEDS_RESET != 0
    }

    /// All of a driver's beginning, with all queues in their usual places.
    pub fn start(self, event_index: bool) -> [Ring; 3] {
        self.begin(event_index);
        let rings = [0, 1, 2].map(|queue| {
            let size = if self.kind == ENTROPY { 8 } else { 16 };
            let ring = Ring::new(self, queue, RINGS + queue as u64 * RING_SPACE, size);
            if queue < self.queues() {
                self.place(queue, size.into(), [ring.descriptors, ring.available, ring.used]);
            }
            ring
        });
        self.ready();
        rings
    }
}

/// A virtqueue.
#[derive(Clone, Copy)]
pub struct Ring {
    pub device: Device,
    pub queue: usize,
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

impl Ring {
    pub fn new(device: Device, queue: usize, base: u64, size: u16) -> Self {
        fill(base, 0, RING_SPACE);
        let (descriptors, available, used) = (base, base + 0x1000, base + 0x2000);
        Self { device, queue, size, descriptors, available, used }
    }

    pub fn describe(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        describe(self.descriptors + u64::from(index) * 16, address, length, flags, next);
    }

    /// Descriptors 0, 1, … for the buffers, as a chain.
    pub fn chain(&self, buffers: &[(u64, u32, u16)]) {
        for (index, &(address, length, flags)) in buffers.iter().enumerate() {
            let more = if index + 1 < buffers.len() { NEXT } else { 0 };
            self.describe(index as u16, address, length, flags | more, index as u16 + 1);
        }
    }

    pub fn available_index(&self) -> u16 {
        get(self.available + 2)
    }

    pub fn used_index(&self) -> u16 {
        get(self.used + 2)
    }

    pub fn set_available_index(&self, index: u16) {
        put(self.available + 2, index);
    }

    /// Puts a chain into the ring, without a word.
    pub fn offer(&self, head: u16) {
        let index = self.available_index();
        put(self.available + 4 + u64::from(index % self.size) * 2, head);
        self.set_available_index(index.wrapping_add(1));
    }

    pub fn kick(&self) {
        self.device.kick(self.queue);
    }

    /// Offers a chain, kicks, and waits for what comes of it.
    pub fn submit(&self, head: u16) -> Outcome {
        self.offer(head);
        self.kick();
        self.outcome(self.available_index(), SECOND * 5)
    }

    /// Waits until all up to `index` was used, or the device gives up.
    pub fn outcome(&self, index: u16, limit: u64) -> Outcome {
        let began = now();
        loop {
            if self.used_index() == index {
                return Outcome::Used;
            }
            if self.device.needs_reset() {
                return Outcome::NeedsReset;
            }
            if now() - began > limit {
                return Outcome::Nothing;
            }
        }
    }

    /// Gives the device a moment, whatever it is up to.
    pub fn settle(&self) {
        self.outcome(self.available_index(), SECOND / 200);
    }
}

pub fn describe(at: u64, address: u64, length: u32, flags: u16, next: u16) {
    put(at, address);
    put(at + 8, length);
    put(at + 12, flags);
    put(at + 14, next);
}

/// An address that a device may be given without harm to the guest itself: in the arena, or where
/// there is no memory, or where it ends, or where numbers do.
pub fn any_address(random: &mut Random, memory_end: u64) -> u64 {
    let inside = ARENA + random.below(ARENA_END - ARENA);
    match random.below(10) {
        0..4 => inside & !15,
        4 => inside,
        5 => memory_end - random.one_of(&[0, 1, 2, 4, 15, 16, 512, 4096, 65536]),
        6 => random.one_of(&[0xc000_0000, 0xd000_0000, 0xd000_0ff8, 0xfec0_0000, 0xfee0_0000]),
        7 => random.one_of(&[0xffff_f000, 0xffff_ffff, 1 << 32, 1 << 40, 1 << 52, 1 << 63]),
        8 => 0u64.wrapping_sub(random.one_of(&[1, 2, 8, 16, 512, 4096, 1 << 20])),
        _ => memory_end + random.below(1 << 40),
    }
}

pub fn any_length(random: &mut Random) -> u32 {
    match random.below(4) {
        0 => random.next() as u32,
        _ => random.one_of(&[
            0,
            1,
            2,
            8,
            15,
            16,
            17,
            43,
            44,
            45,
            511,
            512,
            513,
            4096,
            65535,
            65536,
            1 << 20,
            64 << 20,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_fff0,
            0xffff_ffff,
        ]),
    }
}
