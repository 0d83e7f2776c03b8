//! One instance, many invocations: whatever happened in one, the next is served.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use costrel_agent_client::wire::OutputStream;
use costrel_functions::{
    FunctionSpec, Instance, Invocation, Outcome, Silent, Timeline, log::LogSink,
};
use costrel_tests::{Home, TestHost, function_spec, rust_package};

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    /// What was said since the last call.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl LogSink for Log {
    fn platform(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn function(&self, _stream: OutputStream, _data: &[u8]) {}

    fn notice(&self, text: &str) {
        self.platform(text);
    }
}

fn spec() -> FunctionSpec {
    function_spec("reused", rust_package(), 4)
}

async fn invoke(instance: &mut Instance, event: &'static str) -> Outcome {
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:reused";
    let invocation = Invocation::new(arn, Bytes::from_static(event.as_bytes()));
    instance.invoke(&invocation, None, &mut Timeline::default()).await.unwrap()
}

fn greets(outcome: &Outcome) {
    let reply = outcome.reply.as_ref().unwrap_or_else(|error| panic!("{error:?}"));
    let payload: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(payload["greeting"], "Hello world");
    assert_eq!(outcome.report.failure, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_invocation_after_any_failure_is_served() {
    let home = Home::shared();
    let host = TestHost::new(&home);
    let mut timeline = Timeline::default();
    let function = host.stage.function(spec(), Arc::new(Silent), &mut timeline).await.unwrap();
    let log = Arc::new(Log::default());
    let sink = Arc::clone(&log);
    let mut instance =
        Instance::start(&host.host, Arc::new(function), None, sink, &mut timeline).await.unwrap();

    let first = invoke(&mut instance, "{}").await;
    greets(&first);
    assert!(first.report.init_duration.is_some());
    let warm = invoke(&mut instance, "{}").await;
    greets(&warm);
    assert_eq!(warm.report.init_duration, None, "only the first has waited for it");

    for (event, error_type) in [
        (r#"{"case":"raise"}"#, None),
        (r#"{"case":"exit","code":3}"#, Some("Runtime.ExitError")),
        (r#"{"case":"panic"}"#, Some("Runtime.ExitError")),
        (r#"{"case":"sleep"}"#, Some("Sandbox.Timedout")),
        (r#"{"case":"big"}"#, Some("Function.ResponseSizeTooLarge")),
        (r#"{"case":"log","lines":100000}"#, None),
    ] {
        log.take();
        let outcome = invoke(&mut instance, event).await;
        if let Some(error_type) = error_type {
            assert_eq!(outcome.reply.unwrap_err().error_type, error_type, "{event}");
        }
        let said = log.take();
        assert!(said[0].starts_with("START RequestId: "), "{said:?}");
        assert!(said[said.len() - 2].starts_with("END RequestId: "), "{said:?}");
        assert!(said[said.len() - 1].starts_with("REPORT RequestId: "), "{said:?}");
        // A runtime that has ended is started again without a word on the log.
        greets(&invoke(&mut instance, "{}").await);
        let said = log.take();
        assert!(!said.iter().any(|line| line.starts_with("INIT_REPORT")), "{said:?}");
    }
    instance.stop().await;
}
