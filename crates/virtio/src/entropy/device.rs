//! Fills what the driver gives with the host's random bytes.

use rustix::rand::{GetRandomFlags, getrandom};

use super::state::EntropyState;
use crate::{ActiveQueues, ChainBuffers, Device, DeviceKind, Fault, Identity, Poller};

/// The device.
#[derive(Debug, Default)]
pub struct Entropy {
    buffers: ChainBuffers,
}

/// The most bytes given at a time. The driver takes what it gets (Linux asks for 64 at most).
const MOST_BYTES: usize = 256;

impl Device for Entropy {
    type State = EntropyState;

    fn identity(&self) -> Identity {
        Identity { kind: DeviceKind::Entropy, features: 0, queue_sizes: &[8], config: Vec::new() }
    }

    fn queue_kicked(
        &mut self,
        queue: usize,
        active: &mut ActiveQueues,
        _poller: &Poller,
    ) -> Result<(), Fault> {
        active.serve(queue, &mut self.buffers, |memory, buffers| {
            let mut bytes = [0; MOST_BYTES];
            let wanted = buffers.writable_length().min(MOST_BYTES);
            let count =
                getrandom(&mut bytes[..wanted], GetRandomFlags::empty()).map_err(|error| {
                    Fault::Host { operation: "get random bytes", source: error.into() }
                })?;
            buffers
                .put(memory, &bytes[..count])
                .map_err(|source| Fault::Chain { queue, source })?;
            Ok(u32::try_from(count).unwrap_or(0))
        })
    }

    fn state(&self) -> EntropyState {
        EntropyState {}
    }
}
