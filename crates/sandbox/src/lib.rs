//! One virtual machine with its disks, its agent and its traces on the host.
//!
//! [`Sandbox::start`] boots a machine from disks that were staged before, waits for its agent and
//! has it make the workload's root. What the machine leaves on the host lies in one directory
//! ([`SandboxDirectory`]), which a killed process leaves behind and the next start sweeps
//! ([`sweep`]). What runs, [`running`] tells any process.
//!
//! ```text
//!  start ──► Sandbox ──save──► Sandbox        suspended, saved into a snapshot, resumed
//!  restore ─────▲                             any number of times from the same snapshot
//!  stand_by ──► Standby ──wake──► Sandbox     the same in two steps, for servers
//! ```

mod directory;
mod host_ports;
mod record;
mod sandbox;
mod saving;

pub use directory::{DirectoryError, SandboxDirectory, sweep};
pub use host_ports::{HOST_PORT_LIMIT, HostNames, HostPort};
pub use record::{DiskRecord, SandboxOrigin, SandboxRecord, running};
pub use sandbox::{BootTimes, Host, RestoreTimes, Sandbox, SandboxSpec, StartError, StartTimes};
pub use saving::{SaveSandboxError, Saved, Standby, Warmth, snapshot_facts};
