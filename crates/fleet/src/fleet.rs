//! The fleet as its users see it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use costrel_functions::{Invocation, Outcome, ResponsePart, Timeline};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    FleetObserver, FleetSettings, FleetStatus, FleetVersion, InvokeError, PrepareError,
    ProvisionedStatus, StartKind, VersionKey,
};

/// The instances of many functions. A clone is another handle to the same.
#[derive(Clone)]
pub struct Fleet;

/// An invocation that has an outcome.
#[derive(Debug)]
pub struct Invoked {
    /// What came of it.
    pub outcome: Outcome,
    /// Where its time went.
    pub timeline: Timeline,
    /// The last 4096 bytes of its log.
    pub log_tail: Bytes,
    /// Its instance.
    pub instance: Uuid,
    /// How that came to be.
    pub start: StartKind,
}

impl Fleet {
    /// A fleet without any instances.
    #[must_use]
    pub fn new(_settings: FleetSettings, _observer: Arc<dyn FleetObserver>) -> Self {
        unimplemented!()
    }

    /// Runs an invocation.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn invoke(
        &self,
        _version: &Arc<FleetVersion>,
        _invocation: Invocation,
        _response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError> {
        unimplemented!()
    }

    /// Stages and initialises the version, and takes its snapshot, ahead of any invocation.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn prepare(&self, _version: &Arc<FleetVersion>) -> Result<(), PrepareError> {
        unimplemented!()
    }

    /// Keeps so many initialised instances of the version.
    pub fn provision(&self, _version: Arc<FleetVersion>, _count: u32) {
        unimplemented!()
    }

    /// How far the version's provisioned concurrency is, if it has some.
    #[must_use]
    pub fn provisioned(&self, _key: &VersionKey) -> Option<ProvisionedStatus> {
        unimplemented!()
    }

    /// Reserves concurrency for a function, or gives it back.
    pub fn set_reserved(&self, _function: &str, _reserved: Option<u32>) {
        unimplemented!()
    }

    /// Ends the function's instances but those to keep: idle ones now, busy ones after their
    /// invocation.
    pub fn retire(&self, _function: &str, _keep: &dyn Fn(&VersionKey) -> bool) {
        unimplemented!()
    }

    /// What it is like now.
    #[must_use]
    pub fn status(&self) -> FleetStatus {
        unimplemented!()
    }

    /// Ends the fleet: takes no more invocations, lets those that were accepted end for so long,
    /// and ends all machines.
    pub async fn drain(&self, _limit: Duration) {
        unimplemented!()
    }
}
