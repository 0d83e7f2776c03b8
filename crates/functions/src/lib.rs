//! Lambda functions: what they are made of, how an instance lives, what it logs.
//!
//! A [`FunctionSpec`] is staged into disks ([`Stage::function`]); an [`Instance`] is one sandbox
//! that runs it: cold start, any number of invocations, re-initialisation where AWS does it.
//!
//! ```text
//!            boot                     invoke
//!   staged ────────► initialised ────────────────► initialised      the runtime lives on
//!     │          │     │  ▲         └─────────────► down             it exited, or timed out
//!     │          │  saved │ once a version
//!     └──restore─┼────────┘
//!                └──► failed init ──invoke──► (suppressed init) ─► as above
//! ```
//! What is said on the log, and in which words, is AWS's: [`log`].

pub mod log;

mod cold_start;
mod environment;
mod failure;
mod host_ports;
mod init;
mod instance;
mod invocation;
mod limits;
mod package;
mod records;
mod response;
mod runtime;
mod shutdown;
mod silent;
mod spec;
mod stage;
mod timeline;

pub use environment::{EnvironmentError, is_reserved};
pub use failure::FunctionError;
pub use host_ports::TooManyHostPorts;
pub use instance::{Instance, InstanceError};
pub use invocation::{Invocation, Outcome, Reply, Report};
pub use limits::{EphemeralStorage, FunctionMemory, FunctionTimeout, LimitError};
pub use package::{Launch, Package, needs_image};
pub use response::ResponsePart;
pub use runtime::{Runtime, UnknownRuntime};
pub use shutdown::ShutdownReason;
pub use silent::Silent;
pub use spec::{Credentials, FunctionSpec, Initialization};
pub use stage::{Stage, StageFunctionError, StageReporter, StagedFunction};
pub use timeline::{Phase, Timeline};
