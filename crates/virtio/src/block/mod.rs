//! A disk (virtio 1.2, 5.2): an image on the host, read and written by its offset.
//!
//! Requests are carried out one after the other by `preadv` and `pwritev` on the device's thread,
//! straight between the image and the guest's buffers. What a machine reads at its start lies in
//! the host's page cache, where io_uring took 1.1 to 1.4 times as long for 4 KiB and no less for
//! more: it hands what need not wait to another queue.

mod device;
mod request;
mod state;
#[cfg(test)]
mod tests;

pub use device::{Block, BlockSettings, Flush, OpenError, Writing};
pub use state::BlockState;
