//! Why an instance ends.

use costrel_agent_client::wire;

/// Why an instance ends, as its extensions are told (`shutdownReason`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownReason {
    /// It is not needed any more.
    Spindown,
    /// An invocation took too long.
    Timeout,
    /// The runtime, or an extension, has ended by itself.
    Failure,
}

impl From<ShutdownReason> for wire::ShutdownReason {
    fn from(reason: ShutdownReason) -> Self {
        match reason {
            ShutdownReason::Spindown => Self::Spindown,
            ShutdownReason::Timeout => Self::Timeout,
            ShutdownReason::Failure => Self::Failure,
        }
    }
}
