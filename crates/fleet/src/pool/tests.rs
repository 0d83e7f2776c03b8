//! Random schedules, and what must hold in all of them.

use std::{cell::Cell, num::NonZeroUsize, rc::Rc, sync::Arc, time::Duration};

use async_trait::async_trait;
use costrel_functions::{FunctionSpec, InstanceError, StageFunctionError, Timeline};
use proptest::prelude::*;
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::Instant,
};
use uuid::Uuid;

use super::{
    Command, Fresh, Pool, Purpose, Refusal, Returned, Start, StartFailure, State, Vital, WaiterId,
};
use crate::{
    FleetLimits, FleetVersion, Launcher, SnapshotUse, Staged, StartKind, Throttle, VersionKey,
    testing,
};

const MIB: u64 = 1 << 20;

/// A machine that lives until its life is taken.
#[derive(Clone)]
struct Body(Rc<Cell<bool>>);

impl Vital for Body {
    fn is_alive(&self) -> bool {
        self.0.get()
    }
}

struct NoMachines;

#[async_trait]
impl Launcher for NoMachines {
    fn machine_memory(&self, spec: &FunctionSpec) -> u64 {
        spec.memory.as_bytes()
    }
    fn takes_snapshots(&self) -> bool {
        true
    }
    async fn stage(
        &self,
        _spec: &FunctionSpec,
        _timeline: &mut Timeline,
    ) -> Result<Arc<dyn Staged>, StageFunctionError> {
        Err(StageFunctionError::Interrupted)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(usize),
    Leave(usize),
    Started(usize, Option<bool>),
    StartFailed(usize),
    StagingFailed(usize),
    Settled(usize),
    Finished(usize),
    Spent(usize),
    Crashed(usize),
    DieIdle(usize),
    Stopped(usize),
    Pass(u64),
    Tidy,
    Retire(usize),
    Provision(usize, u32),
    Prepare(usize),
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    prop_oneof![
        8 => (0..6_usize).prop_map(Arrive),
        1 => any::<usize>().prop_map(Leave),
        6 => (any::<usize>(), prop_oneof![Just(None), Just(Some(true)), Just(Some(false))])
            .prop_map(|(index, saved)| Started(index, saved)),
        1 => any::<usize>().prop_map(StartFailed),
        1 => any::<usize>().prop_map(StagingFailed),
        2 => (0..6_usize).prop_map(Settled),
        6 => any::<usize>().prop_map(Finished),
        1 => any::<usize>().prop_map(Spent),
        1 => any::<usize>().prop_map(Crashed),
        1 => any::<usize>().prop_map(DieIdle),
        4 => any::<usize>().prop_map(Stopped),
        3 => (0..3000_u64).prop_map(Pass),
        1 => Just(Tidy),
        1 => (0..3_usize).prop_map(Retire),
        1 => (0..6_usize, 0..3_u32).prop_map(|(version, count)| Provision(version, count)),
        1 => (0..6_usize).prop_map(Prepare),
    ]
}

/// The other end of an [`super::Answer`].
type Answered = oneshot::Receiver<Result<(), Refusal>>;

/// A pool with all that is outside of it: callers, machines, time.
struct World {
    pool: Pool<Body>,
    versions: Vec<Arc<FleetVersion>>,
    now: Instant,
    waiting: Vec<(WaiterId, VersionKey, Answered)>,
    starting: Vec<Start>,
    busy: Vec<(Uuid, Body)>,
    stopping: Vec<Uuid>,
    preparations: Vec<oneshot::Receiver<Result<(), crate::PrepareError>>>,
    served: usize,
    refused: usize,
    left: usize,
    arrived: usize,
}

impl World {
    fn new(limits: FleetLimits) -> Self {
        // Three functions with two versions each, of three sizes.
        let versions = (0..6).map(|index| {
            let mut version = testing::version(&format!("f{}", index / 2), &format!("v{index}"));
            version.spec.memory = testing::memory([128, 256, 512][index / 2]);
            version.snapshots =
                if index % 2 == 0 { SnapshotUse::IfPossible } else { SnapshotUse::Never };
            Arc::new(version)
        });
        Self {
            versions: versions.collect(),
            pool: Pool::new(limits, Arc::new(NoMachines)),
            now: Instant::now(),
            waiting: vec![],
            starting: vec![],
            busy: vec![],
            stopping: vec![],
            preparations: vec![],
            served: 0,
            refused: 0,
            left: 0,
            arrived: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        let now = self.now;
        let pick = |index: usize, length: usize| (length > 0).then(|| index % length.max(1));
        match *step {
            Step::Arrive(version) => {
                self.arrived += 1;
                let version = Arc::clone(&self.versions[version]);
                let (answer, answered) = oneshot::channel();
                match self.pool.arrive(&version, answer, now) {
                    Ok(waiter) => self.waiting.push((waiter, version.key.clone(), answered)),
                    Err(_) => self.refused += 1,
                }
            }
            Step::Leave(index) => {
                if let Some(index) = pick(index, self.waiting.len()) {
                    let (waiter, key, answered) = self.waiting.remove(index);
                    drop(answered);
                    self.pool.abandon(&key, waiter, now);
                    self.left += 1;
                }
            }
            Step::Started(index, saved) => {
                if let Some(index) = pick(index, self.starting.len()) {
                    let start = self.starting.remove(index);
                    if let Purpose::Preparation(answer) = start.purpose {
                        let _ = answer.send(Ok(()));
                        self.pool.first_settled(&start.version.key, false, true, now);
                        self.pool.start_failed(start.id, None, now);
                    } else {
                        let body = Body(Rc::new(Cell::new(true)));
                        let timeline = Timeline::default();
                        let fresh = Fresh { start: StartKind::Booted, timeline };
                        self.pool.started(start.id, body, fresh, saved, now);
                    }
                }
            }
            Step::StartFailed(index) => {
                if let Some(index) = pick(index, self.starting.len()) {
                    let start = self.starting.remove(index);
                    let failure = StartFailure::Instance(InstanceError::Unkillable);
                    self.pool.start_failed(start.id, Some(failure), now);
                }
            }
            Step::StagingFailed(index) => {
                if let Some(index) = pick(index, self.starting.len()) {
                    let start = self.starting.remove(index);
                    let error = Arc::new(StageFunctionError::Interrupted);
                    self.pool.start_failed(start.id, Some(StartFailure::Staging(error)), now);
                }
            }
            Step::Settled(version) => {
                // Of a start that has ended; else it comes later.
                let key = self.versions[version].key.clone();
                if !self.starting.iter().any(|start| start.version.key == key) {
                    self.pool.first_settled(&key, false, true, now);
                    self.pool.first_settled(&key, true, true, now);
                }
            }
            Step::Finished(index) => {
                if let Some(index) = pick(index, self.busy.len()) {
                    let (id, body) = self.busy.remove(index);
                    self.pool.release(id, Returned::Fit(body), now);
                }
            }
            Step::Spent(index) => {
                if let Some(index) = pick(index, self.busy.len()) {
                    let (id, body) = self.busy.remove(index);
                    let reason = costrel_functions::ShutdownReason::Failure;
                    body.0.set(false);
                    self.pool.release(id, Returned::Spent(body, reason), now);
                }
            }
            Step::Crashed(index) => {
                if let Some(index) = pick(index, self.busy.len()) {
                    let (id, body) = self.busy.remove(index);
                    body.0.set(false);
                    self.pool.release(id, Returned::Broken(body), now);
                }
            }
            Step::DieIdle(index) => {
                let mut idle: Vec<_> = self.pool.machines.iter().collect();
                idle.sort_by_key(|(id, _)| **id);
                idle.retain(|(_, machine)| matches!(machine.state, State::Idle(_)));
                if let Some(index) = pick(index, idle.len())
                    && let State::Idle(body) = &idle[index].1.state
                {
                    body.0.set(false);
                }
            }
            Step::Stopped(index) => {
                if let Some(index) = pick(index, self.stopping.len()) {
                    let id = self.stopping.remove(index);
                    self.pool.stopped(id, now);
                }
            }
            Step::Pass(milliseconds) => self.now += Duration::from_millis(milliseconds),
            Step::Tidy => drop(self.pool.tidy(now)),
            Step::Retire(function) => self.pool.retire(&format!("f{function}"), &|_| false, now),
            Step::Provision(version, count) => {
                let version = Arc::clone(&self.versions[version]);
                self.pool.provision(&version, count, now);
            }
            Step::Prepare(version) => {
                let version = Arc::clone(&self.versions[version]);
                let (answer, answered) = oneshot::channel();
                if self.pool.prepare(&version, answer, now).is_ok() {
                    self.preparations.push(answered);
                }
            }
        }
        self.follow();
    }

    /// Carries out what the pool has decided, and checks what must hold at any time.
    fn follow(&mut self) {
        for command in self.pool.commands() {
            match command {
                Command::Start(start) => self.starting.push(start),
                Command::Stop { id, .. } => self.stopping.push(id),
            }
        }
        let mut index = 0;
        while index < self.waiting.len() {
            let (waiter, _, answered) = &mut self.waiting[index];
            match answered.try_recv() {
                Ok(Ok(())) => {
                    let lent = self.pool.take(*waiter, "id", self.now).expect("what was granted");
                    assert!(lent.runner.is_alive(), "a dead instance was lent out");
                    assert!(
                        !self.busy.iter().any(|(id, _)| *id == lent.id),
                        "an instance was lent out twice"
                    );
                    self.busy.push((lent.id, lent.runner));
                    self.served += 1;
                    self.waiting.remove(index);
                }
                Ok(Err(_)) => {
                    self.refused += 1;
                    self.waiting.remove(index);
                }
                Err(TryRecvError::Empty) => index += 1,
                Err(TryRecvError::Closed) => panic!("a waiter was forgotten"),
            }
        }
        self.check();
    }

    fn check(&self) {
        let pool = &self.pool;
        let sum = |stopping: bool| -> u64 {
            let machines = pool.machines.values();
            let chosen = machines.filter(|it| !stopping || matches!(it.state, State::Stopping));
            chosen.map(|machine| machine.memory).sum()
        };
        assert_eq!(pool.memory, sum(false));
        assert_eq!(pool.memory_stopping, sum(true));
        assert!(pool.memory <= pool.limits.memory, "too much memory");
        assert_eq!(pool.starts, self.starting.len());
        assert!(pool.starts <= pool.limits.starts.get());
        assert_eq!(pool.concurrency.total() as usize, self.waiting.len() + self.busy.len());
        assert!(pool.concurrency.total() <= pool.limits.concurrency);
        let queued: usize = pool.versions.values().map(super::version::Version::queued).sum();
        assert!(queued <= pool.limits.queue + usize::from(pool.limits.queue == 0), "queue");
        assert_eq!(
            pool.machines.len(),
            self.starting.len()
                + self.busy.len()
                + self.stopping.len()
                + pool.versions.values().map(|version| version.idle.len()).sum::<usize>()
        );
        for (key, version) in &pool.versions {
            let own = pool.machines.values().filter(|machine| machine.key == *key);
            let own = own.filter(|machine| !matches!(machine.state, State::Stopping));
            assert_eq!(version.machines, own.count());
            assert!(version.waiters.is_empty() || version.idle.is_empty(), "idle, and waited for");
        }
        for (name, function) in &pool.functions {
            let own = pool.machines.values().filter(|machine| machine.key.function == *name);
            let own = own.filter(|machine| !matches!(machine.state, State::Stopping));
            assert_eq!(function.held, own.map(|machine| machine.memory).sum::<u64>());
        }
        assert_eq!(self.arrived, self.served + self.refused + self.left + self.waiting.len());
    }

    /// Whatever is under way ends well: everybody who still waits is served.
    fn run_out(&mut self) {
        let served = self.served;
        let waiting = self.waiting.len();
        for round in 0.. {
            if self.waiting.is_empty()
                && self.busy.is_empty()
                && self.stopping.is_empty()
                && self.starting.is_empty()
            {
                break;
            }
            assert!(round < 10_000, "{} wait for ever", self.waiting.len());
            self.step(&Step::Started(0, Some(true)));
            self.step(&Step::Finished(0));
            self.step(&Step::Stopped(0));
            self.step(&Step::Settled(round % 6));
            self.step(&Step::Pass(100));
        }
        assert_eq!(self.served - served, waiting, "somebody was not served");
    }

    /// The end leaves nothing.
    fn drain(&mut self) {
        self.pool.drain(self.now);
        self.follow();
        self.run_out();
        assert!(self.pool.is_empty());
        assert!(self.pool.versions.is_empty() && self.pool.functions.is_empty());
        assert!(self.pool.granted.is_empty());
        assert_eq!((self.pool.memory, self.pool.memory_stopping), (0, 0));
        assert_eq!(self.pool.concurrency.total(), 0);
        for preparation in &mut self.preparations {
            assert!(!matches!(preparation.try_recv(), Err(TryRecvError::Empty)));
        }
    }
}

fn limits(memory: u64, queue: usize) -> FleetLimits {
    FleetLimits {
        queue,
        concurrency: 40,
        starts: NonZeroUsize::new(2).unwrap(),
        ..FleetLimits::of_memory(memory * MIB)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_schedule_serves_everybody(
        memory in 512..2048_u64,
        queue in 0..20_usize,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut world = World::new(limits(memory, queue));
        for step in &steps {
            world.step(step);
        }
        world.run_out();
        world.drain();
    }
}

#[test]
fn a_flood_does_not_keep_others_out() {
    // Memory for one instance of the largest, four of the smallest. The first function has a flood
    // that never ends; each invocation takes 100 ms.
    let mut world = World::new(FleetLimits { turn: Duration::from_secs(1), ..limits(512, 100) });
    for _ in 0..30 {
        world.step(&Step::Arrive(1));
    }
    let mut last_served = None;
    for round in 0..200 {
        world.step(&Step::Started(0, Some(true)));
        while world.waiting.len() < 30 {
            world.step(&Step::Arrive(1));
        }
        if round == 20 {
            world.step(&Step::Arrive(5));
        }
        for _ in 0..world.busy.len() {
            world.step(&Step::Finished(0));
        }
        for _ in 0..world.stopping.len() {
            world.step(&Step::Stopped(0));
        }
        world.step(&Step::Pass(100));
        let large = &world.versions[5].key;
        if round > 20 && !world.waiting.iter().any(|(_, key, _)| key == large) {
            last_served = Some(round);
            break;
        }
    }
    let round = last_served.expect("the large one is never served");
    assert!((30..40).contains(&round), "after its turn, and not long after: round {round}");
    world.run_out();
    world.drain();
}

#[test]
fn a_full_queue_drops_the_last_of_the_longest() {
    let mut world = World::new(limits(512, 4));
    // The large function holds all memory.
    world.step(&Step::Arrive(5));
    world.step(&Step::Started(0, None));
    for _ in 0..5 {
        world.step(&Step::Arrive(1));
    }
    assert_eq!(world.refused, 1, "a flood is bounded");
    world.step(&Step::Arrive(3));
    assert_eq!(world.refused, 2);
    assert_eq!(
        world.waiting.iter().filter(|(_, key, _)| key.version == "v3").count(),
        1,
        "another function has its place"
    );
    let (answer, mut answered) = oneshot::channel();
    let version = Arc::clone(&world.versions[1]);
    let waiter = world.pool.arrive(&version, answer, world.now).unwrap();
    assert!(matches!(answered.try_recv(), Ok(Err(Refusal::Throttled(Throttle::QueueFull)))));
    world.pool.abandon(&version.key, waiter, world.now);
    world.run_out();
    world.drain();
}

#[test]
fn the_first_start_is_waited_for() {
    let mut world = World::new(limits(2048, 100));
    for _ in 0..4 {
        world.step(&Step::Arrive(0));
    }
    assert_eq!(world.starting.len(), 1, "the others are restores");
    world.step(&Step::Started(0, None));
    assert_eq!((world.starting.len(), world.busy.len()), (0, 1), "its snapshot is not there yet");
    world.step(&Step::Settled(0));
    assert_eq!(world.starting.len(), 2, "as many as may be");
    for _ in 0..2 {
        world.step(&Step::Arrive(1));
    }
    world.run_out();
    world.drain();
}
