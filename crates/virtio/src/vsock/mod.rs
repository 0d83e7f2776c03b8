//! Streams between the host and the guest (virtio 1.2, 5.10).

mod device;
mod state;

pub use device::{Vsock, VsockSettings};
pub use state::VsockState;
