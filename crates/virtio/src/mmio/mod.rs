//! A device's registers (virtio 1.2, 4.2).

mod registers;
mod state;
#[cfg(test)]
mod tests;
mod transport;

pub use state::{QueueRegisters, TransportError, TransportState};
pub use transport::MmioTransport;
