//! A source of random bytes (virtio 1.2, 5.4).

mod device;
mod state;

pub use device::Entropy;
pub use state::EntropyState;
