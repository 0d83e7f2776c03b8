//! A driver for the tests: rings in guest memory, and a device that is driven without a thread.

use std::{collections::HashMap, sync::Arc};

use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress};
use vmm_sys_util::{
    epoll::EventSet,
    eventfd::{EFD_NONBLOCK, EventFd},
};

use crate::{ActiveQueues, Device, Fault, GuestMemory, Interrupt, Poller};

/// Where the rings lie; a ring of 256 entries takes less than three pages.
const RINGS: u64 = 0x1_0000;
const RING_BYTES: u64 = 0x4000;
/// Where whatever a test wants to lay out begins.
pub(crate) const FREE: u64 = 0x10_0000;
const MEMORY: usize = 32 << 20;

const NEXT: u16 = 1;
const WRITABLE: u16 = 2;

/// A piece of a descriptor chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) address: u64,
    pub(crate) length: u32,
    pub(crate) flags: u16,
}

pub(crate) fn readable(address: u64, length: usize) -> Piece {
    Piece { address, length: u32::try_from(length).unwrap(), flags: 0 }
}

pub(crate) fn writable(address: u64, length: usize) -> Piece {
    Piece { flags: WRITABLE, ..readable(address, length) }
}

/// One virtqueue as the driver keeps it.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) base: u64,
    pub(crate) size: u16,
    added: u16,
    seen: u16,
    free: Vec<u16>,
    used: HashMap<u16, Vec<u16>>,
}

pub(crate) fn memory() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap())
}

impl Ring {
    pub(crate) fn new(index: usize, size: u16) -> Self {
        let base = RINGS + index as u64 * RING_BYTES;
        let free = (0..size).rev().collect();
        Self { base, size, added: 0, seen: 0, free, used: HashMap::new() }
    }

    /// Has the rings be empty, as a driver does before it sets them up.
    pub(crate) fn clear(&self, memory: &GuestMemory) {
        memory.write_slice(&[0; 0x4000], GuestAddress(self.base)).unwrap();
    }

    pub(crate) fn available(&self) -> u64 {
        self.base + 16 * u64::from(self.size)
    }

    pub(crate) fn used_ring(&self) -> u64 {
        self.base + 0x2000
    }

    pub(crate) fn queue(&self, event_index: bool) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        let low = |address: u64| Some(u32::try_from(address).unwrap());
        queue.set_desc_table_address(low(self.base), Some(0));
        queue.set_avail_ring_address(low(self.available()), Some(0));
        queue.set_used_ring_address(low(self.used_ring()), Some(0));
        queue.set_event_idx(event_index);
        queue.set_ready(true);
        queue
    }

    pub(crate) fn descriptor(&self, memory: &GuestMemory, index: u16, piece: Piece, next: u16) {
        let address = GuestAddress(self.base + 16 * u64::from(index));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&piece.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&piece.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&piece.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        memory.write_slice(&bytes, address).unwrap();
    }

    /// Whether a chain of so many pieces fits.
    pub(crate) fn has_room(&self, pieces: usize) -> bool {
        self.free.len() >= pieces
    }

    /// Puts a chain into the ring.
    pub(crate) fn offer(&mut self, memory: &GuestMemory, pieces: &[Piece]) -> u16 {
        let indices: Vec<u16> = pieces.iter().map(|_| self.free.pop().unwrap()).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let next = indices.get(at + 1).copied();
            let flags = piece.flags | if next.is_some() { NEXT } else { 0 };
            self.descriptor(memory, indices[at], Piece { flags, ..*piece }, next.unwrap_or(0));
        }
        let head = indices[0];
        self.used.insert(head, indices);
        self.offer_head(memory, head);
        head
    }

    /// Puts whatever begins at a descriptor into the ring.
    pub(crate) fn offer_head(&mut self, memory: &GuestMemory, head: u16) {
        let entry = self.available() + 4 + 2 * u64::from(self.added % self.size);
        memory.write_obj(head, GuestAddress(entry)).unwrap();
        self.added = self.added.wrapping_add(1);
        memory.write_obj(self.added, GuestAddress(self.available() + 2)).unwrap();
    }

    /// What the device has given back next: the chain, and how many bytes it says that it wrote.
    pub(crate) fn take(&mut self, memory: &GuestMemory) -> Option<(u16, u32)> {
        let index: u16 = memory.read_obj(GuestAddress(self.used_ring() + 2)).unwrap();
        if index == self.seen {
            return None;
        }
        let entry = self.used_ring() + 4 + 8 * u64::from(self.seen % self.size);
        let head: u32 = memory.read_obj(GuestAddress(entry)).unwrap();
        let written: u32 = memory.read_obj(GuestAddress(entry + 4)).unwrap();
        self.seen = self.seen.wrapping_add(1);
        // Have it interrupt for the next one.
        let event = self.available() + 4 + 2 * u64::from(self.size);
        memory.write_obj(self.seen, GuestAddress(event)).unwrap();
        let head = u16::try_from(head).unwrap();
        self.free.extend(self.used.remove(&head).unwrap_or_default());
        Some((head, written))
    }

    /// Whether the device wants to be told of what was put into the ring last (with event indices).
    pub(crate) fn wants_kick(&self, memory: &GuestMemory) -> bool {
        let event = self.used_ring() + 4 + 8 * u64::from(self.size);
        let event: u16 = memory.read_obj(GuestAddress(event)).unwrap();
        event == self.added.wrapping_sub(1)
    }
}

/// A device with its driver, on one thread.
#[derive(Debug)]
pub(crate) struct Bench<D> {
    pub(crate) device: D,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) rings: Vec<Ring>,
    pub(crate) active: ActiveQueues,
    pub(crate) poller: Poller,
}

impl<D: Device> Bench<D> {
    /// A device whose driver is ready.
    pub(crate) fn new(device: D) -> Self {
        Self::with_memory(device, memory())
    }

    pub(crate) fn with_memory(mut device: D, memory: Arc<GuestMemory>) -> Self {
        let identity = device.identity();
        let sizes = identity.queue_sizes.iter().enumerate();
        let rings: Vec<Ring> = sizes.map(|(index, &size)| Ring::new(index, size)).collect();
        let queues = rings.iter().map(|ring| ring.queue(true)).collect();
        let interrupt = Arc::new(Interrupt::new(EventFd::new(EFD_NONBLOCK).unwrap()));
        let mut active =
            ActiveQueues::new(Arc::clone(&memory), queues, interrupt, identity.features);
        let poller = Poller::new().unwrap();
        device.activate(&mut active, &poller).unwrap();
        Self { device, memory, rings, active, poller }
    }

    pub(crate) fn kick(&mut self, queue: usize) -> Result<(), Fault> {
        self.device.queue_kicked(queue, &mut self.active, &self.poller)?;
        self.come_back()
    }

    fn come_back(&mut self) -> Result<(), Fault> {
        loop {
            let unfinished: Vec<_> = self.active.take_unfinished().collect();
            if unfinished.is_empty() {
                return Ok(());
            }
            for queue in unfinished {
                self.device.queue_kicked(queue, &mut self.active, &self.poller)?;
            }
        }
    }

    /// Lets the device see what has happened to its descriptors; says how much that was.
    pub(crate) fn turn(&mut self) -> Result<usize, Fault> {
        let happened: Vec<(_, EventSet)> = self.poller.happened().unwrap();
        for &(token, events) in &happened {
            self.device.event(token, events, &mut self.active, &self.poller)?;
        }
        self.come_back()?;
        Ok(happened.len())
    }

    /// Puts a chain into a queue, kicks the device, and takes what it gives back at once.
    pub(crate) fn request(&mut self, queue: usize, pieces: &[Piece]) -> Result<u32, Fault> {
        let head = self.rings[queue].offer(&self.memory, pieces);
        self.kick(queue)?;
        let (given, written) = self.rings[queue].take(&self.memory).unwrap();
        assert_eq!(given, head);
        Ok(written)
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}
