//! What a device is to its driver, and what it does on its thread.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use virtio_queue::{Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::{ChainBuffers, ChainError, Interrupt};

/// The guest's physical memory.
pub type GuestMemory = GuestMemoryMmap<()>;

/// The kinds of device there are, by their virtio numbers (virtio 1.2, 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[repr(u32)]
pub enum DeviceKind {
    /// 5.2
    Block = 2,
    /// 5.4
    Entropy = 4,
    /// 5.10
    Vsock = 19,
}

/// What the driver sees of a device before it uses it. None of it changes while the device lives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its kind.
    pub kind: DeviceKind,
    /// The kind's own feature bits (0 to 23). The transport adds those of virtqueues and transports.
    pub features: u64,
    /// The most entries that each of its virtqueues may have, each a power of two up to 32768.
    pub queue_sizes: &'static [u16],
    /// The kind's configuration space. Drivers can only read it.
    pub config: Vec<u8>,
}

/// Why a device cannot go on until the driver resets it: the driver broke the rules.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A ring is not where or what it should be.
    #[error("virtqueue {queue} is broken")]
    Queue {
        /// Its index.
        queue: usize,
        /// What is wrong with it.
        #[source]
        source: virtio_queue::Error,
    },
    /// A descriptor chain breaks the rules.
    #[error("a descriptor chain of virtqueue {queue} is broken")]
    Chain {
        /// The virtqueue's index.
        queue: usize,
        /// What is wrong with it.
        #[source]
        source: ChainError,
    },
    /// The driver asks for what it has not negotiated, or for what makes no sense.
    #[error("the driver broke the device's protocol: {0}")]
    Protocol(&'static str),
    /// The host failed the device.
    #[error("cannot {operation}")]
    Host {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The half of a device behind the virtqueues. All of it runs on one thread. A device that has
/// nothing to wait for but its queues has no activation, no events and nothing to let go of.
pub trait Device: Send + 'static {
    /// What is saved of it: all that is not the transport's and cannot be had from the machine's
    /// description.
    type State: Serialize + DeserializeOwned + Send + 'static;

    /// What the driver sees of it.
    fn identity(&self) -> Identity;

    /// The driver is ready: the queues may be used from now on. Descriptors that the device wants
    /// to hear of are registered here (or later).
    ///
    /// # Errors
    /// [`Fault`].
    fn activate(&mut self, _queues: &mut ActiveQueues, _poller: &Poller) -> Result<(), Fault> {
        Ok(())
    }

    /// The driver put something into a virtqueue, or may have.
    ///
    /// # Errors
    /// [`Fault`]; then the device is not called again until it was reset.
    fn queue_kicked(
        &mut self,
        queue: usize,
        queues: &mut ActiveQueues,
        poller: &Poller,
    ) -> Result<(), Fault>;

    /// Something happened to a descriptor that the device had registered.
    ///
    /// # Errors
    /// As [`Device::queue_kicked`].
    fn event(
        &mut self,
        _token: Token,
        _events: EventSet,
        _queues: &mut ActiveQueues,
        _poller: &Poller,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// The driver resets the device, or the machine ends. It lets go of whatever it registered.
    fn reset(&mut self, _poller: &Poller) {}

    /// What is to be saved of it. Called only while the machine is paused.
    fn state(&self) -> Self::State;
}

/// A number by which a device knows what it registered: 0 to 2³² - 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub u32);

/// What a device waits with.
#[derive(Debug)]
pub struct Poller {
    pub(crate) epoll: Epoll,
}

impl Poller {
    /// One that waits for nothing yet. A [`Worker`] has its own.
    ///
    /// [`Worker`]: crate::Worker
    ///
    /// # Errors
    /// What the system said.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()? })
    }

    /// What has happened by now, without waiting: for whoever drives a device without a thread.
    ///
    /// # Errors
    /// What the system said.
    pub fn happened(&self) -> io::Result<Vec<(Token, EventSet)>> {
        let mut events = [EpollEvent::default(); 16];
        let count = self.epoll.wait(0, &mut events)?;
        let happened = events[..count].iter().filter_map(|event| {
            Some((Token(u32::try_from(event.data()).ok()?), event.event_set()))
        });
        Ok(happened.collect())
    }

    /// Has [`Device::event`] called with `token` when one of `events` happens.
    ///
    /// # Errors
    /// What the system said.
    pub fn add(&self, fd: BorrowedFd<'_>, token: Token, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Add, fd, token, events)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// What the system said.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: Token, events: EventSet) -> io::Result<()> {
        self.control(ControlOperation::Modify, fd, token, events)
    }

    /// Ends the waiting for a descriptor.
    ///
    /// # Errors
    /// What the system said.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(ControlOperation::Delete, fd, Token(0), EventSet::empty())
    }

    fn control(
        &self,
        operation: ControlOperation,
        fd: BorrowedFd<'_>,
        token: Token,
        events: EventSet,
    ) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        let event = EpollEvent::new(events, u64::from(token.0));
        self.epoll.ctl(operation, fd.as_raw_fd(), event)
    }
}

/// What a driver has handed to its device.
#[derive(Debug)]
pub struct ActiveQueues {
    /// The memory that descriptors point into.
    pub memory: Arc<GuestMemory>,
    /// The virtqueues. The driver may have left some of them out ([`QueueT::ready`]).
    ///
    /// [`QueueT::ready`]: virtio_queue::QueueT::ready
    pub queues: Vec<Queue>,
    /// How the driver is told.
    pub interrupt: Arc<Interrupt>,
    /// What was negotiated of the device's own features.
    pub features: u64,
    /// One bit a queue that is to be served again though nobody kicks it.
    unfinished: u32,
    /// One bit a queue of which the driver was not told yet that something was given back.
    untold: u32,
}

/// The most chains of a queue that are served before the device listens to anybody else.
const MOST_AT_ONCE: usize = 1024;
/// The most bytes in their buffers: a disk copies that much in some dozen milliseconds.
const MOST_BYTES_AT_ONCE: usize = 64 << 20;

impl ActiveQueues {
    /// Queues in use.
    #[must_use]
    pub fn new(
        memory: Arc<GuestMemory>,
        queues: Vec<Queue>,
        interrupt: Arc<Interrupt>,
        features: u64,
    ) -> Self {
        Self { memory, queues, interrupt, features, unfinished: 0, untold: 0 }
    }

    /// Has [`Device::queue_kicked`] called for a queue once more, after whoever else waits for the
    /// device: a driver that never stops must not keep the device from being paused.
    pub fn come_back(&mut self, queue: usize) {
        self.unfinished |= 1 << queue;
    }

    /// The queues to come back to, each of which is named once.
    pub fn take_unfinished(&mut self) -> impl Iterator<Item = usize> + use<> {
        let unfinished = std::mem::take(&mut self.unfinished);
        (0..u32::BITS as usize).filter(move |queue| unfinished >> queue & 1 != 0)
    }

    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished != 0
    }

    /// Serves what the driver has put into a queue, a bounded number of chains at a time: `serve`
    /// gets the chain's buffers and says how many bytes it wrote. The driver is told at the end.
    ///
    /// # Errors
    /// [`Fault`], also where `serve` says that the chain is not what it should be.
    pub fn serve(
        &mut self,
        queue: usize,
        buffers: &mut ChainBuffers,
        mut serve: impl FnMut(&GuestMemory, &mut ChainBuffers) -> Result<u32, Fault>,
    ) -> Result<(), Fault> {
        let memory = Arc::clone(&self.memory);
        let mut bytes = 0;
        for _ in 0..MOST_AT_ONCE {
            if bytes >= MOST_BYTES_AT_ONCE {
                break;
            }
            let Some(head) = self.pop(queue, &memory, buffers)? else {
                self.notify(queue)?;
                if self.listen(queue)? {
                    continue;
                }
                return Ok(());
            };
            bytes += buffers.readable_length() + buffers.writable_length();
            let written = serve(&memory, buffers)?;
            self.give_back(queue, head, written)?;
        }
        self.come_back(queue);
        self.notify(queue)
    }

    /// Takes the next chain out of a queue: its buffers, and the number by which it is given back.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn pop(
        &mut self,
        queue: usize,
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Result<Option<u16>, Fault> {
        // `pop_descriptor_chain` would take a broken ring for an empty one.
        let mut chains =
            self.queues[queue].iter(memory).map_err(|source| Fault::Queue { queue, source })?;
        let Some(chain) = chains.next() else { return Ok(None) };
        let head = chain.head_index();
        buffers.load(memory, chain).map_err(|source| Fault::Chain { queue, source })?;
        Ok(Some(head))
    }

    /// Puts the chain that was taken out last back, as if it had not been.
    pub fn put_back(&mut self, queue: usize) {
        self.queues[queue].go_to_previous_position();
    }

    /// How many chains the driver has ever put into a queue, modulo 2¹⁶.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn driver_index(&self, queue: usize) -> Result<u16, Fault> {
        let memory: &GuestMemory = &self.memory;
        let index = self.queues[queue].avail_idx(memory, Ordering::Acquire);
        Ok(index.map_err(|source| Fault::Queue { queue, source })?.0)
    }

    /// Has the driver notify the device of what it puts into a queue beyond `index`, whatever of the
    /// rest was not taken yet. True if there is something already.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn listen_beyond(&mut self, queue: usize, index: u16) -> Result<bool, Fault> {
        let ring = &self.queues[queue];
        if ring.event_idx_enabled() {
            // `avail_event`, behind the ring's entries (virtio 1.2, 2.7.8). The ring was checked to
            // be within the memory when it became active.
            let address = ring.used_ring() + 4 + 8 * u64::from(ring.size());
            let stored = self.memory.store(index.to_le(), GuestAddress(address), Ordering::Relaxed);
            stored
                .map_err(virtio_queue::Error::GuestMemory)
                .map_err(|source| Fault::Queue { queue, source })?;
            // Before the index is read again.
            fence(Ordering::SeqCst);
        } else {
            self.listen(queue)?;
        }
        Ok(self.driver_index(queue)? != index)
    }

    /// Has the driver notify the device of what it puts into a queue from now on. True if there is
    /// something in it already.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn listen(&mut self, queue: usize) -> Result<bool, Fault> {
        let memory: &GuestMemory = &self.memory;
        self.queues[queue]
            .enable_notification(memory)
            .map_err(|source| Fault::Queue { queue, source })
    }

    /// Gives a chain back to the driver with `written` bytes in it.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn give_back(&mut self, queue: usize, head: u16, written: u32) -> Result<(), Fault> {
        let memory: &GuestMemory = &self.memory;
        self.untold |= 1 << queue;
        self.queues[queue]
            .add_used(memory, head, written)
            .map_err(|source| Fault::Queue { queue, source })
    }

    /// Interrupts the driver if it wants that after what was given back since the last time.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn notify(&mut self, queue: usize) -> Result<(), Fault> {
        if self.untold >> queue & 1 == 0 {
            return Ok(());
        }
        self.untold &= !(1 << queue);
        let memory: &GuestMemory = &self.memory;
        let wanted = self.queues[queue]
            .needs_notification(memory)
            .map_err(|source| Fault::Queue { queue, source })?;
        if wanted {
            self.interrupt.buffers_used();
        }
        Ok(())
    }
}
