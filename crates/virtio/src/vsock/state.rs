//! What is saved of a vsock device.

use serde::{Deserialize, Serialize};

/// What a vsock device was. Of its connections nothing is saved: their other ends, on the host, are
/// gone when the machine is restored, which is why the guest is told so ([`Vsock::restored`]).
///
/// [`Vsock::restored`]: super::Vsock::restored
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VsockState {
    /// The guest's address.
    pub guest_cid: u64,
    /// The host's port of the next connection. New connections of a restored machine must not have
    /// the ports of old ones, as the guest may not have heard of their end yet.
    pub next_port: u32,
}
