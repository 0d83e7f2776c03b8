//! The fleet's state: one machine of states for all instances, without any I/O of its own.
//!
//! ```text
//!                    taken by a waiter
//!              ┌────────────────────────► Granted ──take──► Busy
//!   Starting ──┤                             ▲ │              │
//!      │       └─ nobody waits ──► Idle ─────┘ │abandoned     │ release
//!      │ failed                     │  ▲───────┴──────────────┤
//!      ▼                            │ reaped, evicted,        │ spent, retired, or its memory is
//!    gone ◄───────── Stopping ◄─────┴ retired                 │ another function's turn
//!                       ▲─────────────────────────────────────┘
//! ```
//! Every transition is a method that is called with the lock held and the time as an argument. What
//! is to be done thereupon (machines to start and to stop) is left in [`Pool::commands`] for
//! whoever called to carry out.
//!
//! # Invariants
//! - The memory of all machines, stopping ones included, never exceeds the limit.
//! - An instance is granted to one waiter at a time; one whose invocation ended in an error of the
//!   machine is never granted again.
//! - Every waiter is answered once: granted, refused, or gone by itself ([`Pool::abandon`]).

mod concurrency;
mod schedule;
mod status;
#[cfg(test)]
mod tests;
mod version;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use costrel_functions::{InstanceError, ShutdownReason, StageFunctionError, Timeline};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use crate::{
    FleetLimits, FleetVersion, PrepareError, StartKind, Throttle, VersionKey,
    launcher::{Launcher, Stages},
};

use self::{
    concurrency::Concurrency,
    version::{FirstStart, FunctionUse, Preparation, Version, Waiter},
};

/// What a pool must know of what it lends out.
pub(crate) trait Vital {
    /// Whether it still runs.
    fn is_alive(&self) -> bool;
}

/// One who waits for an instance.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct WaiterId(u64);

/// Why a waiter gets no instance.
#[derive(Debug)]
pub(crate) enum Refusal {
    Throttled(Throttle),
    Staging(Arc<StageFunctionError>),
    Instance(InstanceError),
    Oversized { needed: u64, limit: u64 },
    Draining,
    Lost,
}

/// Tells a waiter that it is granted an instance, to be had by [`Pool::take`], or none.
pub(crate) type Answer = oneshot::Sender<Result<(), Refusal>>;

/// Why a start came to nothing.
#[derive(Debug)]
pub(crate) enum StartFailure {
    Staging(Arc<StageFunctionError>),
    Instance(InstanceError),
    Draining,
    Lost,
}

/// Something to be done, outside of the lock.
pub(crate) enum Command<R> {
    Start(Start),
    /// At once, where there is no reason to tell its extensions.
    Stop {
        id: Uuid,
        runner: R,
        reason: Option<ShutdownReason>,
    },
}

/// A machine to start. [`Pool::started`] or [`Pool::start_failed`] ends it.
pub(crate) struct Start {
    pub(crate) id: Uuid,
    pub(crate) version: Arc<FleetVersion>,
    pub(crate) stages: Arc<Stages>,
    pub(crate) purpose: Purpose,
}

/// What a machine is started for.
pub(crate) enum Purpose {
    /// Whoever waits.
    Waiters,
    /// Provisioned concurrency.
    Provision,
    /// Its snapshot. It is never lent out.
    Preparation(oneshot::Sender<Result<(), PrepareError>>),
}

/// An instance that is lent out. [`Pool::release`] ends it.
pub(crate) struct Lent<R> {
    pub(crate) id: Uuid,
    pub(crate) runner: R,
    pub(crate) start: StartKind,
    /// Its cold start, where this is the first that it is lent out.
    pub(crate) cold: Option<Timeline>,
}

/// In which state an instance comes back.
pub(crate) enum Returned<R> {
    Fit(R),
    /// To be ended in order.
    Spent(R, ShutdownReason),
    /// To be ended at once: nobody knows what runs in there, if it runs.
    Broken(R),
    /// Nothing is left of it.
    Lost,
}

/// How an instance came to be, as long as nobody has been told.
pub(crate) struct Fresh {
    pub(crate) start: StartKind,
    pub(crate) timeline: Timeline,
}

struct Machine<R> {
    key: VersionKey,
    memory: u64,
    provisioned: bool,
    state: State<R>,
    /// When it got into that state.
    since: Instant,
    /// When it was ready, or its start began.
    began: Instant,
    fresh: Option<Fresh>,
}

enum State<R> {
    Starting(StartFor),
    Idle(R),
    Granted(R),
    Busy { request_id: String },
    Stopping,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StartFor {
    Waiters,
    Provision,
    Preparation,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    /// No more invocations; those that wait are served.
    Draining,
    /// Nobody is served.
    Closed,
}

pub(crate) struct Pool<R> {
    limits: FleetLimits,
    launcher: Arc<dyn Launcher>,
    phase: Phase,
    concurrency: Concurrency,
    machines: HashMap<Uuid, Machine<R>>,
    versions: BTreeMap<VersionKey, Version>,
    functions: HashMap<String, FunctionUse>,
    granted: HashMap<WaiterId, Uuid>,
    /// Versions whose first start is known to have been saved.
    saved: HashSet<VersionKey>,
    /// Of all machines, in bytes, and of those that are stopping.
    memory: u64,
    memory_stopping: u64,
    starts: usize,
    turns: u64,
    waiters: u64,
    commands: Vec<Command<R>>,
}

impl<R: Vital> Pool<R> {
    pub(crate) fn new(limits: FleetLimits, launcher: Arc<dyn Launcher>) -> Self {
        Self {
            concurrency: Concurrency::new(limits.concurrency),
            limits,
            launcher,
            phase: Phase::Open,
            machines: HashMap::new(),
            versions: BTreeMap::new(),
            functions: HashMap::new(),
            granted: HashMap::new(),
            saved: HashSet::new(),
            memory: 0,
            memory_stopping: 0,
            starts: 0,
            turns: 0,
            waiters: 0,
            commands: Vec::new(),
        }
    }

    /// What is to be done since the last call.
    pub(crate) fn commands(&mut self) -> Vec<Command<R>> {
        std::mem::take(&mut self.commands)
    }

    /// Whether there is no machine.
    pub(crate) fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    pub(crate) fn reserve(&mut self, function: &str, reserved: Option<u32>) {
        self.concurrency.reserve(function, reserved);
    }

    /// An invocation arrives. If it is not refused here, its answer comes: now or later.
    pub(crate) fn arrive(
        &mut self,
        version: &Arc<FleetVersion>,
        answer: Answer,
        now: Instant,
    ) -> Result<WaiterId, Refusal> {
        self.check(version)?;
        let function = &version.key.function;
        self.concurrency.enter(function).map_err(Refusal::Throttled)?;
        self.waiters += 1;
        let id = WaiterId(self.waiters);
        self.version(version).waiters.push_back(Waiter { id, since: now, answer });
        self.lend_idle(&version.key, now);
        self.schedule(now);
        self.shed(function);
        Ok(id)
    }

    /// A snapshot is wanted.
    pub(crate) fn prepare(
        &mut self,
        version: &Arc<FleetVersion>,
        answer: oneshot::Sender<Result<(), PrepareError>>,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.check(version)?;
        self.version(version).preparations.push_back(Preparation { since: now, answer });
        self.schedule(now);
        Ok(())
    }

    fn check(&self, version: &FleetVersion) -> Result<(), Refusal> {
        if self.phase != Phase::Open {
            return Err(Refusal::Draining);
        }
        let (needed, limit) = (self.launcher.machine_memory(&version.spec), self.limits.memory);
        if needed > limit {
            return Err(Refusal::Oversized { needed, limit });
        }
        Ok(())
    }

    /// The state of a version, made if it is new.
    fn version(&mut self, version: &Arc<FleetVersion>) -> &mut Version {
        let key = &version.key;
        if !self.versions.contains_key(key) {
            let first = FirstStart::of(version, &*self.launcher, self.saved.contains(key));
            let memory = self.launcher.machine_memory(&version.spec);
            // Behind all that wait already.
            self.turns += 1;
            let turn = self.turns;
            let function = FunctionUse { turn, versions: 0, held: 0 };
            self.functions.entry(key.function.clone()).or_insert(function).versions += 1;
            self.versions
                .insert(key.clone(), Version::new(Arc::clone(version), memory, first, turn));
        }
        self.versions.get_mut(key).expect("it was just made")
    }

    /// The caller has gone, or has been answered: nothing is left of the waiter after this.
    pub(crate) fn abandon(&mut self, key: &VersionKey, waiter: WaiterId, now: Instant) {
        if let Some(id) = self.granted.remove(&waiter) {
            self.concurrency.leave(&key.function);
            if let Some(runner) = self.take_runner(id) {
                self.offer(id, runner, now);
            }
        } else if let Some(version) = self.versions.get_mut(key)
            && let Some(index) = version.waiters.iter().position(|it| it.id == waiter)
        {
            version.waiters.remove(index);
            self.concurrency.leave(&key.function);
            self.forget_if_unused(key);
        }
        self.schedule(now);
    }

    /// What a waiter was granted.
    pub(crate) fn take(
        &mut self,
        waiter: WaiterId,
        request_id: &str,
        now: Instant,
    ) -> Option<Lent<R>> {
        let id = self.granted.remove(&waiter)?;
        let runner = self.take_runner(id)?;
        let machine = self.machines.get_mut(&id)?;
        machine.state = State::Busy { request_id: request_id.to_owned() };
        machine.since = now;
        let (start, cold) = match machine.fresh.take() {
            Some(fresh) if !machine.provisioned => (fresh.start, Some(fresh.timeline)),
            _ => (StartKind::Warm, None),
        };
        Some(Lent { id, runner, start, cold })
    }

    /// An invocation has ended.
    pub(crate) fn release(&mut self, id: Uuid, returned: Returned<R>, now: Instant) {
        let Some(machine) = self.machines.get(&id) else { return };
        let function = machine.key.function.clone();
        self.concurrency.leave(&function);
        match returned {
            Returned::Fit(runner) => self.offer(id, runner, now),
            Returned::Spent(runner, reason) => self.stop(id, runner, Some(reason), now),
            Returned::Broken(runner) => self.stop(id, runner, None, now),
            Returned::Lost => self.gone(id),
        }
        self.schedule(now);
    }

    /// A machine was started. `saved`: whether there is a snapshot of it, if that is decided yet.
    pub(crate) fn started(
        &mut self,
        id: Uuid,
        runner: R,
        fresh: Fresh,
        saved: Option<bool>,
        now: Instant,
    ) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let State::Starting(purpose) = machine.state else { return };
        machine.began = now;
        machine.fresh = Some(fresh);
        let key = machine.key.clone();
        self.start_ended(&key, purpose);
        if let Some(saved) = saved {
            self.settle(&key, purpose == StartFor::Provision, saved);
        }
        if let Some(version) = self.versions.get_mut(&key)
            && let (StartFor::Provision, Some(provision)) = (purpose, &mut version.provision)
        {
            provision.succeeded();
        }
        self.offer(id, runner, now);
        self.schedule(now);
    }

    /// The snapshot of a version's first start is there, or will never be.
    pub(crate) fn first_settled(
        &mut self,
        key: &VersionKey,
        provisioned: bool,
        saved: bool,
        now: Instant,
    ) {
        self.settle(key, provisioned, saved);
        self.schedule(now);
    }

    fn settle(&mut self, key: &VersionKey, provisioned: bool, saved: bool) {
        if let Some(version) = self.versions.get_mut(key) {
            if provisioned {
                version.first_provisioned = FirstStart::Settled;
            } else {
                version.first = FirstStart::Settled;
                if saved && !version.retired {
                    self.saved.insert(key.clone());
                }
            }
        }
    }

    /// A start has come to nothing, or what was started is not for lending. Nothing of it is left.
    pub(crate) fn start_failed(&mut self, id: Uuid, failure: Option<StartFailure>, now: Instant) {
        let Some(machine) = self.machines.get(&id) else { return };
        let State::Starting(purpose) = machine.state else { return };
        let key = machine.key.clone();
        self.start_ended(&key, purpose);
        if let Some(version) = self.versions.get_mut(&key) {
            let first = match purpose {
                StartFor::Provision => &mut version.first_provisioned,
                StartFor::Waiters | StartFor::Preparation => &mut version.first,
            };
            // Whatever it was: those to come need not queue up for it.
            *first = FirstStart::Settled;
            let refused = match (purpose, failure) {
                (_, None) | (StartFor::Preparation, _) => 0,
                (StartFor::Provision, Some(failure)) => {
                    if let Some(provision) = &mut version.provision {
                        provision.failed(&failure, now);
                    }
                    0
                }
                (StartFor::Waiters, Some(failure)) => version.refuse(failure),
            };
            for _ in 0..refused {
                self.concurrency.leave(&key.function);
            }
        }
        self.gone(id);
        self.schedule(now);
    }

    /// A stopped machine is gone.
    pub(crate) fn stopped(&mut self, id: Uuid, now: Instant) {
        self.gone(id);
        self.schedule(now);
    }

    /// Ends the instances of the function's versions but those to keep.
    pub(crate) fn retire(
        &mut self,
        function: &str,
        keep: &dyn Fn(&VersionKey) -> bool,
        now: Instant,
    ) {
        let keys: Vec<VersionKey> = self
            .versions
            .keys()
            .chain(&self.saved)
            .filter(|key| key.function == function && !keep(key))
            .cloned()
            .collect();
        for key in keys {
            self.saved.remove(&key);
            if let Some(version) = self.versions.get_mut(&key) {
                version.retired = true;
                version.provision = None;
                self.stop_idle(&key, now);
                self.forget_if_unused(&key);
            }
        }
        self.schedule(now);
    }

    /// From now on, nobody else is let in.
    pub(crate) fn drain(&mut self, now: Instant) {
        if self.phase == Phase::Open {
            self.phase = Phase::Draining;
        }
        let keys: Vec<VersionKey> = self.versions.keys().cloned().collect();
        for key in keys {
            if let Some(version) = self.versions.get_mut(&key) {
                version.provision = None;
                version.refuse_preparations();
                self.stop_idle(&key, now);
                self.forget_if_unused(&key);
            }
        }
        self.schedule(now);
    }

    /// From now on, nobody is served.
    pub(crate) fn close(&mut self, now: Instant) {
        self.drain(now);
        self.phase = Phase::Closed;
        let keys: Vec<VersionKey> = self.versions.keys().cloned().collect();
        for key in keys {
            let Some(version) = self.versions.get_mut(&key) else { continue };
            for waiter in std::mem::take(&mut version.waiters) {
                let _ = waiter.answer.send(Err(Refusal::Draining));
                self.concurrency.leave(&key.function);
            }
            self.forget_if_unused(&key);
        }
    }

    /// Ends instances that were idle for too long, or have died in their sleep. Returns when there
    /// is something to do the next time, if it is known.
    pub(crate) fn tidy(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut ended = Vec::new();
        for (id, machine) in &self.machines {
            let State::Idle(runner) = &machine.state else { continue };
            let until = machine.since + self.limits.idle;
            if !runner.is_alive() || (!machine.provisioned && until <= now) {
                ended.push(*id);
            } else if !machine.provisioned {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
        }
        for id in ended {
            self.stop_one_idle(id, now);
        }
        self.schedule(now);
        let retries =
            self.versions.values().filter_map(|version| version.provision.as_ref()?.retry);
        retries.filter(|retry| *retry > now).chain(next).min()
    }

    fn start_ended(&mut self, key: &VersionKey, purpose: StartFor) {
        self.starts -= 1;
        if let Some(version) = self.versions.get_mut(key)
            && purpose == StartFor::Waiters
        {
            version.starting -= 1;
        }
    }

    /// Out of an instance that is idle or granted, to which another state is given at once.
    fn take_runner(&mut self, id: Uuid) -> Option<R> {
        let machine = self.machines.get_mut(&id)?;
        let busy = State::Busy { request_id: String::new() };
        match std::mem::replace(&mut machine.state, busy) {
            State::Idle(runner) | State::Granted(runner) => Some(runner),
            state => {
                machine.state = state;
                None
            }
        }
    }

    fn stop_idle(&mut self, key: &VersionKey, now: Instant) {
        let idle = self.versions.get(key).map(|version| version.idle.clone()).unwrap_or_default();
        for id in idle {
            self.stop_one_idle(id, now);
        }
    }

    fn stop_one_idle(&mut self, id: Uuid, now: Instant) {
        let Some(machine) = self.machines.get(&id) else { return };
        if let Some(version) = self.versions.get_mut(&machine.key) {
            version.idle.retain(|it| *it != id);
        }
        if let Some(runner) = self.take_runner(id) {
            let reason = runner.is_alive().then_some(ShutdownReason::Spindown);
            self.stop(id, runner, reason, now);
        }
    }

    /// It is no instance of its version any more, and occupies memory until it is gone.
    fn stop(&mut self, id: Uuid, runner: R, reason: Option<ShutdownReason>, now: Instant) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        machine.state = State::Stopping;
        machine.since = now;
        self.memory_stopping += machine.memory;
        let key = machine.key.clone();
        self.gone_from_version(id, &key);
        self.forget_if_unused(&key);
        self.commands.push(Command::Stop { id, runner, reason });
    }

    fn gone(&mut self, id: Uuid) {
        let Some(machine) = self.machines.get(&id) else { return };
        let key = machine.key.clone();
        if matches!(machine.state, State::Stopping) {
            self.memory_stopping -= machine.memory;
            self.memory -= machine.memory;
        } else {
            self.gone_from_version(id, &key);
            if let Some(machine) = self.machines.get(&id) {
                self.memory -= machine.memory;
            }
        }
        self.machines.remove(&id);
        self.forget_if_unused(&key);
    }

    fn gone_from_version(&mut self, id: Uuid, key: &VersionKey) {
        let Some(machine) = self.machines.get(&id) else { return };
        if let Some(version) = self.versions.get_mut(key) {
            version.machines -= 1;
            if machine.provisioned {
                version.provisioned -= 1;
            }
        }
        if let Some(function) = self.functions.get_mut(&key.function) {
            function.held -= machine.memory;
        }
    }

    fn forget_if_unused(&mut self, key: &VersionKey) {
        if !self.versions.get(key).is_some_and(Version::is_unused) {
            return;
        }
        self.versions.remove(key);
        if let Some(function) = self.functions.get_mut(&key.function) {
            function.versions -= 1;
            if function.versions == 0 {
                self.functions.remove(&key.function);
            }
        }
    }
}
