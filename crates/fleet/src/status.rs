//! What a fleet is like at a moment.

use std::time::Instant;

use uuid::Uuid;

use crate::VersionKey;

/// What a fleet is like at a moment.
#[derive(Clone, Debug)]
pub struct FleetStatus {
    /// All instances, the oldest first.
    pub instances: Vec<InstanceStatus>,
    /// The versions that invocations wait for, and how many.
    pub waiting: Vec<(VersionKey, usize)>,
    /// How many invocations are under way, those that wait among them.
    pub concurrency: u32,
    /// The most that may be.
    pub concurrency_limit: u32,
    /// The memory of all machines, in bytes.
    pub memory: u64,
    /// The most that it may be, in bytes.
    pub memory_limit: u64,
}

/// One instance.
#[derive(Clone, Debug)]
pub struct InstanceStatus {
    /// Its id.
    pub id: Uuid,
    /// What it is an instance of.
    pub version: VersionKey,
    /// What it does.
    pub state: InstanceState,
    /// Since when.
    pub since: Instant,
    /// The memory of its machine, in bytes.
    pub memory: u64,
    /// Whether it is one of a version's provisioned ones.
    pub provisioned: bool,
}

/// What an instance does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InstanceState {
    /// It is being started.
    Starting,
    /// It runs the invocation with this request id.
    Busy(String),
    /// It waits for an invocation.
    Idle,
    /// It is being ended.
    Stopping,
}

/// How far a version's provisioned concurrency is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProvisionedStatus {
    /// How many instances are wanted.
    pub requested: u32,
    /// How many are there, starting ones included.
    pub allocated: u32,
    /// How many are initialised.
    pub available: u32,
    /// Why the last start failed, if it did. It is tried again.
    pub failure: Option<String>,
}
