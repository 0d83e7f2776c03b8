//! Ports of the host's loopback that a sandbox's workload reaches.

use std::fmt;

use costrel_agent_client::{AgentClient, HostRelay, wire};

/// The most ports of the host that one sandbox reaches.
pub const HOST_PORT_LIMIT: usize = 64;

/// A port of the host's loopback that the workload reaches, at the same port of its own: while the
/// sandbox runs, each connection that it makes there is relayed to this host's 127.0.0.1, or to its
/// `[::1]` if nobody listens there. A connection that the host refuses is reset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    /// The port's number, not 0.
    pub port: u16,
    /// What the workload reaches it by.
    pub names: HostNames,
}

/// What a port of the host is reached by inside. The workload cannot listen at the same port there
/// itself, and with either not at all addresses (`0.0.0.0`, `[::]`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostNames {
    /// `host.costrel.internal`.
    Alias,
    /// `localhost`, 127.0.0.1 and `[::1]` as well.
    AliasAndLocalhost,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.port;
        match self.names {
            HostNames::Alias => write!(f, "{}:{port}", costrel_agent_client::HOST_ALIAS),
            HostNames::AliasAndLocalhost => write!(f, "localhost:{port}"),
        }
    }
}

impl From<&HostPort> for wire::HostPort {
    fn from(host_port: &HostPort) -> Self {
        Self {
            port: host_port.port.into(),
            at_localhost: host_port.names == HostNames::AliasAndLocalhost,
        }
    }
}

/// Relays what the workload connects to, if there is anything that it may reach.
pub(crate) fn relay(agent: &AgentClient, ports: &[HostPort]) -> Option<HostRelay> {
    let numbers = ports.iter().map(|host_port| host_port.port);
    (!ports.is_empty()).then(|| HostRelay::start(agent, numbers))
}
