//! One virtual machine with its disks, its agent and its traces on the host.
//!
//! [`Sandbox::start`] boots a machine from disks that were staged before, waits for its agent and
//! has it make the workload's root. What the machine leaves on the host lies in one directory
//! ([`SandboxDirectory`]), which a killed process leaves behind and the next start sweeps
//! ([`sweep`]). What runs, [`running`] tells any process.

mod directory;
mod record;
mod sandbox;

pub use directory::{DirectoryError, SandboxDirectory, sweep};
pub use record::{DiskRecord, SandboxRecord, running};
pub use sandbox::{BootTimes, Host, Sandbox, SandboxSpec, StartError};
