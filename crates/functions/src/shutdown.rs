//! Why an instance ends.

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
