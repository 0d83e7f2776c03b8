//! The launcher of real machines.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use async_trait::async_trait;
use costrel_functions::{
    FunctionSpec, Instance, InstanceError, Invocation, Outcome, ResponsePart, ShutdownReason,
    Silent, Stage, StageFunctionError, StagedFunction, Timeline, log::LogSink,
};
use costrel_sandbox::{Host, StartTimes};
use costrel_snapshot::SnapshotStore;
use tokio::sync::mpsc;

use crate::{
    SnapshotUse, StartKind,
    launcher::{Launched, Launcher, Runner, Staged},
};

/// Launches instances of functions on this host.
pub(crate) struct Machines {
    pub(crate) host: Host,
    pub(crate) stage: Stage,
    pub(crate) snapshots: Option<SnapshotStore>,
}

struct StagedMachines {
    host: Host,
    snapshots: Option<SnapshotStore>,
    function: Arc<StagedFunction>,
}

#[async_trait]
impl Launcher for Machines {
    fn machine_memory(&self, spec: &FunctionSpec) -> u64 {
        spec.memory.machine_bytes()
    }

    fn takes_snapshots(&self) -> bool {
        self.snapshots.is_some() && self.host.backend.restorer().is_some()
    }

    async fn stage(
        &self,
        spec: &FunctionSpec,
        timeline: &mut Timeline,
    ) -> Result<Arc<dyn Staged>, StageFunctionError> {
        let function = self.stage.function(spec.clone(), Arc::new(Silent), timeline).await?;
        Ok(Arc::new(StagedMachines {
            host: self.host.clone(),
            snapshots: self.snapshots.clone(),
            function: Arc::new(function),
        }))
    }
}

#[async_trait]
impl Staged for StagedMachines {
    async fn launch(
        &self,
        snapshots: SnapshotUse,
        log: Arc<dyn LogSink>,
        timeline: &mut Timeline,
    ) -> Result<Launched, InstanceError> {
        let snapshots = match snapshots {
            SnapshotUse::Never => None,
            SnapshotUse::IfPossible => self.snapshots.as_ref(),
        };
        let function = Arc::clone(&self.function);
        let instance = Instance::start(&self.host, function, snapshots, log, timeline).await?;
        Ok(Launched {
            start: match instance.sandbox().times() {
                StartTimes::Booted(_) => StartKind::Booted,
                StartTimes::Restored(_) => StartKind::Restored,
            },
            initialised: instance.is_initialised(),
            snapshot: instance.snapshot_under_way().map(|it| Box::pin(it) as _),
            runner: Box::new(instance),
        })
    }
}

#[async_trait]
impl Runner for Instance {
    async fn invoke(
        &mut self,
        invocation: &Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
        timeline: &mut Timeline,
    ) -> Result<Outcome, InstanceError> {
        Self::invoke(self, invocation, response, timeline).await
    }

    fn is_reusable(&self) -> bool {
        Self::is_reusable(self)
    }

    fn is_alive(&self) -> bool {
        // Whether the end has come already: nobody waits here.
        pin!(self.sandbox().machine().wait())
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    }

    async fn shut_down(self: Box<Self>, reason: ShutdownReason) {
        Self::shut_down(*self, reason).await;
    }

    async fn stop(self: Box<Self>) {
        Self::stop(*self).await;
    }
}
