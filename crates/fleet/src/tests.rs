//! The fleet as a whole, with instances that stand in for machines, in a time of their own.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use costrel_agent_client::wire::OutputStream;
use costrel_functions::{
    FunctionSpec, Initialization, InstanceError, Invocation, Outcome, Reply, Report, ResponsePart,
    ShutdownReason, StageFunctionError, Timeline, log::LogSink,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    Fleet, FleetLimits, FleetObserver, FleetVersion, InstanceState, InvocationEnd,
    InvocationRecord, InvokeError, Invoked, Launched, Launcher, LogLine, PrepareError, Runner,
    SnapshotUse, Staged, StartKind, Throttle, testing,
};

const MIB: u64 = 1 << 20;
const BOOT: Duration = Duration::from_secs(2);
const RESTORE: Duration = Duration::from_millis(500);
const PUBLISH: Duration = Duration::from_secs(1);

/// What happens in a world of stand-ins.
#[derive(Default)]
struct World {
    staged: AtomicUsize,
    staging_fails: AtomicBool,
    boots: AtomicUsize,
    restores: AtomicUsize,
    snapshot: AtomicBool,
    initialisation_fails: AtomicBool,
    alive: AtomicUsize,
    /// Of initialised instances, what each was told it is for.
    provisioned: AtomicUsize,
    killed: AtomicUsize,
    shut_down: Mutex<Vec<ShutdownReason>>,
    lines: Mutex<Vec<LogLine>>,
    records: Mutex<Vec<InvocationRecord>>,
}

impl FleetObserver for World {
    fn log(&self, line: &LogLine) {
        self.lines.lock().unwrap().push(line.clone());
    }

    fn invoked(&self, record: &InvocationRecord) {
        self.records.lock().unwrap().push(record.clone());
    }
}

struct Stands(Arc<World>);

struct StagedStands {
    world: Arc<World>,
    spec: FunctionSpec,
}

/// An instance that does as its event says.
struct Stand {
    world: Arc<World>,
    log: Arc<dyn LogSink>,
    alive: Arc<AtomicBool>,
    spent: bool,
}

#[async_trait]
impl Launcher for Stands {
    fn machine_memory(&self, spec: &FunctionSpec) -> u64 {
        spec.memory.as_bytes()
    }

    fn takes_snapshots(&self) -> bool {
        true
    }

    async fn stage(
        &self,
        spec: &FunctionSpec,
        timeline: &mut Timeline,
    ) -> Result<Arc<dyn Staged>, StageFunctionError> {
        let began = std::time::Instant::now();
        sleep(Duration::from_millis(100)).await;
        self.0.staged.fetch_add(1, SeqCst);
        if self.0.staging_fails.load(SeqCst) {
            return Err(StageFunctionError::Interrupted);
        }
        timeline.end("code", began);
        Ok(Arc::new(StagedStands { world: Arc::clone(&self.0), spec: spec.clone() }))
    }
}

#[async_trait]
impl Staged for StagedStands {
    async fn launch(
        &self,
        snapshots: SnapshotUse,
        log: Arc<dyn LogSink>,
        _timeline: &mut Timeline,
    ) -> Result<Launched, InstanceError> {
        let world = &self.world;
        let start = if snapshots == SnapshotUse::IfPossible && world.snapshot.load(SeqCst) {
            sleep(RESTORE).await;
            world.restores.fetch_add(1, SeqCst);
            StartKind::Restored
        } else {
            sleep(BOOT).await;
            world.boots.fetch_add(1, SeqCst);
            StartKind::Booted
        };
        if self.spec.environment.iter().any(|(name, _)| name == "BROKEN") {
            return Err(InstanceError::Unkillable);
        }
        if self.spec.initialization == Initialization::ProvisionedConcurrency {
            world.provisioned.fetch_add(1, SeqCst);
        }
        world.alive.fetch_add(1, SeqCst);
        let saved = Arc::clone(world);
        let initialised = !world.initialisation_fails.load(SeqCst);
        let saves = snapshots == SnapshotUse::IfPossible && start == StartKind::Booted;
        Ok(Launched {
            runner: Box::new(Stand {
                world: Arc::clone(world),
                log,
                alive: Arc::new(AtomicBool::new(true)),
                spent: false,
            }),
            start,
            initialised,
            snapshot: (saves && initialised).then(|| {
                Box::pin(async move {
                    sleep(PUBLISH).await;
                    saved.snapshot.store(true, SeqCst);
                    true
                }) as _
            }),
        })
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.world.alive.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl Runner for Stand {
    /// `MILLISECONDS`, or `crash`, `spend`, `panic`, `die` (after its answer), each after 1 s.
    async fn invoke(
        &mut self,
        invocation: &Invocation,
        _response: Option<mpsc::Sender<ResponsePart>>,
        timeline: &mut Timeline,
    ) -> Result<Outcome, InstanceError> {
        let began = std::time::Instant::now();
        let text = String::from_utf8(invocation.payload.to_vec()).unwrap();
        self.log.platform(&format!("START RequestId: {}", invocation.request_id));
        self.log.function(OutputStream::Stdout, text.as_bytes());
        sleep(Duration::from_millis(text.parse().unwrap_or(1000))).await;
        self.log.platform(&format!("END RequestId: {}", invocation.request_id));
        timeline.end("invoke", began);
        match &*text {
            "crash" => return Err(InstanceError::Unkillable),
            "panic" => panic!("as asked"),
            "spend" => self.spent = true,
            "die" => self.alive.store(false, SeqCst),
            _ => {}
        }
        let payload = invocation.payload.clone();
        Ok(Outcome {
            reply: Ok(Reply { content_type: String::new(), payload }),
            report: Report {
                duration: Duration::from_millis(1),
                init_duration: None,
                restore_duration: None,
                memory_size_mb: 128,
                max_memory_used_mb: 1,
                failure: None,
            },
        })
    }

    fn is_reusable(&self) -> bool {
        !self.spent
    }

    fn is_alive(&self) -> bool {
        self.alive.load(SeqCst)
    }

    async fn shut_down(self: Box<Self>, reason: ShutdownReason) {
        sleep(Duration::from_millis(50)).await;
        self.world.shut_down.lock().unwrap().push(reason);
    }

    async fn stop(self: Box<Self>) {
        self.world.killed.fetch_add(1, SeqCst);
    }
}

fn limits(memory: u64) -> FleetLimits {
    FleetLimits { starts: NonZeroUsize::new(4).unwrap(), ..FleetLimits::of_memory(memory * MIB) }
}

fn fleet(limits: FleetLimits) -> (Arc<World>, Fleet) {
    let world = Arc::new(World::default());
    let launcher = Arc::new(Stands(Arc::clone(&world)));
    let fleet = Fleet::with_launcher(limits, launcher, Arc::clone(&world) as _);
    (world, fleet)
}

/// A function of 128 MB, without snapshots.
fn function(name: &str) -> Arc<FleetVersion> {
    Arc::new(testing::version(name, "$LATEST"))
}

fn saved(name: &str) -> Arc<FleetVersion> {
    let version = testing::version(name, "$LATEST");
    Arc::new(FleetVersion { snapshots: SnapshotUse::IfPossible, ..version })
}

type Call = JoinHandle<Result<Invoked, InvokeError>>;

fn call(fleet: &Fleet, version: &Arc<FleetVersion>, event: &str) -> Call {
    let (fleet, version) = (fleet.clone(), Arc::clone(version));
    let invocation = Invocation::new("arn", Bytes::copy_from_slice(event.as_bytes()));
    tokio::spawn(async move { fleet.invoke(&version, invocation, None).await })
}

async fn answer(call: Call, event: &str) -> Invoked {
    let invoked = call.await.unwrap().unwrap();
    assert_eq!(invoked.outcome.reply.as_ref().unwrap().payload, event);
    invoked
}

async fn throttled(call: Call) -> Throttle {
    match call.await.unwrap() {
        Err(InvokeError::Throttled(throttle)) => throttle,
        other => panic!("{other:?}"),
    }
}

/// Ends the fleet; nothing is left of it.
async fn end(world: &World, fleet: &Fleet) {
    fleet.drain(Duration::from_secs(60)).await;
    assert_eq!(world.alive.load(SeqCst), 0);
    let status = fleet.status();
    assert_eq!((status.memory, status.concurrency), (0, 0));
    assert!(status.instances.is_empty() && status.waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_concurrent_invocation_has_an_instance_of_its_own() {
    let (world, fleet) = fleet(limits(1024));
    let f = function("f");
    let calls: Vec<_> = (0..4).map(|number| call(&fleet, &f, &format!("100{number}"))).collect();
    let mut instances = BTreeSet::new();
    for (number, call) in calls.into_iter().enumerate() {
        let invoked = answer(call, &format!("100{number}")).await;
        assert_eq!(invoked.start, StartKind::Booted);
        let log = String::from_utf8(invoked.log_tail.to_vec()).unwrap();
        assert!(log.starts_with("START RequestId: ") && log.contains(&format!("\n100{number}\n")));
        instances.insert(invoked.instance);
    }
    assert_eq!(instances.len(), 4);
    assert_eq!(world.staged.load(SeqCst), 1, "once for all");
    let warm = answer(call(&fleet, &f, "1"), "1").await;
    assert!(instances.contains(&warm.instance) && warm.start == StartKind::Warm);
    // After ten idle minutes, none is left.
    sleep(Duration::from_secs(605)).await;
    assert_eq!(world.alive.load(SeqCst), 0);
    assert_eq!(*world.shut_down.lock().unwrap(), [ShutdownReason::Spindown; 4]);
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn cold_starts_wait_for_the_first_and_are_restores() {
    let (world, fleet) = fleet(limits(1024));
    let f = saved("f");
    let calls: Vec<_> = (0..4).map(|_| call(&fleet, &f, "5000")).collect();
    for call in calls {
        answer(call, "5000").await;
    }
    assert_eq!((world.boots.load(SeqCst), world.restores.load(SeqCst)), (1, 3));
    sleep(Duration::from_secs(605)).await;
    let invoked = answer(call(&fleet, &f, "1"), "1").await;
    assert_eq!(invoked.start, StartKind::Restored, "the next cold start as well");
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_waiter_takes_what_is_free_first() {
    let (world, fleet) = fleet(limits(1024));
    let f = function("f");
    answer(call(&fleet, &f, "1"), "1").await;
    let busy = call(&fleet, &f, "300");
    let began = Instant::now();
    let waits = call(&fleet, &f, "1");
    answer(waits, "1").await;
    assert!(began.elapsed() < Duration::from_millis(400), "not the start that it asked for");
    answer(busy, "300").await;
    sleep(BOOT).await;
    assert_eq!(world.alive.load(SeqCst), 2, "that has joined the others");
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn idle_instances_make_room_for_others() {
    let (world, fleet) = fleet(limits(256));
    let [a, b, c] = ["a", "b", "c"].map(function);
    answer(call(&fleet, &a, "1"), "1").await;
    answer(call(&fleet, &b, "1"), "1").await;
    answer(call(&fleet, &c, "1"), "1").await;
    let names: Vec<_> =
        fleet.status().instances.iter().map(|it| it.version.function.clone()).collect();
    assert_eq!(names, ["b", "c"], "the one that was idle for longest has gone");
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_does_not_starve_another_function() {
    let (world, fleet) = fleet(limits(256));
    let [a, b] = ["a", "b"].map(function);
    let flood: Vec<_> = (0..100).map(|_| call(&fleet, &a, "200")).collect();
    sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    answer(call(&fleet, &b, "1"), "1").await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    for call in flood {
        answer(call, "200").await;
    }
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn queue_and_concurrency_are_bounded() {
    let (world, fleet) = fleet(FleetLimits { queue: 3, concurrency: 8, ..limits(128) });
    let f = function("f");
    let calls: Vec<_> = (0..4).map(|_| call(&fleet, &f, "10")).collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(throttled(call(&fleet, &f, "10")).await, Throttle::QueueFull);
    for call in calls {
        answer(call, "10").await;
    }
    fleet.set_reserved("f", Some(1));
    let one = call(&fleet, &f, "100");
    sleep(Duration::from_millis(1)).await;
    assert_eq!(throttled(call(&fleet, &f, "1")).await, Throttle::ReservedConcurrency);
    answer(one, "100").await;
    fleet.set_reserved("f", Some(0));
    assert_eq!(throttled(call(&fleet, &f, "1")).await, Throttle::ReservedConcurrency);
    fleet.set_reserved("other", Some(8));
    fleet.set_reserved("f", None);
    assert_eq!(throttled(call(&fleet, &f, "1")).await, Throttle::AccountConcurrency);
    let throttles = world.records.lock().unwrap().clone();
    let throttles = throttles.iter().filter(|it| matches!(it.end, InvocationEnd::Throttled(_)));
    assert_eq!(throttles.count(), 4);
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn what_has_crashed_is_replaced() {
    let (world, fleet) = fleet(limits(128));
    let f = function("f");
    for (event, killed) in [("crash", 1), ("panic", 1)] {
        let error = call(&fleet, &f, event).await.unwrap().unwrap_err();
        match event {
            "crash" => assert!(matches!(error, InvokeError::Instance(_))),
            _ => assert!(matches!(error, InvokeError::Lost)),
        }
        let next = answer(call(&fleet, &f, "1"), "1").await;
        assert_eq!(next.start, StartKind::Booted);
        assert_eq!(world.killed.load(SeqCst), killed);
    }
    let spent = answer(call(&fleet, &f, "spend"), "spend").await;
    let next = answer(call(&fleet, &f, "1"), "1").await;
    assert_ne!(spent.instance, next.instance);
    // One that dies while nobody looks is not lent out.
    let died = answer(call(&fleet, &f, "die"), "die").await;
    let next = answer(call(&fleet, &f, "1"), "1").await;
    assert_ne!(died.instance, next.instance);
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_leaves_the_queue_or_lets_its_invocation_end() {
    let (world, fleet) = fleet(limits(128));
    let f = function("f");
    let running = call(&fleet, &f, "5000");
    sleep(Duration::from_secs(3)).await;
    let waiting = call(&fleet, &f, "1");
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fleet.status().waiting[0].1, 1);
    waiting.abort();
    running.abort();
    sleep(Duration::from_millis(1)).await;
    let status = fleet.status();
    assert!(status.waiting.is_empty());
    assert!(matches!(status.instances[0].state, InstanceState::Busy(_)), "it goes on");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(fleet.status().instances[0].state, InstanceState::Idle);
    let ends: Vec<_> = world.records.lock().unwrap().iter().map(|it| it.end.clone()).collect();
    assert!(
        matches!(ends[..], [InvocationEnd::Abandoned, InvocationEnd::Completed { .. }]),
        "{ends:?}"
    );
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn failures_to_start_are_told_and_not_remembered() {
    let (world, fleet) = fleet(limits(1024));
    let f = function("f");
    world.staging_fails.store(true, SeqCst);
    let calls = [call(&fleet, &f, "1"), call(&fleet, &f, "1")];
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(InvokeError::Staging(_))));
    }
    world.staging_fails.store(false, SeqCst);
    answer(call(&fleet, &f, "1"), "1").await;
    let mut broken = testing::version("broken", "1");
    broken.spec.environment = vec![("BROKEN".into(), String::new())];
    let broken = Arc::new(broken);
    let calls = [call(&fleet, &broken, "1"), call(&fleet, &broken, "1")];
    for call in calls {
        assert!(matches!(call.await.unwrap(), Err(InvokeError::Instance(_))));
    }
    let mut large = testing::version("large", "1");
    large.spec.memory = testing::memory(2048);
    let error = call(&fleet, &Arc::new(large), "1").await.unwrap().unwrap_err();
    assert!(matches!(error, InvokeError::OversizedForHost { .. }));
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_prepared_is_restored() {
    let (world, fleet) = fleet(limits(1024));
    let f = saved("f");
    fleet.prepare(&f).await.unwrap();
    assert_eq!(world.alive.load(SeqCst), 0);
    assert_eq!(answer(call(&fleet, &f, "1"), "1").await.start, StartKind::Restored);
    world.snapshot.store(false, SeqCst);
    world.initialisation_fails.store(true, SeqCst);
    let error = fleet.prepare(&saved("g")).await.unwrap_err();
    assert!(matches!(error, PrepareError::Initialization));
    end(&world, &fleet).await;
    assert!(matches!(fleet.prepare(&f).await, Err(PrepareError::Draining)));
}

#[tokio::test(start_paused = true)]
async fn provisioned_instances_are_there_ahead_and_replaced() {
    let (world, fleet) = fleet(limits(1024));
    let f = function("f");
    fleet.provision(&f, 2);
    let status = fleet.provisioned(&f.key).unwrap();
    assert_eq!((status.requested, status.allocated, status.available), (2, 2, 0));
    sleep(Duration::from_secs(3)).await;
    assert_eq!(fleet.provisioned(&f.key).unwrap().available, 2);
    assert_eq!(world.provisioned.load(SeqCst), 2, "they are told what they are");
    let began = Instant::now();
    let first = answer(call(&fleet, &f, "die"), "die").await;
    assert_eq!(first.start, StartKind::Warm);
    assert!(began.elapsed() < BOOT);
    sleep(Duration::from_secs(1000)).await;
    let status = fleet.provisioned(&f.key).unwrap();
    assert_eq!((status.allocated, status.available), (2, 2), "replaced, and never too long idle");
    // More than that spill over.
    let calls: Vec<_> = (0..3).map(|_| call(&fleet, &f, "3000")).collect();
    for call in calls {
        answer(call, "3000").await;
    }
    assert_eq!(world.alive.load(SeqCst), 3);
    fleet.provision(&f, 0);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.alive.load(SeqCst), 1);
    assert_eq!(fleet.provisioned(&f.key), None);
    let mut broken = testing::version("broken", "1");
    broken.spec.environment = vec![("BROKEN".into(), String::new())];
    let broken = Arc::new(broken);
    fleet.provision(&broken, 1);
    sleep(Duration::from_secs(3)).await;
    assert!(fleet.provisioned(&broken.key).unwrap().failure.is_some());
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn the_retired_end_when_they_are_done() {
    let (world, fleet) = fleet(limits(1024));
    let f = function("f");
    let busy = call(&fleet, &f, "5000");
    let idle = call(&fleet, &f, "1");
    answer(idle, "1").await;
    let mut newer = testing::version("f", "$LATEST");
    newer.key.revision = "s".into();
    let newer = Arc::new(newer);
    fleet.retire("f", &|key| *key == newer.key);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.alive.load(SeqCst), 1);
    answer(busy, "5000").await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.alive.load(SeqCst), 0);
    answer(call(&fleet, &newer, "1"), "1").await;
    assert_eq!(world.alive.load(SeqCst), 1);
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_serves_whom_it_has_accepted_within_its_limit() {
    let (world, fleet) = fleet(limits(128));
    let f = function("f");
    let accepted = [call(&fleet, &f, "3000"), call(&fleet, &f, "3001")];
    sleep(Duration::from_millis(10)).await;
    let ended = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.drain(Duration::from_secs(60)).await }
    });
    sleep(Duration::from_millis(10)).await;
    assert!(matches!(call(&fleet, &f, "1").await.unwrap(), Err(InvokeError::Draining)));
    for (call, event) in accepted.into_iter().zip(["3000", "3001"]) {
        answer(call, event).await;
    }
    ended.await.unwrap();
    assert_eq!(*world.shut_down.lock().unwrap(), [ShutdownReason::Spindown]);
    end(&world, &fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_breaks_off_what_takes_too_long() {
    let (world, fleet) = fleet(limits(256));
    let f = function("f");
    let busy = call(&fleet, &f, "100000");
    sleep(Duration::from_secs(3)).await;
    let starting = call(&fleet, &f, "1");
    let waiting = call(&fleet, &f, "1");
    sleep(Duration::from_millis(10)).await;
    let began = Instant::now();
    fleet.drain(Duration::from_secs(1)).await;
    assert!(began.elapsed() < Duration::from_secs(2));
    for call in [busy, starting, waiting] {
        assert!(matches!(call.await.unwrap(), Err(InvokeError::Draining)));
    }
    end(&world, &fleet).await;
}
