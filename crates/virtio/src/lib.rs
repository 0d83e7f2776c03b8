//! Virtio devices over MMIO, for our own VMM (virtio 1.2, "modern" only, split virtqueues).
//!
//! A device has two halves. The driver's accesses to its registers end in a [`MmioTransport`], on
//! whichever vCPU's thread they happen. What it puts into the virtqueues is handled by a [`Device`]
//! on a thread of its own, from the day the machine is built ([`Worker`]):
//!
//! ```text
//!  vCPU ── register access ──► MmioTransport ── Order (activate, reset, …) ──► Worker ─► Device
//!  vCPU ── queue notify ─────► kick, an eventfd (by ioeventfd without an exit) ───┘        │
//!  vCPU ◄── interrupt ──────── Interrupt, an eventfd (irqfd) ◄────────────────────────────┘
//! ```
//!
//! # Invariants
//! - Nothing here knows of KVM: notifications and interrupts are eventfds.
//! - The guest is hostile. Whatever it writes into registers, rings, descriptors and buffers, a
//!   device touches guest memory only, and at worst stops with a [`Fault`], which the driver sees
//!   as `DEVICE_NEEDS_RESET`.
//! - What a device is at a moment is a type (`…State`), so that it can be saved.
//!
//! Each device has a directory with the same files: `device.rs` (what it is and does), `state.rs`
//! (what is saved of it), and what else it needs.

pub mod block;
mod chain;
mod device;
pub mod entropy;
mod interrupt;
mod mmio;
#[cfg(test)]
mod mock;
pub mod vsock;
mod worker;

pub use chain::{ChainBuffers, ChainError};
pub use device::{ActiveQueues, Device, DeviceKind, Fault, GuestMemory, Identity, Poller, Token};
pub use interrupt::Interrupt;
pub use mmio::{MmioTransport, QueueRegisters, TransportError, TransportState};
pub use worker::{Activation, Paused, Worker, WorkerHandle};
