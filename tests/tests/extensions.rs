//! Extensions beside real runtimes: in Python, in a part of the function, and on the crate that
//! Rust's are written with.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use costrel_agent_client::wire::OutputStream;
use costrel_functions::{
    FunctionSpec, Instance, Invocation, Launch, Outcome, Package, ShutdownReason, Silent,
    StagedFunction, Timeline, log::LogSink,
};
use costrel_image::ImageSource;
use costrel_rootfs::CodeSource;
use costrel_snapshot::SnapshotStore;
use costrel_tests::{
    Home, TestHost, example, function_spec, python_image, rust_extension, rust_package,
};
use serde_json::{Value, json};

const ARN: &str = "arn:aws:lambda:us-east-1:123456789012:function:watched";

/// Keeps apart what the platform, the function and its extensions say.
#[derive(Default)]
struct Log {
    platform: Mutex<Vec<String>>,
    function: Mutex<String>,
    extensions: Mutex<String>,
}

impl LogSink for Log {
    fn platform(&self, line: &str) {
        self.platform.lock().unwrap().push(line.to_owned());
    }

    fn function(&self, stream: OutputStream, data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        match stream {
            OutputStream::Extension => *self.extensions.lock().unwrap() += &text,
            OutputStream::Stdout | OutputStream::Stderr => *self.function.lock().unwrap() += &text,
        }
    }

    fn notice(&self, text: &str) {
        self.platform(&format!("notice: {text}"));
    }
}

impl Log {
    /// What extensions have printed since the last call.
    fn extensions(&self) -> String {
        std::mem::take(&mut self.extensions.lock().unwrap())
    }

    fn has_platform(&self, line: &str) {
        let said = self.platform.lock().unwrap();
        assert!(said.iter().any(|it| it == line), "{line:?} is not in {said:#?}");
    }
}

fn spec(package: Package) -> FunctionSpec {
    FunctionSpec { account_id: "123456789012".into(), ..function_spec("watched", package, 4) }
}

/// A Python function with the watcher in a layer.
fn python(handler: &str) -> FunctionSpec {
    let image = ImageSource::parse(&format!("oci:{}", python_image().display())).unwrap();
    let spec = spec(Package {
        image: Some(image),
        code: Some(CodeSource::Directory(example("python-cases"))),
        launch: Launch::Bootstrap("python3.11".parse().unwrap()),
    });
    let layers = vec![example("python-extension")];
    FunctionSpec { handler: Some(handler.into()), layers, ..spec }
}

async fn staged(host: &TestHost, spec: FunctionSpec) -> Arc<StagedFunction> {
    let mut timeline = Timeline::default();
    Arc::new(host.stage.function(spec, Arc::new(Silent), &mut timeline).await.unwrap())
}

async fn start(
    host: &TestHost,
    function: &Arc<StagedFunction>,
    snapshots: Option<&SnapshotStore>,
) -> (Instance, Arc<Log>) {
    let log = Arc::new(Log::default());
    let mut timeline = Timeline::default();
    let sink = Arc::clone(&log) as Arc<dyn LogSink>;
    let function = Arc::clone(function);
    let started = Instance::start(&host.host, function, snapshots, sink, &mut timeline).await;
    (started.unwrap(), log)
}

/// Invokes it, and says by which id.
async fn invoke(instance: &mut Instance, event: &Value) -> (String, Outcome) {
    let invocation = Invocation::new(ARN, Bytes::from(event.to_string()));
    let outcome = instance.invoke(&invocation, None, &mut Timeline::default()).await.unwrap();
    (invocation.request_id, outcome)
}

fn payload(outcome: &Outcome) -> Value {
    let reply = outcome.reply.as_ref().unwrap_or_else(|error| panic!("{error:?}"));
    serde_json::from_slice(&reply.payload).unwrap()
}

/// Invokes it once and ends it. What an extension prints is in the log, from its registration, which
/// may have been in another instance, to its end.
async fn watched(mut instance: Instance, log: &Log) -> String {
    let (id, outcome) = invoke(&mut instance, &json!({})).await;
    assert_eq!(payload(&outcome)["invocations"], 1);
    instance.shut_down(ShutdownReason::Spindown).await;
    let said = log.extensions();
    assert!(said.contains(&format!("watcher: invoked {id}\n")), "{said}");
    assert!(said.ends_with("watcher: shutdown spindown\n"), "{said}");
    let printed = log.function.lock().unwrap();
    assert!(!printed.contains("watcher"), "{printed}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_is_there_from_its_registration_to_its_end_and_in_snapshots() {
    let home = Home::shared();
    let host = TestHost::new(&home);
    let function = staged(&host, python("cases.echo")).await;
    let directory = tempfile::tempdir().unwrap();
    let snapshots = SnapshotStore::open(directory.path(), u64::MAX).unwrap();

    let (instance, log) = start(&host, &function, Some(&snapshots)).await;
    log.has_platform("EXTENSION\tName: watcher\tState: Ready\tEvents: [INVOKE,SHUTDOWN]");
    log.has_platform("TELEMETRY\tName: watcher\tState: Subscribed\tTypes: [platform,function]");
    let said = watched(instance, &log).await;
    assert!(said.contains("watcher: of watched cases.echo 123456789012\n"), "{said}");
    assert!(said.contains("watcher: without []\n"), "{said}");
    let booted = "extension initReport initRuntimeDone initStart report runtimeDone start \
                  telemetrySubscription";
    let types =
        |names: &str| names.split(' ').map(|it| format!(" platform.{it}")).collect::<String>();
    assert!(said.contains(&format!("watcher: types{}\n", types(booted))), "{said}");

    let (instance, log) = start(&host, &function, Some(&snapshots)).await;
    let said = watched(instance, &log).await;
    assert!(!said.contains("watcher: of "), "it has registered in the other instance: {said}");
    for kind in ["platform.restoreStart", "platform.restoreReport", "platform.report"] {
        assert!(said.contains(kind), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_tells_extensions_and_keeps_tmp() {
    let home = Home::shared();
    let host = TestHost::new(&home);
    let function = staged(&host, python("inside.handler")).await;
    let (mut instance, log) = start(&host, &function, None).await;
    log.has_platform("EXTENSION\tName: inside\tState: Ready\tEvents: [INVOKE]");

    let (_, outcome) = invoke(&mut instance, &json!({})).await;
    assert_eq!(payload(&outcome), json!({ "invoked": true, "events": 1, "left": false }));
    log.extensions();
    let (_, outcome) = invoke(&mut instance, &json!({ "seconds": 600 })).await;
    assert_eq!(outcome.reply.unwrap_err().error_type, "Sandbox.Timedout");
    let said = log.extensions();
    assert!(said.contains(r"watcher: lines ['handling\n', 'handling\n']"), "{said}");
    assert!(said.ends_with("watcher: shutdown timeout\n"), "{said}");

    assert!(instance.is_reusable());
    let (_, outcome) = invoke(&mut instance, &json!({})).await;
    assert_eq!(payload(&outcome), json!({ "invoked": true, "events": 1, "left": true }));
    assert!(log.extensions().contains("watcher: of watched inside.handler"));
    instance.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crate_for_rust_is_served() {
    let home = Home::shared();
    let host = TestHost::new(&home);
    let layers = vec![rust_extension()];
    let function = staged(&host, FunctionSpec { layers, ..spec(rust_package()) }).await;
    let (mut instance, log) = start(&host, &function, None).await;
    let (id, outcome) = invoke(&mut instance, &json!({ "case": "log", "lines": 2 })).await;
    assert_eq!(outcome.report.failure, None);
    instance.shut_down(ShutdownReason::Spindown).await;
    let said = log.extensions();
    for line in [
        format!("invoked {id}"),
        format!("done {id} Success"),
        format!("reported {id} of 128 MB"),
        "initialised true".to_owned(),
        "printed line 0".to_owned(),
        "printed line 1".to_owned(),
        "spindown".to_owned(),
    ] {
        assert!(said.contains(&format!("observer: {line}\n")), "{line}: {said}");
    }
}
