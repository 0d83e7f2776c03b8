//! The seam between the fleet and what it runs: machines on a host, or something that stands in for
//! them where a fleet is tested.

use std::sync::Arc;

use async_trait::async_trait;
use costrel_functions::{
    FunctionSpec, InstanceError, Invocation, Outcome, ResponsePart, ShutdownReason,
    StageFunctionError, Timeline, log::LogSink,
};
use tokio::sync::{OnceCell, mpsc};

use crate::{SnapshotUse, StartKind};

/// Makes instances.
#[async_trait]
pub trait Launcher: Send + Sync + 'static {
    /// What a machine for the function occupies, in bytes.
    fn machine_memory(&self, spec: &FunctionSpec) -> u64;

    /// Whether the starts of a version become cheaper after the first.
    fn takes_snapshots(&self) -> bool;

    /// Makes what all instances of a version share. It is called once for all of them, unless it
    /// fails.
    ///
    /// # Errors
    /// [`StageFunctionError`].
    async fn stage(
        &self,
        spec: &FunctionSpec,
        timeline: &mut Timeline,
    ) -> Result<Arc<dyn Staged>, StageFunctionError>;
}

/// What all instances of a version share.
#[async_trait]
pub trait Staged: Send + Sync + 'static {
    /// Starts one instance. Where this is cancelled, nothing is left of it.
    ///
    /// # Errors
    /// [`InstanceError`].
    async fn launch(
        &self,
        snapshots: SnapshotUse,
        log: Arc<dyn LogSink>,
        timeline: &mut Timeline,
    ) -> Result<Launched, InstanceError>;
}

/// Says whether there is a snapshot, once that is decided.
pub type SnapshotUnderWay = std::pin::Pin<Box<dyn Future<Output = bool> + Send>>;

/// An instance that was started.
pub struct Launched {
    /// The instance.
    pub runner: Box<dyn Runner>,
    /// How it came to be: not [`StartKind::Warm`].
    pub start: StartKind,
    /// Whether its runtime waits for an invocation. One that does not is started anew by it.
    pub initialised: bool,
    /// Its snapshot, if one is being taken of it.
    pub snapshot: Option<SnapshotUnderWay>,
}

/// An instance. Dropping it ends it.
#[async_trait]
pub trait Runner: Send + Sync + 'static {
    /// Runs an invocation, as [`costrel_functions::Instance::invoke`] does.
    ///
    /// # Errors
    /// [`InstanceError`]; then the instance is of no use any more.
    async fn invoke(
        &mut self,
        invocation: &Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
        timeline: &mut Timeline,
    ) -> Result<Outcome, InstanceError>;

    /// Whether it may serve again.
    fn is_reusable(&self) -> bool;

    /// Whether its machine still runs.
    fn is_alive(&self) -> bool;

    /// Ends it after its extensions had their time to end. Nothing is left of it then.
    async fn shut_down(self: Box<Self>, reason: ShutdownReason);

    /// Ends it at once. Nothing is left of it then.
    async fn stop(self: Box<Self>);
}

/// What a version's instances share, made when the first of them is started.
#[derive(Default)]
pub(crate) struct Stages {
    on_demand: OnceCell<Arc<dyn Staged>>,
    /// These are told something else of how they came to be.
    provisioned: OnceCell<Arc<dyn Staged>>,
}

impl Stages {
    /// `spec`, staged: by this call, by an earlier one, or by one that is under way. A failure is
    /// that of one call only.
    pub(crate) async fn get(
        &self,
        launcher: &dyn Launcher,
        spec: &FunctionSpec,
        provisioned: bool,
        timeline: &mut Timeline,
    ) -> Result<Arc<dyn Staged>, StageFunctionError> {
        let cell = if provisioned { &self.provisioned } else { &self.on_demand };
        let began = std::time::Instant::now();
        let mut own = None;
        let staged = cell
            .get_or_try_init(|| async {
                let mut timeline = Timeline::default();
                let staged = launcher.stage(spec, &mut timeline).await;
                own = Some(timeline);
                staged
            })
            .await
            .map(Arc::clone);
        match own {
            Some(own) => {
                own.phases().iter().for_each(|it| timeline.add(it.name, it.began, it.ended));
            }
            // Somebody else did it meanwhile.
            None if began.elapsed().as_millis() > 0 => timeline.end("stage", began),
            None => {}
        }
        staged
    }
}
