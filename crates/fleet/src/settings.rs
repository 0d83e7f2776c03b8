//! How large a fleet may become, and what it is made with.

use std::{num::NonZeroUsize, thread, time::Duration};

use costrel_functions::Stage;
use costrel_sandbox::Host;
use costrel_snapshot::SnapshotStore;

/// What a fleet of machines on this host is made with.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// What sandboxes are made with.
    pub host: Host,
    /// Where functions are staged.
    pub stage: Stage,
    /// Where snapshots are; without, every cold start is a boot.
    pub snapshots: Option<SnapshotStore>,
    /// How large it may become.
    pub limits: FleetLimits,
}

/// How large a fleet may become, and how it divides what there is.
#[derive(Clone, Debug)]
pub struct FleetLimits {
    /// The memory of all machines together, in bytes: each has its function's and what kernel and
    /// agent take on top.
    pub memory: u64,
    /// How many invocations may wait whose machine is not on its way yet. More are throttled.
    pub queue: usize,
    /// How long an instance may be idle before it is ended.
    pub idle: Duration,
    /// The account's concurrency: how many invocations may be under way at a time, those that wait
    /// for an instance among them.
    pub concurrency: u32,
    /// How many machines may be started at a time: starts are bound by the CPU.
    pub starts: NonZeroUsize,
    /// How long a version that has no instance at all waits before it is given the memory of one
    /// that others go on using. Short is fair, long saves cold starts.
    pub turn: Duration,
}

impl FleetLimits {
    /// Limits for so much memory in bytes, and otherwise as they suit a host like this one: a queue
    /// of 1000, ten idle minutes, AWS's concurrency of 1000, as many starts at a time as there are
    /// CPUs, and a turn of a second.
    #[must_use]
    pub fn of_memory(memory: u64) -> Self {
        Self {
            memory,
            queue: 1000,
            idle: Duration::from_secs(600),
            concurrency: 1000,
            starts: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            turn: Duration::from_secs(1),
        }
    }
}
