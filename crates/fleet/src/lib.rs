//! The instances of many functions: started, lent out, reaped, within the limits of the host.
//!
//! ```text
//!   Fleet::invoke ──► Arrival ── arrive, take ──►┐                   ┌► start task ──► Launcher
//!   Fleet::provision, prepare, retire, drain ───►│ Pool (one lock) ──┤  commands
//!   keeper: idle, dead ─────────────────────────►│                   └► stop task
//!                                release ──►┘
//!      run task ──► Runner::invoke
//! ```
//! All decisions are the pool's, which is a state machine that does nothing itself; what it decides
//! is carried out by tasks, each of which tells it how it went, whatever becomes of the task. No lock
//! is held while anything is waited for. An invocation belongs to its caller while it waits for an
//! instance, and to a task of its own from then on: it goes on when the caller has gone.
//!
//! An instance runs one invocation at a time. It is used again if it ended in order, and replaced if
//! not. What it is made of is staged once per version, its first start is saved, and those to come
//! go on from there.

mod error;
mod fleet;
mod invocation;
mod keeper;
mod launcher;
mod log;
mod machines;
mod observer;
mod pool;
mod settings;
mod start;
mod status;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod version;

pub use error::{InvokeError, PrepareError, Throttle};
pub use fleet::{Fleet, Invoked};
pub use launcher::{Launched, Launcher, Runner, SnapshotUnderWay, Staged};
pub use observer::{FleetObserver, InvocationEnd, InvocationRecord, LogLine, LogSource, StartKind};
pub use settings::{FleetLimits, FleetSettings};
pub use status::{FleetStatus, InstanceState, InstanceStatus, ProvisionedStatus};
pub use version::{FleetVersion, SnapshotUse, VersionKey};
