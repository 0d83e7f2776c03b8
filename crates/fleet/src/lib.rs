//! The instances of many functions: started, lent out, reaped, within the limits of the host.

mod error;
mod fleet;
mod observer;
mod settings;
mod status;
mod version;

pub use error::{InvokeError, PrepareError, Throttle};
pub use fleet::{Fleet, Invoked};
pub use observer::{FleetObserver, InvocationEnd, InvocationRecord, LogLine, LogSource, StartKind};
pub use settings::{FleetLimits, FleetSettings};
pub use status::{FleetStatus, InstanceState, InstanceStatus, ProvisionedStatus};
pub use version::{FleetVersion, SnapshotUse, VersionKey};
