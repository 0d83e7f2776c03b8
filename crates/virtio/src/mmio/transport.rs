//! A device as the driver sees it through its registers.

use std::sync::Arc;

use virtio_queue::{Queue, QueueT};

use super::{
    registers as reg,
    state::{QueueRegisters, TransportError, TransportState},
};
use crate::{
    Activation, GuestMemory, Identity, WorkerHandle, interrupt::NEEDS_RESET, worker::Paused,
};

/// The registers of one device. Whoever catches the driver's accesses hands them on:
/// [`MmioTransport::read`] and [`MmioTransport::write`].
///
/// ```text
///  reset ─► ACKNOWLEDGE ─► DRIVER ─► FEATURES_OK ─► queues ─► DRIVER_OK: the device runs
///    ▲                                                             │
///    └── status := 0, at any time ◄── or DEVICE_NEEDS_RESET ◄───────┘
/// ```
#[derive(Debug)]
pub struct MmioTransport<S> {
    device: WorkerHandle<S>,
    memory: Arc<GuestMemory>,
    status: u32,
    driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    queues: Vec<Queue>,
}

impl<S> MmioTransport<S> {
    /// The size of the registers' window, in bytes.
    pub const SIZE: u64 = 0x1000;
    /// The register to which the driver writes a queue's index to notify the device of it.
    pub const QUEUE_NOTIFY: u64 = reg::QUEUE_NOTIFY;

    /// A transport in its reset state.
    #[must_use]
    pub fn new(device: WorkerHandle<S>, memory: Arc<GuestMemory>) -> Self {
        let queues = fresh_queues(device.identity());
        Self {
            device,
            memory,
            status: 0,
            driver_features: 0,
            device_features_select: 0,
            driver_features_select: 0,
            queue_select: 0,
            queues,
        }
    }

    /// The way to the device.
    #[must_use]
    pub fn device(&self) -> &WorkerHandle<S> {
        &self.device
    }

    /// The driver reads `data.len()` bytes at `offset`.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(reg::CONFIG) {
            let config = &self.device.identity().config;
            let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..));
            let rest = rest.unwrap_or_default();
            let count = rest.len().min(data.len());
            data[..count].copy_from_slice(&rest[..count]);
        } else if let Ok(register) = <&mut [u8; 4]>::try_from(data) {
            // Registers are 32 bits wide and read as a whole (4.2.2.2); all else reads as 0.
            *register = self.read_register(offset).to_le_bytes();
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        let queue = self.queues.get(self.queue_select as usize);
        match offset {
            reg::MAGIC => reg::MAGIC_VALUE,
            reg::VERSION => reg::VERSION_VALUE,
            reg::DEVICE_ID => self.device.identity().kind as u32,
            reg::VENDOR_ID => reg::VENDOR_VALUE,
            reg::DEVICE_FEATURES => half(self.offered(), self.device_features_select),
            reg::QUEUE_SIZE_MAX => queue.map_or(0, |queue| u32::from(queue.max_size())),
            reg::QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready())),
            reg::INTERRUPT_STATUS => self.device.interrupt().status(),
            reg::STATUS => self.status | self.device.interrupt().reset_bit(),
            // There is no shared memory: its length and base read as all ones (4.2.2.1).
            reg::SHARED_MEMORY_FIRST..=reg::SHARED_MEMORY_LAST => !0,
            reg::CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    /// The driver writes `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        // The configuration spaces of our devices are read-only, and all else is 32 bits wide.
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else { return };
        match offset {
            reg::DEVICE_FEATURES_SELECT => self.device_features_select = value,
            reg::DRIVER_FEATURES_SELECT => self.driver_features_select = value,
            reg::DRIVER_FEATURES => self.accept_features(value),
            reg::QUEUE_SELECT => self.queue_select = value,
            reg::QUEUE_NOTIFY => {
                if let Some(kick) = self.device.kicks().get(value as usize) {
                    // Fails only when 2^64 - 2 notifications wait already.
                    let _ = kick.write(1);
                }
            }
            reg::INTERRUPT_ACKNOWLEDGE => self.device.interrupt().acknowledge(value),
            reg::STATUS => self.set_status(value),
            _ => self.set_up_queue(offset, value),
        }
    }

    fn accept_features(&mut self, value: u32) {
        if self.status & (reg::DRIVER | reg::FEATURES_OK) != reg::DRIVER {
            return;
        }
        let (shift, mask) = match self.driver_features_select {
            0 => (0, !0 << 32),
            1 => (32, u64::from(u32::MAX)),
            _ => return,
        };
        self.driver_features = self.driver_features & mask | u64::from(value) << shift;
    }

    fn set_up_queue(&mut self, offset: u64, value: u32) {
        // Queues are set up between the features and DRIVER_OK.
        if self.status & (reg::FEATURES_OK | reg::DRIVER_OK | reg::FAILED) != reg::FEATURES_OK {
            return;
        }
        let Some(queue) = self.queues.get_mut(self.queue_select as usize) else { return };
        let low = Some(value);
        match offset {
            // What is no power of two or more than the maximum is ignored.
            reg::QUEUE_SIZE => queue.set_size(u16::try_from(value).unwrap_or(0)),
            reg::QUEUE_READY => queue.set_ready(value == 1),
            reg::QUEUE_DESCRIPTORS_LOW => queue.set_desc_table_address(low, None),
            reg::QUEUE_DESCRIPTORS_HIGH => queue.set_desc_table_address(None, low),
            reg::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(low, None),
            reg::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, low),
            reg::QUEUE_DEVICE_LOW => queue.set_used_ring_address(low, None),
            reg::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, low),
            _ => {}
        }
    }

    /// The driver only ever adds bits, or resets all with 0 (2.1.1).
    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        if value & reg::FAILED != 0 {
            self.status |= reg::FAILED;
            return;
        }
        let added = value & !self.status;
        for (bit, needed) in [
            (reg::ACKNOWLEDGE, 0),
            (reg::DRIVER, reg::ACKNOWLEDGE),
            (reg::FEATURES_OK, reg::DRIVER),
            (reg::DRIVER_OK, reg::FEATURES_OK),
        ] {
            if added & bit == 0 || self.status & needed != needed || self.status & reg::FAILED != 0
            {
                continue;
            }
            match bit {
                // The driver finds the bit missing when it reads it back.
                reg::FEATURES_OK if !self.features_fit() => {}
                reg::DRIVER_OK => self.activate(),
                _ => self.status |= bit,
            }
        }
    }

    fn offered(&self) -> u64 {
        self.device.identity().features
            | reg::FEATURE_VERSION_1
            | reg::FEATURE_EVENT_INDEX
            | reg::FEATURE_INDIRECT
    }

    fn features_fit(&self) -> bool {
        self.driver_features & !self.offered() == 0
            && self.driver_features & reg::FEATURE_VERSION_1 != 0
    }

    fn activate(&mut self) {
        self.status |= reg::DRIVER_OK;
        let event_index = self.driver_features & reg::FEATURE_EVENT_INDEX != 0;
        let memory: &GuestMemory = &self.memory;
        for queue in &mut self.queues {
            queue.set_event_idx(event_index);
            if queue.ready() && !queue.is_valid(memory) {
                self.device.interrupt().needs_reset();
                return;
            }
        }
        let queues = self.queues.iter().filter_map(|queue| Queue::try_from(queue.state()).ok());
        self.device.activate(Activation {
            queues: queues.collect(),
            features: self.driver_features & reg::DEVICE_FEATURE_BITS,
        });
    }

    fn reset(&mut self) {
        if self.status & reg::DRIVER_OK != 0 {
            self.device.reset();
        }
        self.device.interrupt().clear();
        self.status = 0;
        self.driver_features = 0;
        self.device_features_select = 0;
        self.driver_features_select = 0;
        self.queue_select = 0;
        self.queues = fresh_queues(self.device.identity());
    }

    /// What is to be saved of it, together with the device that stands still.
    #[must_use]
    pub fn state(&self, device: &Paused<S>) -> TransportState {
        let queues = device.queues.as_deref().unwrap_or(&self.queues);
        TransportState {
            status: self.status | self.device.interrupt().reset_bit(),
            driver_features: self.driver_features,
            device_features_select: self.device_features_select,
            driver_features_select: self.driver_features_select,
            queue_select: self.queue_select,
            interrupt_status: self.device.interrupt().status(),
            queues: queues.iter().map(QueueRegisters::of).collect(),
        }
    }

    /// Brings a transport that was never used into a saved state. A device whose driver was ready
    /// runs at once, unless it had given up.
    ///
    /// # Errors
    /// [`TransportError`]; then it is as before.
    pub fn restore(&mut self, state: &TransportState) -> Result<(), TransportError> {
        let sizes = self.device.identity().queue_sizes;
        let (given, wanted) = (state.queues.len(), sizes.len());
        if given != wanted {
            return Err(TransportError::Queues { given, wanted });
        }
        // Before that, the driver may have written anything.
        let negotiated = state.status & reg::FEATURES_OK != 0;
        if negotiated && state.driver_features & !self.offered() != 0 {
            return Err(TransportError::Features);
        }
        // Where it was in its queues is not known of a device that has given up.
        let gave_up = state.status & NEEDS_RESET != 0;
        let active = state.status & reg::DRIVER_OK != 0 && !gave_up;
        let memory: &GuestMemory = &self.memory;
        let queues = state.queues.iter().zip(sizes).enumerate().map(|(index, (saved, &size))| {
            let queue = saved
                .to_queue(size)
                .filter(|queue| !(active && queue.ready()) || queue.is_valid(memory));
            queue.ok_or(TransportError::Queue { queue: index })
        });
        self.queues = queues.collect::<Result<_, _>>()?;
        self.status = state.status & !NEEDS_RESET;
        self.driver_features = state.driver_features;
        self.device_features_select = state.device_features_select;
        self.driver_features_select = state.driver_features_select;
        self.queue_select = state.queue_select;
        self.device.interrupt().restore(state.interrupt_status, state.status & NEEDS_RESET);
        if active {
            self.activate();
        }
        Ok(())
    }
}

fn fresh_queues(identity: &Identity) -> Vec<Queue> {
    // The sizes are constants of ours that fit.
    identity.queue_sizes.iter().filter_map(|&size| Queue::new(size).ok()).collect()
}

fn half(features: u64, select: u32) -> u32 {
    let half = match select {
        0 => features & u64::from(u32::MAX),
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(half).unwrap_or(0)
}
