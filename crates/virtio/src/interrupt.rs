//! How a device reaches its driver.

use std::sync::atomic::{AtomicU32, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// The bits of `InterruptStatus` (virtio 1.2, 4.2.2).
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;
/// The bit of the device status by which a device gives up.
pub(crate) const NEEDS_RESET: u32 = 64;

/// A device's interrupt, and what goes with it: shared by its transport and its thread.
#[derive(Debug)]
pub struct Interrupt {
    line: EventFd,
    status: AtomicU32,
    needs_reset: AtomicU32,
}

impl Interrupt {
    /// An interrupt that is raised by writing to an eventfd.
    #[must_use]
    pub fn new(line: EventFd) -> Self {
        Self { line, status: AtomicU32::new(0), needs_reset: AtomicU32::new(0) }
    }

    /// The eventfd.
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// The device has given buffers back.
    pub fn buffers_used(&self) {
        self.raise(USED_BUFFER);
    }

    /// The device stops until it is reset.
    pub fn needs_reset(&self) {
        self.needs_reset.store(NEEDS_RESET, Ordering::SeqCst);
        self.raise(CONFIG_CHANGE);
    }

    fn raise(&self, bit: u32) {
        // The status first: the driver reads it when the interrupt has come.
        self.status.fetch_or(bit, Ordering::SeqCst);
        // Fails only when 2^64 - 2 interrupts wait already.
        let _ = self.line.write(1);
    }

    pub(crate) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// [`NEEDS_RESET`] or 0.
    pub(crate) fn reset_bit(&self) -> u32 {
        self.needs_reset.load(Ordering::SeqCst)
    }

    pub(crate) fn clear(&self) {
        self.set(0, 0);
    }

    /// Sets what was saved. What the driver has not acknowledged may not have reached it.
    pub(crate) fn restore(&self, status: u32, reset_bit: u32) {
        self.set(status, reset_bit);
        if status != 0 {
            let _ = self.line.write(1);
        }
    }

    fn set(&self, status: u32, reset_bit: u32) {
        self.status.store(status, Ordering::SeqCst);
        self.needs_reset.store(reset_bit, Ordering::SeqCst);
    }
}
