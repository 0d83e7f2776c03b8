//! A fleet of real machines: more invocations than there is memory for, and one that dies.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use costrel_fleet::{
    Fleet, FleetLimits, FleetObserver, FleetSettings, FleetVersion, InstanceState, InvocationEnd,
    InvocationRecord, InvokeError, LogLine, LogSource, SnapshotUse, StartKind, VersionKey,
};
use costrel_functions::Invocation;
use costrel_sandbox::running;
use costrel_snapshot::SnapshotStore;
use costrel_tests::{Home, TestHost, function_spec, processes_below, rust_package, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:fleet";

#[derive(Default)]
struct Observer {
    lines: Mutex<Vec<LogLine>>,
    records: Mutex<Vec<InvocationRecord>>,
}

impl FleetObserver for Observer {
    fn log(&self, line: &LogLine) {
        self.lines.lock().unwrap().push(line.clone());
    }

    fn invoked(&self, record: &InvocationRecord) {
        self.records.lock().unwrap().push(record.clone());
    }
}

fn version() -> Arc<FleetVersion> {
    Arc::new(FleetVersion {
        key: VersionKey {
            function: "fleet".into(),
            version: "$LATEST".into(),
            revision: "1".into(),
        },
        spec: function_spec("fleet", rust_package(), 60),
        snapshots: SnapshotUse::IfPossible,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_an_answer_of_their_own_and_one_death_is_one_error() {
    let home = Home::private();
    let TestHost { host, stage } = TestHost::new(&home);
    let sandboxes = host.sandboxes.clone();
    let takes_snapshots = host.backend.restorer().is_some();
    let version = version();
    let two = 2 * version.spec.memory.machine_bytes();
    let snapshots = SnapshotStore::open(&home.path().join("cache/costrel"), 1 << 30).unwrap();
    let observer = Arc::new(Observer::default());
    let settings = FleetSettings {
        host,
        stage,
        snapshots: Some(snapshots),
        limits: FleetLimits { turn: Duration::ZERO, ..FleetLimits::of_memory(two) },
    };
    let fleet = Fleet::new(settings, Arc::clone(&observer) as _);
    let call = |event: String| {
        let (fleet, version) = (fleet.clone(), Arc::clone(&version));
        let invocation = Invocation::new(ARN, Bytes::from(event));
        let id = invocation.request_id.clone();
        (id, tokio::spawn(async move { fleet.invoke(&version, invocation, None).await }))
    };

    let calls: Vec<_> =
        (0..12).map(|number| call(format!(r#"{{"name":"caller {number}"}}"#))).collect();
    let mut instances = BTreeSet::new();
    let mut starts = Vec::new();
    for (number, (id, call)) in calls.into_iter().enumerate() {
        let invoked = call.await.unwrap().unwrap();
        let reply = invoked.outcome.reply.unwrap();
        let payload: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(payload["greeting"], format!("Hello caller {number}"));
        assert_eq!(payload["request_id"], *id);
        let log = String::from_utf8(invoked.log_tail.to_vec()).unwrap();
        assert!(log.starts_with(&format!("START RequestId: {id} ")), "{log}");
        assert!(log.contains(&format!("\nREPORT RequestId: {id}\t")), "{log}");
        assert_eq!(log.matches("RequestId: ").count(), 3, "its own, and nobody else's: {log}");
        instances.insert(invoked.instance);
        if invoked.start != StartKind::Warm {
            starts.push(invoked.start);
        }
        let status = fleet.status();
        assert!(status.memory <= two, "{status:?}");
    }
    assert!((1..=2).contains(&instances.len()), "{instances:?}");
    assert_eq!(starts[0], StartKind::Booted);
    if takes_snapshots {
        assert!(starts[1..].iter().all(|start| *start == StartKind::Restored), "{starts:?}");
    }

    // One of the machines dies in the midst of an invocation.
    let (victim, dies) = call(r#"{"case":"sleep","seconds":30}"#.to_owned());
    let began = |line: &LogLine| {
        line.source == LogSource::Platform
            && line.bytes.starts_with(format!("START RequestId: {victim}").as_bytes())
    };
    wait_until("the invocation has begun", || observer.lines.lock().unwrap().iter().any(began));
    let busy = fleet.status().instances.into_iter();
    assert_eq!(busy.filter(|it| it.state == InstanceState::Busy(victim.clone())).count(), 1);
    // Which machine is whose is the fleet's own business. One that is idle may die as well.
    for sandbox in running(&sandboxes).unwrap() {
        let process = i32::try_from(sandbox.monitor_pid).ok().and_then(Pid::from_raw).unwrap();
        kill_process(process, Signal::KILL).unwrap();
    }
    let error = dies.await.unwrap().unwrap_err();
    assert!(matches!(error, InvokeError::Instance(_)), "{error:?}");
    let (_, next) = call(r#"{"name":"survivor"}"#.to_owned());
    let next = next.await.unwrap().unwrap();
    let payload: Value = serde_json::from_slice(&next.outcome.reply.unwrap().payload).unwrap();
    assert_eq!(payload["greeting"], "Hello survivor");
    assert!(!instances.contains(&next.instance), "the dead are not lent out");

    fleet.drain(Duration::from_secs(60)).await;
    let status = fleet.status();
    assert!(status.instances.is_empty(), "{status:?}");
    assert_eq!((status.memory, status.concurrency), (0, 0));
    assert_eq!(std::fs::read_dir(&sandboxes).unwrap().count(), 0, "directories are left");
    wait_until("no process is left", || processes_below(home.path()).is_empty());
    let records = observer.records.lock().unwrap();
    let failed = records.iter().filter(|it| matches!(it.end, InvocationEnd::Failed(_)));
    assert_eq!((records.len(), failed.count()), (14, 1));
}
