//! What is saved of a transport.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState, QueueT as _};

/// A transport's registers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TransportState {
    /// The device's status, with the bit by which the device gives up.
    pub status: u32,
    /// What the driver has accepted of the features.
    pub driver_features: u64,
    /// Which half of the device's features is read.
    pub device_features_select: u32,
    /// Which half of the driver's features is written.
    pub driver_features_select: u32,
    /// The queue that the queue registers are about.
    pub queue_select: u32,
    /// The interrupts that were not acknowledged yet.
    pub interrupt_status: u32,
    /// The queues.
    pub queues: Vec<QueueRegisters>,
}

/// A virtqueue: what the driver has said of it, and where the device is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueueRegisters {
    /// The number of its entries, a power of two.
    pub size: u16,
    /// Whether the driver says that it may be used.
    pub ready: bool,
    /// The guest physical address of its descriptors.
    pub descriptors: u64,
    /// The guest physical address of its available ring.
    pub driver: u64,
    /// The guest physical address of its used ring.
    pub device: u64,
    /// Whether notifications are asked for by index.
    pub event_index: bool,
    /// The available ring's next entry.
    pub next_available: u16,
    /// The used ring's next entry.
    pub next_used: u16,
}

/// Why a saved transport cannot be one of this device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TransportError {
    /// It has another number of queues.
    #[error("the state has {given} virtqueues, and the device {wanted}")]
    Queues {
        /// The state's.
        given: usize,
        /// The device's.
        wanted: usize,
    },
    /// A queue cannot be as it is said to be.
    #[error("virtqueue {queue} is not where or what it should be")]
    Queue {
        /// Its index.
        queue: usize,
    },
    /// It claims features that the device does not have.
    #[error("the state has features that the device lacks")]
    Features,
}

impl QueueRegisters {
    pub(super) fn of(queue: &Queue) -> Self {
        let state = queue.state();
        Self {
            size: state.size,
            ready: state.ready,
            descriptors: state.desc_table,
            driver: state.avail_ring,
            device: state.used_ring,
            event_index: state.event_idx_enabled,
            next_available: queue.next_avail(),
            next_used: queue.next_used(),
        }
    }

    pub(super) fn to_queue(self, max_size: u16) -> Option<Queue> {
        Queue::try_from(QueueState {
            max_size,
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: self.event_index,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.driver,
            used_ring: self.device,
        })
        .ok()
    }
}
