//! The APIs over real HTTP, with the test as the runtime and as the host.

mod lives;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use costrel_agent_proto::v1::{
    ContinueRestore, Credentials, FunctionIdentity, Invoke, ProcessSpec, StartRuntime,
    guest_message::Message, host_message,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    protocol::RESPONSE_LIMIT,
    session::{FunctionService, Runtime},
};
use crate::reaper::Reaper;

pub(super) struct Guest {
    pub(super) service: FunctionService,
    pub(super) port: u16,
}

impl Guest {
    /// A function whose runtime is this test.
    pub(super) async fn started() -> Self {
        let guest = Self::with_extensions("/nowhere".into()).await;
        guest.begin(false);
        guest
    }

    /// Nothing runs yet.
    async fn with_extensions(directory: PathBuf) -> Self {
        let reaper = Reaper::start().unwrap();
        let service = FunctionService::on_port(reaper, Arc::new(OnceLock::new()), 0, directory);
        let port = service.serve_runtime_api().await.unwrap();
        Self { service, port }
    }

    /// A function whose runtime is this test, which may be restored.
    async fn snap_started() -> Self {
        let guest = Self::started().await;
        guest.begin(true);
        guest
    }

    fn begin(&self, snap_start: bool) {
        let identity = FunctionIdentity {
            name: "f".into(),
            version: "7".into(),
            handler: "app.handler".into(),
            account_id: "123456789012".into(),
        };
        let mut start = StartRuntime {
            snap_start,
            function: Some(identity),
            initialization_type: "on-demand".into(),
            ..StartRuntime::default()
        };
        let shared = self.service.shared();
        shared.reset(Runtime::starting(&mut start, tokio::sync::mpsc::unbounded_channel().0));
        shared.telemetry.open();
    }

    pub(super) async fn tell(&self, message: host_message::Message) {
        self.service.obey(message).await.unwrap();
    }

    pub(super) async fn invoke(&self, id: &str) {
        let invoke = Invoke {
            request_id: id.into(),
            deadline_unix_ms: 7,
            payload: "{}".into(),
            ..Invoke::default()
        };
        self.tell(host_message::Message::Invoke(invoke)).await;
    }

    pub(super) async fn heard(&self) -> Message {
        self.service.inbox.lock().await.recv().await.unwrap()
    }

    /// The length of the response that comes, and what it ends with.
    async fn response(&self) -> (usize, Message) {
        let mut received = 0;
        loop {
            match self.heard().await {
                Message::ResponseStart(_) => {}
                Message::ResponseChunk(chunk) => received += chunk.len(),
                end => return (received, end),
            }
        }
    }

    /// Sends bytes, closes the sending half, and reads all that comes back.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        String::from_utf8(reply).unwrap()
    }

    pub(super) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> String {
        self.ask(method, &format!("/2018-06-01/{path}"), headers, body).await
    }

    pub(super) async fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).await.unwrap();
        String::from_utf8(reply).unwrap()
    }

    /// Brings the runtime into invocation `id`, and checks what it gets.
    pub(super) async fn running(&self, id: &str) {
        let next = self.call("GET", "runtime/invocation/next", "", b"");
        let host = async {
            assert!(matches!(self.heard().await, Message::InitDone(_) | Message::InvokeDone(_)));
            self.invoke(id).await;
        };
        let (reply, ()) = tokio::join!(next, host);
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.contains(&format!("lambda-runtime-aws-request-id: {id}\r\n")), "{reply}");
        assert!(reply.contains("lambda-runtime-deadline-ms: 7\r\n"), "{reply}");
        assert!(reply.contains("content-type: application/json\r\n"), "{reply}");
        assert!(!reply.contains("client-context"), "{reply}");
        assert!(reply.ends_with("\r\n\r\n{}"), "{reply}");
    }
}

pub(super) fn is(reply: &str, status: &str, body: &str) {
    assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
    assert!(reply.ends_with(&format!("\r\n\r\n{body}")), "{reply}");
}

#[tokio::test]
async fn answers_one_invocation_after_the_other() {
    let guest = Guest::started().await;
    for id in ["a", "b"] {
        guest.running(id).await;
        let path = format!("runtime/invocation/{id}/response");
        is(&guest.call("POST", &path, "", b"\"done\"").await, "202", r#"{"status":"OK"}"#);
        assert!(
            matches!(guest.heard().await, Message::ResponseStart(start) if start.request_id == id)
        );
        assert_eq!(guest.heard().await, Message::ResponseChunk("\"done\"".into()));
        assert!(
            matches!(guest.heard().await, Message::ResponseEnd(end) if end.error_type.is_empty())
        );
    }
}

#[tokio::test]
async fn refuses_what_the_state_does_not_allow() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let invalid_id = r#"{"errorMessage":"Invalid request ID","errorType":"InvalidRequestID"}"#;
    is(&guest.call("POST", "runtime/invocation/b/response", "", b"").await, "400", invalid_id);
    is(&guest.call("POST", "runtime/invocation/b/error", "", b"").await, "400", invalid_id);
    let reply = guest.call("POST", "runtime/init/error", "", b"{}").await;
    assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
    assert!(reply.contains(r#""errorType":"InvalidStateTransition""#), "{reply}");
    assert!(
        reply.contains("State transition from Running to InitError failed for runtime."),
        "{reply}"
    );
    let reply = guest.call("GET", "runtime/invocation/next", "", b"").await;
    assert!(reply.starts_with("HTTP/1.1 403 "), "{reply}");
    is(&guest.call("GET", "ping", "", b"").await, "200", "pong");
    is(&guest.call("GET", "runtime/nothing", "", b"").await, "404", "404 page not found\n");
    assert!(
        guest.call("POST", "runtime/invocation/next", "", b"").await.starts_with("HTTP/1.1 405 ")
    );
}

#[tokio::test]
async fn a_response_above_the_limit_is_drained_and_refused() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let body = vec![b'x'; RESPONSE_LIMIT + 1];
    let host = guest.response();
    let (reply, (received, end)) =
        tokio::join!(guest.call("POST", "runtime/invocation/a/response", "", &body), host);
    assert!(received <= RESPONSE_LIMIT);
    let Message::InvokeError(report) = end else { panic!("{end:?}") };
    is(
        &reply,
        "413",
        r#"{"errorMessage":"Exceeded maximum allowed payload size (6291556 bytes).","errorType":"RequestEntityTooLarge"}"#,
    );
    assert_eq!(
        report.body,
        r#"{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}"#
    );
}

#[tokio::test]
async fn a_response_at_the_limit_is_taken() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let body = vec![b'x'; RESPONSE_LIMIT];
    let host = guest.response();
    let (reply, (received, end)) =
        tokio::join!(guest.call("POST", "runtime/invocation/a/response", "", &body), host);
    assert_eq!(received, RESPONSE_LIMIT);
    assert!(matches!(end, Message::ResponseEnd(_)), "{end:?}");
    assert!(reply.starts_with("HTTP/1.1 202 "), "{reply}");
}

#[tokio::test]
async fn a_truncated_response_is_refused_and_may_be_repeated() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let path = "runtime/invocation/a/response";
    let cut =
        format!("POST /2018-06-01/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf");
    let reply = guest.raw(cut.as_bytes()).await;
    is(
        &reply,
        "400",
        r#"{"errorMessage":"HTTP request detected as truncated","errorType":"TruncatedHTTPRequest"}"#,
    );
    assert!(guest.call("POST", path, "", b"1").await.starts_with("HTTP/1.1 202 "));
}

#[tokio::test]
async fn streams_with_trailers_that_nobody_declared() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let request = "POST /2018-06-01/runtime/invocation/a/response HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Lambda-Runtime-Function-Response-Mode: streaming\r\nContent-Type: text/plain\r\n\
        Transfer-Encoding: chunked\r\nTrailer: Lambda-Runtime-Function-Error-Type\r\n\r\n\
        3\r\nabc\r\n0\r\nLambda-Runtime-Function-Error-Type: Function.Broken\r\n\
        Lambda-Runtime-Function-Error-Body: e30=\r\n\r\n";
    let reply = guest.raw(request.as_bytes()).await;
    assert!(reply.starts_with("HTTP/1.1 202 "), "{reply}");
    assert!(
        matches!(guest.heard().await, Message::ResponseStart(start) if start.mode == 1 && start.content_type == "text/plain")
    );
    assert_eq!(guest.heard().await, Message::ResponseChunk("abc".into()));
    let Message::ResponseEnd(end) = guest.heard().await else { panic!("no end") };
    assert_eq!((end.error_type.as_str(), &end.error_body[..]), ("Function.Broken", &b"{}"[..]));
}

#[tokio::test]
async fn an_unknown_response_mode_is_refused() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let header = "Lambda-Runtime-Function-Response-Mode: sideways\r\n";
    let reply = guest.call("POST", "runtime/invocation/a/response", header, b"").await;
    assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
    assert!(reply.contains("InvalidFunctionResponseMode"), "{reply}");
}

#[tokio::test]
async fn errors_are_passed_on_verbatim() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let header = "Lambda-Runtime-Function-Error-Type: unhandled\r\n";
    let reply = guest.call("POST", "runtime/invocation/a/error", header, b"not json").await;
    is(&reply, "202", r#"{"status":"OK"}"#);
    let Message::InvokeError(report) = guest.heard().await else { panic!("no error") };
    assert_eq!(
        (report.error_type.as_str(), &report.body[..]),
        ("Runtime.Unknown", &b"not json"[..])
    );
}

#[tokio::test]
async fn the_cause_of_an_error_may_be_large() {
    let guest = Guest::started().await;
    guest.running("a").await;
    let cause = "x".repeat((1 << 20) - 64);
    let header = format!("Lambda-Runtime-Function-XRay-Error-Cause: {cause}\r\n");
    let reply = guest.call("POST", "runtime/invocation/a/error", &header, b"{}").await;
    is(&reply, "202", r#"{"status":"OK"}"#);
}

#[tokio::test]
async fn an_init_error_is_reported_once() {
    let guest = Guest::started().await;
    let header = "Lambda-Runtime-Function-Error-Type: Runtime.ImportModuleError\r\n";
    assert!(
        guest.call("POST", "runtime/init/error", header, b"{}").await.starts_with("HTTP/1.1 202 ")
    );
    assert!(
        matches!(guest.heard().await, Message::InitError(report) if report.error_type == "Runtime.ImportModuleError")
    );
    assert!(
        guest.call("POST", "runtime/init/error", header, b"{}").await.starts_with("HTTP/1.1 403 ")
    );
}

/// Brings the runtime to where it waits in `restore/next`, has the host let it go on, and checks
/// what it gets.
async fn restored(guest: &Guest) {
    let host = async {
        assert!(matches!(guest.heard().await, Message::RestoreReady(_)));
        let reply = guest.call("GET", "runtime/restore/next", "", b"").await;
        refused(&reply, "RestoreReady", "Ready");
        let reply = guest.call("GET", "runtime/invocation/next", "", b"").await;
        refused(&reply, "RestoreReady", "Ready");
        let reply = guest.call("POST", "runtime/restore/error", "", b"{}").await;
        refused(&reply, "RestoreReady", "RestoreError");
        let reply = guest.call("POST", "runtime/init/error", "", b"{}").await;
        refused(&reply, "RestoreReady", "InitError");
        guest.tell(host_message::Message::ContinueRestore(ContinueRestore {})).await;
    };
    let (reply, ()) = tokio::join!(guest.call("GET", "runtime/restore/next", "", b""), host);
    is(&reply, "200", "");
}

fn refused(reply: &str, from: &str, to: &str) {
    let message = format!(
        "State transition from {from} to {to} failed for runtime. Error: State transition is not allowed"
    );
    let body = format!(r#"{{"errorMessage":"{message}","errorType":"InvalidStateTransition"}}"#);
    is(reply, "403", &body);
}

#[tokio::test]
async fn a_restore_goes_before_the_first_invocation() {
    let guest = Guest::snap_started().await;
    restored(&guest).await;
    refused(&guest.call("GET", "runtime/restore/next", "", b"").await, "Restoring", "Ready");
    refused(&guest.call("POST", "runtime/init/error", "", b"{}").await, "Restoring", "InitError");
    guest.running("a").await;
    refused(&guest.call("GET", "runtime/restore/next", "", b"").await, "Running", "Ready");
    let reply = guest.call("POST", "runtime/restore/error", "", b"{}").await;
    refused(&reply, "Running", "RestoreError");
    // As one that came too late.
    guest.tell(host_message::Message::ContinueRestore(ContinueRestore {})).await;
    let path = "runtime/invocation/a/response";
    is(&guest.call("POST", path, "", b"1").await, "202", r#"{"status":"OK"}"#);
}

#[tokio::test]
async fn a_runtime_that_may_be_restored_need_not_care() {
    let guest = Guest::snap_started().await;
    let reply = guest.call("POST", "runtime/restore/error", "", b"{}").await;
    refused(&reply, "Started", "RestoreError");
    assert!(guest.call("POST", "runtime/restore/next", "", b"").await.starts_with("HTTP/1.1 405 "));
    guest.running("a").await;
}

#[tokio::test]
async fn a_restore_error_is_reported_once() {
    let guest = Guest::snap_started().await;
    restored(&guest).await;
    let header = "Lambda-Runtime-Function-Error-Type: Runtime.AfterRestoreError\r\n";
    let reply = guest.call("POST", "runtime/restore/error", header, b"[1]").await;
    is(&reply, "202", r#"{"status":"OK"}"#);
    let Message::RestoreError(report) = guest.heard().await else { panic!("no error") };
    assert_eq!(
        (report.error_type.as_str(), &report.body[..]),
        ("Runtime.AfterRestoreError", &b"[1]"[..])
    );
    let reply = guest.call("POST", "runtime/restore/error", header, b"[1]").await;
    refused(&reply, "RestoreError", "RestoreError");
    let reply = guest.call("GET", "runtime/invocation/next", "", b"").await;
    refused(&reply, "RestoreError", "Ready");
}

#[tokio::test]
async fn a_runtime_that_was_not_told_of_restores_finds_none() {
    let guest = Guest::started().await;
    for (method, path) in [("GET", "runtime/restore/next"), ("POST", "runtime/restore/error")] {
        is(&guest.call(method, path, "", b"").await, "404", "404 page not found\n");
    }
    guest.running("a").await;
}

#[tokio::test]
async fn credentials_are_given_to_who_shows_the_token() {
    let guest = Guest::started().await;
    let ask = |headers: &'static str| guest.ask("GET", "/2021-04-23/credentials", headers, b"");
    is(&ask("Authorization: first\r\n").await, "404", "404 page not found\n");
    for token in ["first", "second"] {
        let credentials = Credentials {
            authorization_token: token.into(),
            body: format!(r#"{{"AccessKeyId":"{token}"}}"#).into(),
        };
        guest.tell(host_message::Message::Credentials(credentials)).await;
    }
    is(&ask("Authorization: second\r\n").await, "200", r#"{"AccessKeyId":"second"}"#);
    is(
        &ask("Authorization: first\r\n").await,
        "403",
        "cannot get credentials for the provided token\n",
    );
    for header in ["", "Authorization:\r\n"] {
        is(&ask(header).await, "401", "cannot get credentials for the provided token\n");
    }
}

/// Through the supervisor: a real process, as the test's own user.
#[tokio::test]
async fn a_process_is_heard_to_its_end() {
    if !rustix::process::getuid().is_root() {
        #[expect(clippy::print_stderr, reason = "a test that is skipped says what it lacks")]
        {
            eprintln!("skipped: it takes root to start a process with an account of its own");
        }
        return;
    }
    let guest = Guest::started().await;
    let script = "echo out; echo err >&2; seq 20000; exit 3";
    let process = ProcessSpec {
        arguments: vec!["/bin/sh".into(), "-c".into(), script.into()],
        ..ProcessSpec::default()
    };
    let start = StartRuntime { process: Some(process), ..StartRuntime::default() };
    guest.tell(host_message::Message::StartRuntime(start)).await;
    let (mut out, mut err) = (String::new(), String::new());
    let exited = loop {
        match guest.heard().await {
            Message::Output(output) => {
                let text = std::str::from_utf8(&output.data).unwrap();
                if output.stream == 0 { out.push_str(text) } else { err.push_str(text) }
            }
            Message::RuntimeExited(exited) => break exited.exited.unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exited.code, exited.signal), (Some(3), None));
    assert_eq!(err, "err\n");
    let expected: String =
        (1..=20000).fold("out\n".to_owned(), |text, number| text + &number.to_string() + "\n");
    assert!(out == expected, "{} bytes", out.len());
}

#[tokio::test]
async fn a_runtime_that_is_not_there_is_told_in_awss_words() {
    let guest = Guest::started().await;
    let start = StartRuntime {
        process: Some(ProcessSpec::default()),
        bootstrap_candidates: vec!["/nowhere/bootstrap".into(), "/etc/passwd".into()],
        ..StartRuntime::default()
    };
    guest.tell(host_message::Message::StartRuntime(start)).await;
    let Message::RuntimeStartFailure(failure) = guest.heard().await else { panic!("it started") };
    assert_eq!(
        failure.message,
        "Couldn't find valid bootstrap(s): [/nowhere/bootstrap /etc/passwd]"
    );
}
