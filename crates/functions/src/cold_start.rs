//! How an instance comes to be: booted and initialised, or restored from a snapshot that was taken
//! when another one of the same version was.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use costrel_sandbox::{Host, Sandbox, Saved, StartTimes, snapshot_facts};
use costrel_snapshot::{
    Fact, Found, Snapshot, SnapshotDraft, SnapshotError, SnapshotKey, SnapshotStore,
};
use costrel_vmm::{Saving, with_sources};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    Initialization, Instance, InstanceError, StagedFunction, Timeline,
    init::Stand,
    instance::{ColdStart, Fitness, RuntimeStatus, sandbox_spec},
    log::{self, InitPhase, LogSink},
    records,
};

/// How long a runtime's first initialisation may take, as on AWS.
const INIT_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take at least where no invocation waits for it, as on AWS; or as long as an
/// invocation.
const AHEAD_INIT_LIMIT: Duration = Duration::from_secs(130);

/// How long a runtime's hooks may take after a restore, as on AWS.
const RESTORE_HOOKS_LIMIT: Duration = Duration::from_secs(10);

/// What instances of a function are made of and told to.
#[derive(Clone)]
struct Making {
    function: Arc<StagedFunction>,
    log: Arc<dyn LogSink>,
}

/// Where the snapshot of a function's version is, or will be.
#[derive(Clone)]
struct Place {
    store: SnapshotStore,
    key: SnapshotKey,
}

/// The completion of a snapshot, beside whatever else goes on.
#[derive(Debug)]
pub(crate) struct Publishing {
    task: JoinHandle<Result<(), SnapshotError>>,
    complete: watch::Receiver<bool>,
}

impl Instance {
    /// Starts an instance. With `snapshots`, it goes on from the snapshot of its version if there
    /// is one; else a sandbox is booted, the runtime is initialised, and that is saved for those to
    /// come. A snapshot that cannot be taken or used costs time, and a notice on the log, and
    /// nothing else. That the initialisation fails is no error here: it is repeated with the first
    /// invocation, as on AWS.
    ///
    /// # Errors
    /// [`InstanceError`].
    pub async fn start(
        host: &Host,
        function: Arc<StagedFunction>,
        snapshots: Option<&SnapshotStore>,
        log: Arc<dyn LogSink>,
        timeline: &mut Timeline,
    ) -> Result<Self, InstanceError> {
        let making = Making { function, log };
        let place = match snapshots {
            Some(store) => Place::new(store, host, &making.function)?,
            None => None,
        };
        if let Some(place) = &place
            && let Some(snapshot) = place.find(&*making.log).await
        {
            match making.restore(host, snapshot, timeline).await {
                Ok(instance) => return Ok(instance),
                Err(error) => place.give_up(&error, &*making.log),
            }
        }
        making.boot(host, place, timeline).await
    }
}

impl Making {
    async fn boot(
        self,
        host: &Host,
        place: Option<Place>,
        timeline: &mut Timeline,
    ) -> Result<Instance, InstanceError> {
        let saving = if place.is_some() { Saving::Expected } else { Saving::Never };
        let sandbox = Sandbox::start(host, &sandbox_spec(&self.function, saving)?).await?;
        if let StartTimes::Booted(times) = sandbox.times() {
            timeline.add("boot", times.booting, times.agent_ready);
            timeline.add("mount", times.agent_ready, times.prepared);
        }
        let mut instance = self.instance(sandbox, saving).await?;
        instance.say_version(log::init_start);
        let began = Instant::now();
        let spec = &instance.function.spec;
        let limit = match spec.initialization {
            Initialization::OnDemand => INIT_LIMIT,
            Initialization::ProvisionedConcurrency | Initialization::SnapStart => {
                AHEAD_INIT_LIMIT.max(spec.timeout.as_duration())
            }
        };
        let initialised = instance.initialise(InitPhase::Init, began + limit).await?;
        let took = began.elapsed();
        timeline.end("init", began);
        let stand = match initialised {
            Ok(stand) => stand,
            Err(failure) => {
                let report = log::init_report(took, InitPhase::Init, &failure.status());
                instance.log.platform(&report);
                return Ok(instance);
            }
        };
        if let Some(place) = place {
            let began = Instant::now();
            instance = instance.save(&place, stand).await?;
            timeline.end("snapshot", began);
        }
        let report = records::init_report(&instance.function.spec, InitPhase::Init, took);
        instance.session.tell_subscribers(report).await?;
        instance.runtime = RuntimeStatus::Ready { unreported: Some(ColdStart::Init(took)) };
        if stand == Stand::RestoreNext {
            let began = Instant::now();
            if let Err(failure) = instance.go_on(began + RESTORE_HOOKS_LIMIT).await? {
                instance.runtime = RuntimeStatus::Broken(failure);
            }
            timeline.end("hooks", began);
        }
        Ok(instance)
    }

    async fn restore(
        &self,
        host: &Host,
        snapshot: Snapshot,
        timeline: &mut Timeline,
    ) -> Result<Instance, InstanceError> {
        let began = Instant::now();
        let spec = sandbox_spec(&self.function, Saving::Never)?;
        let sandbox = Sandbox::restore(host, &spec, &snapshot).await?;
        if let StartTimes::Restored(times) = sandbox.times() {
            timeline.add("restore", times.began, times.running);
            timeline.add("wake", times.running, times.awake);
            timeline.add("resume", times.awake, times.resumed);
        }
        let mut instance = self.clone().instance(sandbox, Saving::Never).await?;
        instance.say_version(log::restore_start);
        let start = records::restore_start(&instance.function);
        instance.session.tell_subscribers(start).await?;
        let mut failure = None;
        if Stand::of_name(snapshot.note()) == Some(Stand::RestoreNext) {
            instance.give_credentials().await?;
            let hooks = Instant::now();
            failure = instance.go_on(hooks + RESTORE_HOOKS_LIMIT).await?.err();
            timeline.end("hooks", hooks);
        }
        let took = began.elapsed();
        let status = failure.as_ref().map(super::init::InitFailure::status);
        instance.log.platform(&log::restore_report(took, status.as_ref()));
        if failure.is_none() {
            instance.session.tell_subscribers(records::restore_report(took)).await?;
        }
        instance.runtime = match failure {
            None => RuntimeStatus::Ready { unreported: Some(ColdStart::Restore(took)) },
            Some(failure) => RuntimeStatus::Broken(failure),
        };
        Ok(instance)
    }

    /// With a runtime of which nothing is known yet.
    async fn instance(self, sandbox: Sandbox, saving: Saving) -> Result<Instance, InstanceError> {
        let session = sandbox.attach_function().await?;
        let Self { function, log } = self;
        Ok(Instance {
            function,
            log,
            sandbox,
            session,
            runtime: RuntimeStatus::Down,
            fitness: Fitness::Fit,
            peak_memory: 0,
            shutting_down: Duration::ZERO,
            saving,
            publishing: None,
        })
    }
}

impl Instance {
    fn say_version(&self, line: fn(&str, &str) -> String) {
        if let Some((name, arn)) = self.function.runtime_version() {
            self.log.platform(&line(name, &arn));
        }
    }

    /// Saves it, unless somebody else is at it. It goes on in any case.
    async fn save(self, place: &Place, stand: Stand) -> Result<Self, InstanceError> {
        let draft = match place.store.begin(&place.key) {
            Ok(Some(draft)) => draft,
            Ok(None) => return Ok(self),
            Err(error) => {
                self.log.notice(&not_taken(&error));
                return Ok(self);
            }
        };
        let Self {
            function,
            log,
            sandbox,
            session,
            runtime,
            fitness,
            peak_memory,
            shutting_down,
            saving,
            publishing: _,
        } = self;
        drop(session);
        let Saved { sandbox, outcome } = sandbox.save(&draft).await?;
        let session = sandbox.attach_function().await?;
        let publishing = match outcome {
            Ok(()) => Some(Publishing::begin(draft, stand)),
            Err(error) => {
                log.notice(&not_taken(&error));
                None
            }
        };
        Ok(Self {
            function,
            log,
            sandbox,
            session,
            runtime,
            fitness,
            peak_memory,
            shutting_down,
            saving,
            publishing,
        })
    }
}

fn not_taken(error: &dyn std::error::Error) -> String {
    format!("no snapshot is taken of the function: {}", with_sources(error))
}

impl Place {
    /// None where the host's backend does without snapshots.
    fn new(
        store: &SnapshotStore,
        host: &Host,
        function: &StagedFunction,
    ) -> Result<Option<Self>, InstanceError> {
        let spec = sandbox_spec(function, Saving::Never)?;
        let Some(machine) = snapshot_facts(host, &spec)? else { return Ok(None) };
        let mut facts = function.snapshot_facts();
        facts.extend(machine);
        Ok(Some(Self { store: store.clone(), key: SnapshotKey::new(facts) }))
    }

    async fn find(&self, log: &dyn LogSink) -> Option<Snapshot> {
        let place = self.clone();
        let found = tokio::task::spawn_blocking(move || place.store.find(&place.key)).await;
        match found {
            Ok(Ok(Found::Snapshot(snapshot))) => Some(snapshot),
            Ok(Ok(Found::Refused(refusal))) => {
                log.notice(&format!("the function's snapshot is thrown away: {refusal}"));
                None
            }
            Ok(Err(error)) => {
                log.notice(&format!("snapshots cannot be used: {}", with_sources(&error)));
                None
            }
            Ok(Ok(Found::Nothing)) | Err(_) => None,
        }
    }

    /// A machine could not be restored, for whatever reason: it would not the next time either.
    fn give_up(&self, error: &InstanceError, log: &dyn LogSink) {
        log.notice(&format!(
            "the function is booted, since it could not be restored, and its snapshot is thrown \
             away: {}",
            with_sources(error)
        ));
        if let Err(error) = self.store.forget(&self.key) {
            log.notice(&format!("the snapshot stays: {}", with_sources(&error)));
        }
    }
}

impl StagedFunction {
    /// What a snapshot of an instance depends on beside its machine.
    fn snapshot_facts(&self) -> Vec<Fact> {
        let spec = &self.spec;
        vec![
            Fact::new("function", format!("{}:{}", spec.name, spec.version)),
            Fact::new("account", format!("{}:{}", spec.region, spec.account_id)),
            Fact::new("command", format!("{:?} {:?}", self.bootstraps, self.arguments)),
            Fact::new("directory", self.working_directory.clone()),
            // Secrets are among them.
            Fact::new("environment", crate::environment::digest(&self.environment).hex()),
            Fact::new("initialization", spec.initialization.name()),
        ]
    }
}

impl Publishing {
    fn begin(draft: SnapshotDraft, stand: Stand) -> Self {
        let (tell, complete) = watch::channel(false);
        let task = tokio::task::spawn_blocking(move || {
            let published = draft.publish(stand.name());
            tell.send_replace(published.is_ok());
            published
        });
        Self { task, complete }
    }

    /// Returns when the snapshot is complete, or is none.
    pub(crate) async fn done(self, log: &dyn LogSink) {
        if let Ok(Err(error)) = self.task.await {
            log.notice(&not_taken(&error));
        }
    }
}

impl Instance {
    /// Whether its runtime waits for an invocation, or to be started anew by the next one.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        matches!(self.runtime, RuntimeStatus::Ready { .. })
    }

    /// The end of the snapshot that is taken of it, if one is: whether there is one then. It comes
    /// whether or not the instance lives on.
    #[must_use]
    pub fn snapshot_under_way(&self) -> Option<impl Future<Output = bool> + Send + use<>> {
        let mut complete = self.publishing.as_ref()?.complete.clone();
        // The sender goes without having said so where there is none.
        Some(async move { complete.wait_for(|complete| *complete).await.is_ok() })
    }
}
