//! How the host reaches the agent: byte streams that the kernel's arguments name the kind of.

mod connection;
mod frames;
mod serial;
mod vsock;

use std::{io, path::PathBuf, pin::Pin};

use costrel_agent_proto::AGENT_PORT;
use tokio_stream::Stream;

pub use connection::{Connection, Retirement};

/// The kinds of byte stream between host and guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// A virtio-serial port, found by its name, `costrel.<port>`.
    VirtioSerial,
    /// vsock(7) sockets, accepted at the port of that number.
    Vsock,
}

/// Why the host cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// There is no port of that name.
    #[error("no virtio-serial port is named {0}")]
    NoPort(String),
    /// The port could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel has no vsock, or not that port.
    #[error("cannot listen at vsock port {port}: {source}")]
    Listen {
        /// The port.
        port: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Transport {
    /// Reads the value of the kernel argument `costrel.transport`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "virtio-serial" => Some(Self::VirtioSerial),
            "vsock" => Some(Self::Vsock),
            _ => None,
        }
    }
}

/// The host's connections, as they come.
pub type Connections = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

/// Waits for the host, which may connect from now on.
///
/// # Errors
/// [`TransportError`].
pub fn connections(transport: Transport) -> Result<Connections, TransportError> {
    Ok(match transport {
        Transport::VirtioSerial => Box::pin(serial::connections(AGENT_PORT)?),
        Transport::Vsock => Box::pin(vsock::connections(AGENT_PORT)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_have_names() {
        assert_eq!(Transport::parse("virtio-serial"), Some(Transport::VirtioSerial));
        assert_eq!(Transport::parse("vsock"), Some(Transport::Vsock));
        assert_eq!(Transport::parse("tcp"), None);
    }
}
