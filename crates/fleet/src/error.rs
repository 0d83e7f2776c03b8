//! Why a fleet does not do what it is asked for.

use std::sync::Arc;

use costrel_functions::{InstanceError, StageFunctionError};

/// Which limit an invocation ran into.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Throttle {
    /// The function's reserved concurrency.
    #[error("the function's reserved concurrency is in use")]
    ReservedConcurrency,
    /// What of the account's concurrency is reserved for no function.
    #[error("the account's unreserved concurrency is in use")]
    AccountConcurrency,
    /// Too many wait for memory.
    #[error("too many invocations wait for an instance")]
    QueueFull,
}

/// Why an invocation has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// It never ran.
    #[error(transparent)]
    Throttled(#[from] Throttle),
    /// The function cannot be staged. It never ran.
    #[error("the function cannot be staged")]
    Staging(#[source] Arc<StageFunctionError>),
    /// Its instance failed, before it or in its midst. The instance is gone, the next invocation
    /// gets another one.
    #[error("the function's instance failed")]
    Instance(#[source] InstanceError),
    /// The fleet is ending, or has ended the invocation's instance to do so.
    #[error("the fleet is ending")]
    Draining,
    /// A machine for the function would be larger than all machines may be together.
    #[error(
        "the function's machine needs {needed} bytes of memory, and all machines together may have {limit}"
    )]
    OversizedForHost {
        /// What a machine needs, in bytes.
        needed: u64,
        /// What all may have, in bytes.
        limit: u64,
    },
    /// A mistake of the fleet's own: the task that ran the invocation has ended without an answer.
    #[error("the invocation was lost")]
    Lost,
}

/// Why there is no snapshot to start from.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The function cannot be staged.
    #[error("the function cannot be staged")]
    Staging(#[source] Arc<StageFunctionError>),
    /// Its instance failed.
    #[error("the function's instance failed")]
    Instance(#[source] InstanceError),
    /// Its runtime was not initialised; its log tells more.
    #[error("the function's initialisation failed")]
    Initialization,
    /// The function was initialised, and the snapshot not taken; its log tells more.
    #[error("no snapshot was taken of the function")]
    NoSnapshot,
    /// The fleet is ending.
    #[error("the fleet is ending")]
    Draining,
    /// As [`InvokeError::OversizedForHost`].
    #[error(
        "the function's machine needs {needed} bytes of memory, and all machines together may have {limit}"
    )]
    OversizedForHost {
        /// What a machine needs, in bytes.
        needed: u64,
        /// What all may have, in bytes.
        limit: u64,
    },
    /// A mistake of the fleet's own.
    #[error("the preparation was lost")]
    Lost,
}
