//! A guest's memory between guard pages, and a driver that does what an input says.

use std::{ops::Range, sync::Arc};

use costrel_virtio::{ActiveQueues, Device, Fault, GuestMemory, Interrupt, Poller};
use virtio_queue::{Queue, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Each of the two regions, which lie side by side for the guest and apart for the host.
const REGION: usize = 0x1_0000;
/// The guest's memory in bytes.
pub const MEMORY: u64 = 2 * REGION as u64;
/// The rings lie below, what they point to above.
pub const DATA: u64 = 0x6000;
const RING: u64 = 0x2000;
const PAGE: usize = 4096;
const SIZE: u16 = 16;
const WRITABLE: u16 = 2;

/// An input, byte by byte; zeroes when it is used up.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    /// Whether it is used up.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = N.min(self.0.len());
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    /// The next two bytes.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    /// An address: mostly of what is not the rings, sometimes near a boundary, sometimes any.
    pub fn address(&mut self) -> u64 {
        match self.byte() {
            0 => u64::from_le_bytes(self.bytes()),
            1 => MEMORY - u64::from(self.byte()),
            2 => REGION as u64 - u64::from(self.byte()),
            _ => DATA + u64::from(self.short()) % (MEMORY - DATA),
        }
    }

    /// A length: mostly short.
    pub fn length(&mut self) -> u32 {
        match self.byte() {
            0 => u32::from_le_bytes(self.bytes()),
            1..64 => u32::from(self.short()),
            64..128 => 512 * u32::from(self.byte() % 8),
            length => u32::from(length % 64),
        }
    }
}

/// Memory with nothing mapped before, between and behind its two regions: who leaves them dies.
#[expect(unsafe_code, reason = "guard pages need a mapping laid out by hand")]
fn memory() -> GuestMemory {
    thread_local! {
        static REGIONS: [usize; 2] = map();
    }
    const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    fn map() -> [usize; 2] {
        let none = std::ptr::null_mut();
        let length = 2 * REGION + 3 * PAGE;
        // SAFETY: a new mapping, which is never given back.
        let base = unsafe { libc::mmap(none, length, libc::PROT_NONE, FLAGS, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED);
        [PAGE, 2 * PAGE + REGION].map(|offset| {
            let address = base.wrapping_byte_add(offset);
            // SAFETY: within the mapping.
            assert_eq!(unsafe { libc::mprotect(address, REGION, PROTECTION) }, 0);
            address.addr()
        })
    }
    let regions = REGIONS.with(|regions| *regions).into_iter().enumerate();
    let regions = regions.map(|(at, address)| {
        let pointer = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: mapped for as long as the process lives, of that length and protection.
        let region = unsafe { MmapRegion::build_raw(pointer, REGION, PROTECTION, FLAGS) };
        let start = GuestAddress((at * REGION) as u64);
        GuestRegionMmap::new(region.expect("a region"), start).expect("a region")
    });
    let memory = GuestMemory::from_regions(regions.collect()).expect("memory");
    memory.write_slice(&[0; 2 * REGION], GuestAddress(0)).expect("memory");
    memory
}

/// What a driver may do with its rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manners {
    /// Chains are what they should be but for addresses, lengths and directions. Then it is known
    /// what the device may write.
    Good,
    /// Anything.
    None,
}

/// A device with its driver and nothing else.
#[derive(Debug)]
pub struct Machine<D> {
    /// The device.
    pub device: D,
    /// Its memory.
    pub memory: Arc<GuestMemory>,
    /// How the driver behaves.
    pub manners: Manners,
    poller: Poller,
    active: Option<ActiveQueues>,
    added: Vec<u16>,
    next: Vec<u16>,
    /// What the device may write besides the used rings.
    writable: Vec<Range<u64>>,
}

impl<D: Device> Machine<D> {
    /// A device whose driver is ready.
    pub fn new(device: D, manners: Manners) -> Self {
        let (memory, poller) = (Arc::new(memory()), Poller::new().expect("a poller"));
        let queues = device.identity().queue_sizes.len();
        let mut machine = Self {
            device,
            memory,
            manners,
            poller,
            active: None,
            added: vec![0; queues],
            next: vec![0; queues],
            writable: Vec::new(),
        };
        machine.activate(|queue| {
            let base = queue as u64 * RING;
            [base, base + 0x400, base + 0x800]
        });
        machine
    }

    /// Resets the device, with its rings at places of the input's choice.
    pub fn reset(&mut self, input: &mut Input<'_>) {
        self.device.reset(&self.poller);
        self.active = None;
        self.writable.clear();
        let good = self.manners == Manners::Good;
        self.activate(|queue| {
            let base = queue as u64 * RING;
            if good {
                [base, base + 0x400, base + 0x800]
            } else {
                [(); 3].map(|()| input.address() & !15)
            }
        });
    }

    fn activate(&mut self, mut place: impl FnMut(usize) -> [u64; 3]) {
        let interrupt = Interrupt::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        let identity = self.device.identity();
        let mut queues = Vec::new();
        for index in 0..identity.queue_sizes.len() {
            let places = place(index);
            let mut queue = Queue::new(SIZE).expect("a queue");
            let low = |address: u64| u32::try_from(address & u64::from(u32::MAX)).ok();
            let high = |address: u64| u32::try_from(address >> 32).ok();
            queue.set_desc_table_address(low(places[0]), high(places[0]));
            queue.set_avail_ring_address(low(places[1]), high(places[1]));
            queue.set_used_ring_address(low(places[2]), high(places[2]));
            queue.set_event_idx(true);
            queue.set_ready(true);
            // The transport does not let others through.
            if !queue.is_valid(&*self.memory) {
                return;
            }
            if self.manners == Manners::Good {
                self.memory
                    .write_slice(&[0; RING as usize], GuestAddress(places[0]))
                    .expect("rings");
            }
            queues.push(queue);
        }
        self.added.fill(0);
        self.next.fill(0);
        let memory = Arc::clone(&self.memory);
        let mut active = ActiveQueues::new(memory, queues, Arc::new(interrupt), identity.features);
        if self.device.activate(&mut active, &self.poller).is_ok() {
            self.active = Some(active);
        } else {
            self.device.reset(&self.poller);
        }
    }

    /// Puts a chain of the input's choice into a queue, `first` being what its first descriptor
    /// points to.
    pub fn offer(&mut self, queue: usize, first: &[u8], input: &mut Input<'_>) {
        let count = 1 + input.byte() % 6;
        let mut pieces = Vec::new();
        if !first.is_empty() {
            let address = DATA + u64::from(input.short()) % 0x8000;
            self.memory.write_slice(first, GuestAddress(address)).expect("memory");
            pieces.push((address, u32::try_from(first.len()).expect("short"), 0));
        }
        for at in 0..count {
            let writable = input.byte() & 1 != 0 || self.manners == Manners::Good && at > count / 2;
            pieces.push((input.address(), input.length(), if writable { WRITABLE } else { 0 }));
        }
        self.offer_pieces(queue, &pieces);
    }

    /// The descriptor that the next chain of a queue begins at.
    pub fn next_index(&self, queue: usize) -> u16 {
        self.next[queue]
    }

    /// Puts a chain of (address, length, flags) into a queue.
    pub fn offer_pieces(&mut self, queue: usize, pieces: &[(u64, u32, u16)]) {
        let base = queue as u64 * RING;
        let mut index = self.next[queue];
        let head = index;
        for (at, &(address, length, flags)) in pieces.iter().enumerate() {
            // Who has its rings overwritten cannot know what is written next.
            let good = self.manners == Manners::Good;
            let address = if good && address < DATA { address + DATA } else { address };
            let last = at + 1 == pieces.len();
            let next = (index + 1) % SIZE;
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&address.to_le_bytes());
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes[12..14].copy_from_slice(&(flags | u16::from(!last)).to_le_bytes());
            bytes[14..].copy_from_slice(&next.to_le_bytes());
            self.put(base + 16 * u64::from(index), &bytes);
            if flags & WRITABLE != 0 {
                self.writable.push(address..address.saturating_add(u64::from(length)));
            }
            index = next;
        }
        self.next[queue] = index;
        let entry = base + 0x400 + 4 + 2 * u64::from(self.added[queue] % SIZE);
        self.put(entry, &head.to_le_bytes());
        self.added[queue] = self.added[queue].wrapping_add(1);
        self.put(base + 0x400 + 2, &self.added[queue].to_le_bytes());
    }

    /// Writes into the memory, if it is memory.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }

    /// What the device has given back of a queue at its place, from a count on: heads and lengths.
    pub fn used(&self, queue: usize, seen: &mut u16) -> Vec<(u16, u32)> {
        let base = queue as u64 * RING + 0x800;
        let read = |address: u64| self.memory.read_obj::<u32>(GuestAddress(address)).unwrap_or(0);
        let index = (read(base) >> 16) as u16;
        let mut used = Vec::new();
        while *seen != index && used.len() < SIZE.into() {
            let entry = base + 4 + 8 * u64::from(*seen % SIZE);
            used.push((read(entry) as u16, read(entry + 4)));
            *seen = seen.wrapping_add(1);
        }
        used
    }

    /// Whether the device runs; if not, it has to be reset.
    pub fn runs(&self) -> bool {
        self.active.is_some()
    }

    /// Kicks a queue.
    pub fn kick(&mut self, queue: usize) {
        self.watched(|device, active, poller| device.queue_kicked(queue, active, poller));
    }

    /// Lets the device see what has happened to its descriptors, and says how much that was.
    pub fn turn(&mut self) -> usize {
        if self.active.is_none() {
            return 0;
        }
        let happened = self.poller.happened().expect("events");
        for &(token, events) in &happened {
            self.watched(|device, active, poller| device.event(token, events, active, poller));
        }
        happened.len()
    }

    /// Has the device do something: an end to it, and nothing written that it must not write.
    fn watched(
        &mut self,
        act: impl FnOnce(&mut D, &mut ActiveQueues, &Poller) -> Result<(), Fault>,
    ) {
        let Some(active) = &mut self.active else { return };
        let before = (self.manners == Manners::Good).then(|| content(&self.memory));
        let mut outcome = act(&mut self.device, active, &self.poller);
        let mut rounds = 0;
        while outcome.is_ok() {
            let unfinished: Vec<_> = active.take_unfinished().collect();
            if unfinished.is_empty() {
                break;
            }
            rounds += 1;
            assert!(rounds < 1000, "the device never comes to an end");
            outcome = unfinished
                .into_iter()
                .try_for_each(|queue| self.device.queue_kicked(queue, active, &self.poller));
        }
        let queues = active.queues.len() as u64;
        if outcome.is_err() {
            self.active = None;
            self.device.reset(&self.poller);
        }
        let Some(before) = before else { return };
        let after = content(&self.memory);
        // Page by page first: byte by byte it takes longer than all the rest.
        for (page, (before, after)) in before.chunks(PAGE).zip(after.chunks(PAGE)).enumerate() {
            if before == after {
                continue;
            }
            let changed = (0..PAGE).filter(|&at| before[at] != after[at]);
            for address in changed.map(|at| (page * PAGE + at) as u64) {
                let used = address < queues * RING && address % RING >= 0x800;
                let given = self.writable.iter().any(|range| range.contains(&address));
                assert!(used || given, "the device wrote at {address:#x}");
            }
        }
    }
}

fn content(memory: &GuestMemory) -> Vec<u8> {
    let mut bytes = vec![0; 2 * REGION];
    memory.read_slice(&mut bytes, GuestAddress(0)).expect("memory");
    bytes
}
