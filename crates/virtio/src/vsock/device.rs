//! The device.

use std::{io, os::unix::net::UnixListener};

use vmm_sys_util::epoll::EventSet;

use super::state::VsockState;
use crate::{ActiveQueues, Device, DeviceKind, Fault, Identity, Poller, Token};

/// Of each of the queues for packets.
const QUEUE_SIZE: u16 = 256;
/// Of the queue for events, of which there is one kind.
const EVENT_QUEUE_SIZE: u16 = 16;
const FEATURE_STREAM: u64 = 1;

/// A way into the guest to be.
#[derive(Debug)]
pub struct VsockSettings {
    /// The guest's address, 3 or more.
    pub guest_cid: u64,
    /// Where the host's clients dial in. Whoever can connect can reach every port of the guest.
    pub listener: UnixListener,
}

/// The device.
#[derive(Debug)]
pub struct Vsock {
    guest_cid: u64,
    #[expect(dead_code, reason = "nobody can connect yet")]
    listener: UnixListener,
    next_port: u32,
}

impl Vsock {
    /// A device without connections.
    ///
    /// # Errors
    /// What the system said; it may be out of descriptors.
    pub fn new(settings: VsockSettings) -> io::Result<Self> {
        let VsockSettings { guest_cid, listener } = settings;
        listener.set_nonblocking(true)?;
        Ok(Self { guest_cid, listener, next_port: 1 << 30 })
    }

    /// A device of a restored machine: when its transport is restored, the guest is told that its
    /// connections are dead.
    ///
    /// # Errors
    /// As [`Vsock::new`].
    pub fn restored(settings: VsockSettings, state: &VsockState) -> io::Result<Self> {
        Ok(Self { next_port: state.next_port, ..Self::new(settings)? })
    }
}

impl Device for Vsock {
    type State = VsockState;

    fn identity(&self) -> Identity {
        Identity {
            kind: DeviceKind::Vsock,
            features: FEATURE_STREAM,
            queue_sizes: &[QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE],
            config: self.guest_cid.to_le_bytes().to_vec(),
        }
    }

    fn activate(&mut self, _active: &mut ActiveQueues, _poller: &Poller) -> Result<(), Fault> {
        Ok(())
    }

    fn queue_kicked(
        &mut self,
        _queue: usize,
        _active: &mut ActiveQueues,
        _poller: &Poller,
    ) -> Result<(), Fault> {
        Ok(())
    }

    fn event(
        &mut self,
        _token: Token,
        _events: EventSet,
        _active: &mut ActiveQueues,
        _poller: &Poller,
    ) -> Result<(), Fault> {
        Ok(())
    }

    fn reset(&mut self, _poller: &Poller) {}

    fn state(&self) -> VsockState {
        VsockState { guest_cid: self.guest_cid, next_port: self.next_port }
    }
}
