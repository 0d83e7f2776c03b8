//! Who gets an instance, and whose memory it takes.
//!
//! Whoever waits takes an instance of its version that becomes free, or one that is started for it,
//! whichever is first. Starts go round the functions: to one that has no instance before one that
//! has some, and among those to the one whose last start is the longest ago. A start that lacks
//! memory is passed by nobody; idle instances end for it, the one that was idle for longest first.
//! Where none is idle, a version that has waited for a turn takes the memory of an instance that
//! has served another one for as long, as soon as its invocation ends: else a function with a flood
//! of invocations would keep what it has.

use std::sync::Arc;

use costrel_functions::ShutdownReason;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Command, Machine, Phase, Pool, Purpose, Refusal, Start, StartFor, State, Vital,
    version::{Provision, Version},
};
use crate::{FleetVersion, Throttle, VersionKey};
/// Which idle instances may be ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evict {
    OnDemand,
    /// Provisioned ones as well, where nothing else helps: else nobody could be served any more.
    All,
}

impl<R: Vital> Pool<R> {
    /// Keeps so many initialised instances of the version.
    pub(crate) fn provision(&mut self, version: &Arc<FleetVersion>, wanted: u32, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        let entry = self.version(version);
        entry.retired &= wanted == 0;
        let wanted = Some(wanted).filter(|wanted| *wanted > 0);
        match (&mut entry.provision, wanted) {
            (Some(provision), Some(wanted)) => provision.wanted = wanted,
            (provision, wanted) => *provision = wanted.map(Provision::of),
        }
        let idle = entry.idle.clone();
        for id in idle {
            if self.is_surplus(id) {
                self.stop_one_idle(id, now);
            }
        }
        self.forget_if_unused(&version.key);
        self.schedule(now);
    }

    /// Starts what can be started.
    pub(super) fn schedule(&mut self, now: Instant) {
        if self.phase == Phase::Closed {
            return;
        }
        while self.starts < self.limits.starts.get() {
            let Some(key) = self.claimant() else { break };
            let Some(version) = self.versions.get(&key) else { break };
            if !self.make_room(version.memory, Evict::All, now) {
                return;
            }
            self.begin_start(&key, false, now);
        }
        self.provide(now);
    }

    /// Whose turn it is.
    fn claimant(&self) -> Option<VersionKey> {
        let demanding = self.versions.iter().filter(|(_, version)| version.demand().is_some());
        let claimant = demanding.min_by_key(|(key, version)| {
            let function = self.functions.get(&key.function);
            let held = if version.machines == 0 { 0 } else { function.map_or(0, |it| it.held) };
            (held, function.map_or(0, |it| it.turn), version.turn)
        });
        claimant.map(|(key, _)| key.clone())
    }

    /// Whether there is room for a machine of so much memory. If not, room is made, if that helps.
    fn make_room(&mut self, needed: u64, evict: Evict, now: Instant) -> bool {
        if self.memory + needed <= self.limits.memory {
            return true;
        }
        while self.is_short_of(needed) {
            let idle = self.machines.iter().filter(|(_, machine)| {
                matches!(machine.state, State::Idle(_))
                    && (evict == Evict::All || !machine.provisioned)
            });
            let Some(id) = idle
                .min_by_key(|(id, machine)| (machine.provisioned, machine.since, **id))
                .map(|(id, _)| *id)
            else {
                break;
            };
            self.stop_one_idle(id, now);
        }
        false
    }

    /// Whether room is lacking even when all has ended that is about to.
    fn is_short_of(&self, needed: u64) -> bool {
        self.memory - self.memory_stopping + needed > self.limits.memory
    }

    fn begin_start(&mut self, key: &VersionKey, provisioned: bool, now: Instant) {
        let Some(version) = self.versions.get_mut(key) else { return };
        let preparation = if provisioned { None } else { version.preparations.pop_front() };
        let (purpose, starts_for) = match (preparation, provisioned) {
            (Some(it), _) => (Purpose::Preparation(it.answer), StartFor::Preparation),
            (None, true) => (Purpose::Provision, StartFor::Provision),
            (None, false) => (Purpose::Waiters, StartFor::Waiters),
        };
        version.machines += 1;
        if provisioned {
            version.provisioned += 1;
            version.first_provisioned.begin();
        } else {
            version.first.begin();
        }
        if starts_for == StartFor::Waiters {
            version.starting += 1;
        }
        self.turns += 1;
        version.turn = self.turns;
        if let Some(function) = self.functions.get_mut(&key.function) {
            function.turn = self.turns;
            function.held += version.memory;
        }
        self.starts += 1;
        self.memory += version.memory;
        let id = Uuid::new_v4();
        let machine = Machine {
            key: key.clone(),
            memory: version.memory,
            provisioned,
            state: State::Starting(starts_for),
            since: now,
            began: now,
            fresh: None,
        };
        self.machines.insert(id, machine);
        self.commands.push(Command::Start(Start {
            id,
            version: Arc::clone(&version.version),
            stages: Arc::clone(&version.stages),
            purpose,
        }));
    }

    /// Starts provisioned instances that are lacking.
    fn provide(&mut self, now: Instant) {
        if self.phase != Phase::Open {
            return;
        }
        let lacks = |version: &Version| {
            let provision = version.provision.as_ref()?;
            let due = provision.retry.is_none_or(|retry| retry <= now);
            let lacking = version.provisioned < provision.wanted;
            (due && lacking && !version.first_provisioned.is_in_the_way()).then_some(())
        };
        while self.starts < self.limits.starts.get() {
            let lacking = self.versions.iter().filter(|(_, version)| lacks(version).is_some());
            let Some((key, memory)) = lacking
                .min_by_key(|(_, version)| version.turn)
                .map(|(key, version)| (key.clone(), version.memory))
            else {
                return;
            };
            if !self.make_room(memory, Evict::OnDemand, now) {
                return;
            }
            self.begin_start(&key, true, now);
        }
    }

    /// Hands idle instances of the version to those who wait for one.
    pub(super) fn lend_idle(&mut self, key: &VersionKey, now: Instant) {
        while let Some(version) = self.versions.get_mut(key) {
            if version.waiters.is_empty() || version.idle.is_empty() {
                return;
            }
            // A provisioned one before others, and the one that was used last: so that those that
            // are too many stay idle, and end.
            let machines = &self.machines;
            let is_provisioned = |id: &Uuid| machines.get(id).is_some_and(|it| it.provisioned);
            let index =
                version.idle.iter().rposition(is_provisioned).unwrap_or(version.idle.len() - 1);
            let id = version.idle.remove(index);
            if let Some(runner) = self.take_runner(id) {
                self.offer(id, runner, now);
            }
        }
    }

    /// An instance is free: somebody takes it, or it becomes idle, or it ends.
    pub(super) fn offer(&mut self, id: Uuid, runner: R, now: Instant) {
        if !runner.is_alive() {
            return self.stop(id, runner, None, now);
        }
        let spindown = Some(ShutdownReason::Spindown);
        let claimed = self.is_claimed(id, now);
        if claimed {
            self.end_turn(id);
        }
        if claimed || self.is_surplus(id) {
            return self.stop(id, runner, spindown, now);
        }
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let Some(version) = self.versions.get_mut(&machine.key) else { return };
        while let Some(waiter) = version.waiters.pop_front() {
            if waiter.answer.send(Ok(())).is_ok() {
                machine.state = State::Granted(runner);
                machine.since = now;
                self.granted.insert(waiter.id, id);
                return;
            }
            self.concurrency.leave(&machine.key.function);
        }
        if self.phase != Phase::Open || version.retired {
            return self.stop(id, runner, spindown, now);
        }
        machine.state = State::Idle(runner);
        machine.since = now;
        version.idle.push(id);
    }

    /// Whether it is a provisioned one, and there are more of them than are wanted.
    fn is_surplus(&self, id: Uuid) -> bool {
        let Some(machine) = self.machines.get(&id).filter(|machine| machine.provisioned) else {
            return false;
        };
        self.versions.get(&machine.key).is_some_and(|version| {
            version.provisioned > version.provision.as_ref().map_or(0, |it| it.wanted)
        })
    }

    /// Whether a free instance's memory is due to another version.
    fn is_claimed(&self, id: Uuid, now: Instant) -> bool {
        let Some(machine) = self.machines.get(&id) else { return false };
        if self.starts >= self.limits.starts.get() || machine.provisioned {
            return false;
        }
        let Some(claimant) = self.claimant().filter(|claimant| *claimant != machine.key) else {
            return false;
        };
        let Some(version) = self.versions.get(&claimant) else { return false };
        let Some(waits) = version.demand() else { return false };
        let held = |function: &str| self.functions.get(function).map_or(0, |it| it.held);
        // Nobody takes from those who then would have less.
        let is_due = version.machines == 0
            || held(&claimant.function) + version.memory
                <= held(&machine.key.function).saturating_sub(machine.memory);
        self.is_short_of(version.memory)
            && now.saturating_duration_since(waits) >= self.limits.turn
            && now.saturating_duration_since(machine.began) >= self.limits.turn
            && is_due
    }

    /// An instance's version has had its turn: it is behind all others that have none.
    fn end_turn(&mut self, id: Uuid) {
        let Some(machine) = self.machines.get(&id) else { return };
        self.turns += 1;
        if let Some(version) = self.versions.get_mut(&machine.key) {
            version.turn = self.turns;
        }
        if let Some(function) = self.functions.get_mut(&machine.key.function) {
            function.turn = self.turns;
        }
    }

    /// Keeps the queue within its limit: the one who came last goes, to the function that has most
    /// in it; to the one for whom somebody has just come, if there are several.
    pub(super) fn shed(&mut self, arrived: &str) {
        let queued: usize = self.versions.values().map(Version::queued).sum();
        if queued <= self.limits.queue {
            return;
        }
        let of_function = |function: &str| -> usize {
            let versions = self.versions.iter().filter(|(key, _)| key.function == function);
            versions.map(|(_, version)| version.queued()).sum()
        };
        let longest = self
            .functions
            .keys()
            .max_by_key(|function| (of_function(function), function.as_str() == arrived));
        let Some(longest) = longest.cloned() else { return };
        let versions = self.versions.iter_mut().filter(|(key, _)| key.function == longest);
        let last = versions
            .filter(|(_, version)| version.queued() > 0)
            .max_by_key(|(_, version)| version.waiters.back().map(|waiter| waiter.id.0));
        let Some((key, version)) = last else { return };
        let key = key.clone();
        if let Some(waiter) = version.waiters.pop_back() {
            let _ = waiter.answer.send(Err(Refusal::Throttled(Throttle::QueueFull)));
            self.concurrency.leave(&longest);
        }
        self.forget_if_unused(&key);
    }
}
