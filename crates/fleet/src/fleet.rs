//! The fleet as its users see it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use costrel_functions::{Invocation, Outcome, ResponsePart, ShutdownReason, Timeline};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    FleetLimits, FleetObserver, FleetSettings, FleetStatus, FleetVersion, InvokeError, Launcher,
    PrepareError, ProvisionedStatus, Runner, StartKind, VersionKey,
    invocation::Arrival,
    keeper,
    log::InstanceLog,
    machines::Machines,
    pool::{Command, Pool, Refusal, Vital, WaiterId},
    start,
};

/// How long an instance may take to end in order: its extensions have 2 s. Then it is killed.
const SHUT_DOWN_LIMIT: Duration = Duration::from_secs(10);

/// The instances of many functions. A clone is another handle to the same. When the last one is
/// dropped, idle instances end at once.
#[derive(Clone)]
pub struct Fleet {
    shared: Arc<Shared>,
}

/// What the tasks of a fleet work with.
pub(crate) struct Shared {
    pool: Mutex<Pool<Resident>>,
    pub(crate) launcher: Arc<dyn Launcher>,
    pub(crate) observer: Arc<dyn FleetObserver>,
    runtime: Handle,
    /// Something has changed that the keeper may have to know.
    pub(crate) changed: Notify,
    /// Whether everything is to end now, whatever it is at.
    pub(crate) ending: watch::Sender<bool>,
}

/// An instance with its log.
pub(crate) struct Resident {
    pub(crate) runner: Box<dyn Runner>,
    pub(crate) log: Arc<InstanceLog>,
}

impl Vital for Resident {
    fn is_alive(&self) -> bool {
        self.runner.is_alive()
    }
}

/// An invocation that has an outcome.
#[derive(Debug)]
pub struct Invoked {
    /// What came of it.
    pub outcome: Outcome,
    /// Where its time went: `wait` for an instance, if it waited; its instance's cold start, if it
    /// was started for it; `invoke`.
    pub timeline: Timeline,
    /// The last 4096 bytes of its log.
    pub log_tail: Bytes,
    /// Its instance.
    pub instance: Uuid,
    /// How that came to be.
    pub start: StartKind,
}

impl Fleet {
    /// A fleet without any instances, on this host.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn new(settings: FleetSettings, observer: Arc<dyn FleetObserver>) -> Self {
        let FleetSettings { host, stage, snapshots, limits } = settings;
        Self::with_launcher(limits, Arc::new(Machines { host, stage, snapshots }), observer)
    }

    /// A fleet of what the launcher makes.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    #[must_use]
    pub fn with_launcher(
        limits: FleetLimits,
        launcher: Arc<dyn Launcher>,
        observer: Arc<dyn FleetObserver>,
    ) -> Self {
        let shared = Arc::new(Shared {
            pool: Mutex::new(Pool::new(limits, Arc::clone(&launcher))),
            launcher,
            observer,
            runtime: Handle::current(),
            changed: Notify::new(),
            ending: watch::Sender::new(false),
        });
        tokio::spawn(keeper::keep(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// Runs an invocation, on an instance of its own, which is started if none is idle. Until there
    /// is one, the invocation waits, and is given up if this is dropped; then it runs to its end in
    /// any case, as on AWS.
    ///
    /// # Errors
    /// [`InvokeError`]; a function's own failure is an outcome.
    pub async fn invoke(
        &self,
        version: &Arc<FleetVersion>,
        invocation: Invocation,
        response: Option<mpsc::Sender<ResponsePart>>,
    ) -> Result<Invoked, InvokeError> {
        Arrival::new(Arc::clone(&self.shared), Arc::clone(version), invocation).run(response).await
    }

    /// Stages and initialises the version, and takes its snapshot, ahead of any invocation: the first
    /// one then is a restore. Where there is a snapshot already, that is tried out. The instance that
    /// this takes counts against the memory, waits for its turn like others, and is not lent out.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub async fn prepare(&self, version: &Arc<FleetVersion>) -> Result<(), PrepareError> {
        let (answer, answered) = oneshot::channel();
        let asked = self.shared.with(|pool, now| pool.prepare(version, answer, now));
        asked.map_err(|refusal| match refusal {
            Refusal::Oversized { needed, limit } => {
                PrepareError::OversizedForHost { needed, limit }
            }
            Refusal::Draining => PrepareError::Draining,
            Refusal::Staging(error) => PrepareError::Staging(error),
            Refusal::Instance(error) => PrepareError::Instance(error),
            Refusal::Throttled(_) | Refusal::Lost => PrepareError::Lost,
        })?;
        answered.await.unwrap_or(Err(PrepareError::Lost))
    }

    /// Keeps so many initialised instances of the version, of those that are told
    /// `provisioned-concurrency`, from now on: ones that die are replaced. None with 0.
    ///
    /// They end for others only where these could not be served at all otherwise.
    pub fn provision(&self, version: &Arc<FleetVersion>, count: u32) {
        self.shared.with(|pool, now| pool.provision(version, count, now));
    }

    /// How far the version's provisioned concurrency is, if it has some.
    #[must_use]
    pub fn provisioned(&self, key: &VersionKey) -> Option<ProvisionedStatus> {
        self.shared.with(|pool, _| pool.provisioned(key))
    }

    /// Reserves concurrency for a function, or gives it back. With 0, it is always throttled.
    /// Invocations that are under way go on.
    pub fn set_reserved(&self, function: &str, reserved: Option<u32>) {
        self.shared.with(|pool, _| pool.reserve(function, reserved));
    }

    /// Ends the function's instances but those to keep: idle ones now, busy ones after their
    /// invocation. Whoever waits for one already is still served.
    pub fn retire(&self, function: &str, keep: &dyn Fn(&VersionKey) -> bool) {
        self.shared.with(|pool, now| pool.retire(function, keep, now));
    }

    /// What it is like now.
    #[must_use]
    pub fn status(&self) -> FleetStatus {
        self.shared.with(|pool, _| pool.status())
    }

    /// Ends the fleet: takes no more invocations, lets those that were accepted end for so long,
    /// and ends all machines, with their extensions' SHUTDOWN. What is under way after that time is
    /// broken off. No machine is left when this returns.
    pub async fn drain(&self, limit: Duration) {
        self.shared.with(Pool::drain);
        if tokio::time::timeout(limit, self.shared.emptied()).await.is_err() {
            self.shared.with(Pool::close);
            self.shared.ending.send_replace(true);
            self.shared.emptied().await;
        }
        self.shared.ending.send_replace(true);
    }
}

impl Shared {
    /// Changes the pool, and does what is to be done thereupon.
    pub(crate) fn with<T>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Pool<Resident>, Instant) -> T,
    ) -> T {
        let (result, commands) = {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            let result = change(&mut pool, Instant::now());
            (result, pool.commands())
        };
        for command in commands {
            let shared = Arc::clone(self);
            match command {
                Command::Start(start) => drop(self.runtime.spawn(start::run(shared, start))),
                Command::Stop { id, runner, reason } => {
                    drop(self.runtime.spawn(shared.stop(id, runner, reason)));
                }
            }
        }
        self.changed.notify_waiters();
        result
    }

    /// Gives up on somebody who waits.
    pub(crate) fn abandon(self: &Arc<Self>, key: &VersionKey, waiter: WaiterId) {
        self.with(|pool, now| pool.abandon(key, waiter, now));
    }

    async fn stop(self: Arc<Self>, id: Uuid, resident: Resident, reason: Option<ShutdownReason>) {
        // Whatever becomes of this task, the machine is gone then, and its memory is free.
        let _gone = Gone { shared: &self, id };
        let runner = resident.runner;
        let ending = async {
            match reason {
                Some(reason) => runner.shut_down(reason).await,
                None => runner.stop().await,
            }
        };
        if tokio::time::timeout(SHUT_DOWN_LIMIT, ending).await.is_err() {
            tracing::warn!(instance = %id, "an instance did not end in order, and was killed");
        }
    }

    /// Returns when there is no machine.
    async fn emptied(self: &Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if self.pool.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            changed.await;
        }
    }
}

struct Gone<'a> {
    shared: &'a Arc<Shared>,
    id: Uuid,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.shared.with(|pool, now| pool.stopped(self.id, now));
    }
}
