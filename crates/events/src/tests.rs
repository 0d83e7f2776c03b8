//! The queue as a whole, with functions that do as they are told.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};

use crate::{
    Destination, EnqueueError, Event, EventPolicy, EventQueue, EventQueueStatus, EventRunner,
    EventSettings, OpenError, RunOutcome,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Answers as it was told to, and well when it was told nothing.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<RunOutcome>>,
    runs: Mutex<Vec<(Instant, Event)>>,
    policy: EventPolicy,
    takes: Duration,
}

impl Script {
    fn new(policy: EventPolicy, answers: impl IntoIterator<Item = RunOutcome>) -> Arc<Self> {
        let answers = Mutex::new(answers.into_iter().collect());
        Arc::new(Self { answers, policy, ..Self::default() })
    }

    fn runs(&self) -> Vec<(Instant, Event)> {
        self.runs.lock().unwrap().clone()
    }
}

#[async_trait]
impl EventRunner for Script {
    async fn run(&self, event: &Event) -> RunOutcome {
        self.runs.lock().unwrap().push((Instant::now(), event.clone()));
        tokio::time::sleep(self.takes).await;
        let answer = self.answers.lock().unwrap().pop_front();
        answer.unwrap_or_else(|| RunOutcome::Succeeded {
            executed_version: "1".into(),
            payload: Bytes::from_static(b"\"well\""),
        })
    }

    fn policy(&self, event: &Event) -> EventPolicy {
        // What is told to a function has no destinations of its own here.
        if event.function == "told" { EventPolicy::default() } else { self.policy.clone() }
    }
}

fn event(function: &str) -> Event {
    Event {
        request_id: uuid::Uuid::new_v4().to_string(),
        function: function.into(),
        qualifier: None,
        function_arn: format!("arn:aws:lambda:us-east-1:000000000000:function:{function}"),
        payload: Bytes::from_static(b"{\"a\":1}"),
        trace_id: "Root=1".into(),
        client_context: None,
        accepted: SystemTime::now(),
    }
}

fn fails() -> RunOutcome {
    RunOutcome::Failed {
        executed_version: "1".into(),
        function_error: "Unhandled".into(),
        payload: Bytes::from_static(b"{\"errorMessage\":\"no\"}"),
    }
}

fn not_run() -> RunOutcome {
    RunOutcome::NotRun { reason: "throttled".into() }
}

async fn open(path: &Path, runner: &Arc<Script>) -> EventQueue {
    // What a queue before it had under way may take a moment to notice that it is dropped.
    for _ in 0..1000 {
        match EventQueue::open(path, EventSettings::default(), Arc::clone(runner) as _).await {
            Ok(queue) => return queue,
            Err(OpenError::InUse(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the queue stays in use");
}

async fn idle(queue: &EventQueue) {
    let deadline = Instant::now() + 48 * HOUR;
    loop {
        let status = queue.status();
        if status.waiting + status.running == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn entries(path: &Path) -> Vec<PathBuf> {
    let items = std::fs::read_dir(path).unwrap().map(|item| item.unwrap().path());
    items.filter(|path| path.extension().is_some()).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_twice_with_awss_pauses() {
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told.json");
    let path = directory.path().join("queue");
    let policy = EventPolicy {
        on_success: Some(Destination::File(told.clone())),
        on_failure: Some(Destination::File(told.clone())),
        ..EventPolicy::default()
    };
    let runner = Script::new(policy, [fails(), not_run(), not_run(), fails()]);
    let queue = open(&path, &runner).await;
    let (began, event) = (Instant::now(), event("f"));
    queue.enqueue(event.clone()).await.unwrap();
    idle(&queue).await;
    let runs = runner.runs();
    assert!(runs.iter().all(|(_, run)| run.request_id == event.request_id));
    let at: Vec<u64> = runs.iter().map(|(at, _)| (*at - began).as_secs()).collect();
    assert_eq!(at, [0, 60, 61, 63, 183], "1 min, throttled for 1 s and 2 s, 2 min");
    let records = lines(&told);
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["requestContext"]["condition"], "Success");
    assert_eq!(records[0]["requestContext"]["approximateInvokeCount"], 3);
    assert_eq!(records[0]["responsePayload"], "well");
    assert_eq!(entries(&path), Vec::<PathBuf>::new());

    // No more than twice.
    runner.answers.lock().unwrap().extend([fails(), fails(), fails()]);
    queue.enqueue(self::event("f")).await.unwrap();
    idle(&queue).await;
    assert_eq!(runner.runs().len(), 5 + 3);
    assert_eq!(lines(&told)[1]["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(lines(&told)[1]["responseContext"]["functionError"], "Unhandled");
}

#[tokio::test(start_paused = true)]
async fn functions_are_told_of_failures() {
    let directory = tempfile::tempdir().unwrap();
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:told:live";
    let policy = EventPolicy {
        retries: 0,
        on_failure: Some(Destination::Function(arn.into())),
        ..EventPolicy::default()
    };
    let runner = Script::new(policy, [fails()]);
    let queue = open(directory.path(), &runner).await;
    queue.enqueue(event("f")).await.unwrap();
    idle(&queue).await;
    let (_, told) = &runner.runs()[1];
    assert_eq!((&*told.function, told.qualifier.as_deref()), ("told", Some("live")));
    assert_ne!(told.request_id, runner.runs()[0].1.request_id);
    let record: Value = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!(record["requestPayload"], serde_json::json!({"a": 1}));
    assert_eq!(record["responsePayload"]["errorMessage"], "no");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_run_is_tried_until_it_is_too_old() {
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told.json");
    let policy = EventPolicy {
        maximum_age: Duration::from_secs(600),
        dead_letters: Some(Destination::File(told.clone())),
        ..EventPolicy::default()
    };
    let runner = Script::new(policy, std::iter::repeat_n(not_run(), 1000));
    let queue = open(&directory.path().join("queue"), &runner).await;
    let began = Instant::now();
    queue.enqueue(event("f")).await.unwrap();
    idle(&queue).await;
    let took = (Instant::now() - began).as_secs();
    assert!((598..=602).contains(&took), "{took} s");
    let pauses: Vec<u64> =
        runner.runs().windows(2).map(|runs| (runs[1].0 - runs[0].0).as_secs()).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256], "and the rest of its age");
    let records = lines(&told);
    assert_eq!(records[0]["requestContext"]["condition"], "EventAgeExceeded");
    assert_eq!(records[0]["requestContext"]["approximateInvokeCount"], 0);
    assert_eq!(records[0].get("responseContext"), None);
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let runner = Script::new(EventPolicy::default(), [fails(), fails(), fails()]);
    let queue = open(directory.path(), &runner).await;
    let second = EventQueue::open(directory.path(), EventSettings::default(), runner.clone());
    assert!(matches!(second.await, Err(OpenError::InUse(_))));
    queue.enqueue(event("f")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(runner.runs().len(), 1);
    queue.close(HOUR).await;
    assert!(matches!(queue.enqueue(event("f")).await, Err(EnqueueError::Closed)));
    drop(queue);
    assert_eq!(entries(directory.path()).len(), 1);

    let began = Instant::now();
    let queue = open(directory.path(), &runner).await;
    idle(&queue).await;
    assert_eq!(runner.runs().len(), 3, "attempts before the restart count");
    // The pause goes on as well; the host's clock, which it is counted by, has hardly moved.
    assert!(runner.runs()[1].0 - began >= Duration::from_secs(50));
    assert_eq!(entries(directory.path()), Vec::<PathBuf>::new());
}

#[tokio::test(start_paused = true)]
async fn a_death_at_any_moment_loses_nothing_that_was_accepted() {
    let mut deaths = 0;
    for changes in 0.. {
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told.json");
        let path = directory.path().join("queue");
        let policy = EventPolicy {
            on_failure: Some(Destination::File(told.clone())),
            on_success: Some(Destination::File(told.clone())),
            ..EventPolicy::default()
        };
        let runner = Script::new(policy, [fails()]);
        let queue = open(&path, &runner).await;
        queue.fault().after(changes);
        let event = event("f");
        let accepted = queue.enqueue(event.clone()).await;
        // Long enough for all there is to do, were the process alive.
        tokio::time::sleep(Duration::from_secs(100)).await;
        let died = queue.fault().has_come();
        drop(queue);

        let before = lines(&told).len();
        let queue = open(&path, &runner).await;
        idle(&queue).await;
        let records = lines(&told);
        if accepted.is_ok() {
            assert!(!records.is_empty(), "lost after {changes} changes");
            assert!(records.iter().all(|it| it["requestContext"]["requestId"] == event.request_id));
        } else {
            assert_eq!(before, 0, "it was refused");
        }
        assert_eq!(entries(&path), Vec::<PathBuf>::new(), "after {changes} changes");
        assert_eq!(queue.status(), EventQueueStatus::default());
        if !died {
            assert_eq!(records.len(), 1, "nothing is told twice without need");
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 10, "{deaths}");
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let runner = Script::new(EventPolicy::default(), []);
    drop(open(path, &runner).await);
    std::fs::write(path.join("a.event"), b"what is this").unwrap();
    std::fs::write(path.join("b.event"), b"").unwrap();
    std::fs::write(path.join("c.draft"), b"half").unwrap();
    let queue = open(path, &runner).await;
    assert_eq!(queue.status().damaged, 2);
    queue.enqueue(event("f")).await.unwrap();
    idle(&queue).await;
    assert_eq!(runner.runs().len(), 1);
    assert_eq!(entries(path), Vec::<PathBuf>::new());
    assert_eq!(std::fs::read(path.join("damaged/a")).unwrap(), b"what is this");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let runner = Arc::new(Script { takes: HOUR, ..Script::default() });
    let settings = EventSettings { capacity: 2, ..EventSettings::default() };
    let queue = EventQueue::open(directory.path(), settings, runner).await.unwrap();
    queue.enqueue(event("f")).await.unwrap();
    queue.enqueue(event("f")).await.unwrap();
    assert!(matches!(queue.enqueue(event("f")).await, Err(EnqueueError::Full(2))));
    idle(&queue).await;
    queue.enqueue(event("f")).await.unwrap();
}

#[tokio::test]
async fn servers_are_told_until_they_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/sink?a=b", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        for status in ["500 No", "204 Well"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut buffer = [0; 4096];
                let length = stream.read(&mut buffer).await.unwrap();
                assert_ne!(length, 0);
                request.extend_from_slice(&buffer[..length]);
            }
            let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(response.as_bytes()).await.unwrap();
            requests.push(String::from_utf8(request).unwrap());
        }
        requests
    });
    let directory = tempfile::tempdir().unwrap();
    let policy =
        EventPolicy { on_success: Some(Destination::Http(address)), ..EventPolicy::default() };
    let runner = Script::new(policy, []);
    let settings =
        EventSettings { delivery_pause: Duration::from_millis(10), ..EventSettings::default() };
    let queue = EventQueue::open(directory.path(), settings, runner).await.unwrap();
    queue.enqueue(event("f")).await.unwrap();
    let requests = server.await.unwrap();
    assert!(requests[1].starts_with("POST /sink?a=b HTTP/1.1\r\n"), "{}", requests[1]);
    assert!(requests[1].contains("\"condition\":\"Success\""), "{}", requests[1]);
    idle(&queue).await;
    assert_eq!(entries(directory.path()), Vec::<PathBuf>::new());
}
