//! The process a machine runs in: how it is started in its jail, what of the jail is in force, and
//! how it is ended should it be left behind.
//!
//! [`spawn`] takes a [`MonitorSpec`] and gives a [`MonitorProcess`] back, which knows what of its
//! jail is in force ([`MonitorProcess::isolation`]). The process has no environment, none of our
//! descriptors but the named ones, and dies with the thread that spawned it.
//!
//! ```text
//!  thread of ours                             the monitor
//!  prepare all that needs memory
//!  clone3(namespaces, group) ───────────────► session, descriptors, limits
//!                                             user map, mounts
//!                                             user id, capabilities, Landlock
//!                                             parent death signal
//!  report: enough in force? ◄──── faults ──── armed
//!         └──────────────────────  go ──────► exec
//! ```
//! Between `clone3` and `exec` there are system calls only, since another thread of ours may have
//! held any lock at the time of the clone. There is no process in between.
//!
//! # What is in the jail
//! | | an unprivileged owner | root |
//! |---|---|---|
//! | user | a user namespace with the owner's own ids alone | an id of its own, 0x70000000 to 0x77ffffff, in a user namespace where it may have one |
//! | capabilities | none; the bounding set is empty | none; the bounding set is empty |
//! | files | [`FileView`] | [`FileView`] |
//! | others | PID, network, IPC, UTS and cgroup namespaces | the same |
//!
//! What cannot be had is left out, and named in the report with the system's reason. Under
//! [`Strictness::Strict`](costrel_vmm::Strictness) that is an error before `exec`.

mod advice;
mod cgroup;
mod child;
mod clone;
mod landlocked;
mod leftover;
mod namespaces;
mod owner;
mod process;
mod report;
mod socket;
mod spawn;
mod spec;

pub use landlocked::restrict_self;
pub use leftover::{Leftover, end_leftover, remove_record};
pub use owner::{MachineOwner, ProcessHandle};
pub use process::MonitorProcess;
pub use socket::SocketDirectory;
pub use spawn::{SpawnError, spawn};
pub use spec::{FileView, GroupSpec, JailSpec, MonitorSpec, ResourceLimits};
