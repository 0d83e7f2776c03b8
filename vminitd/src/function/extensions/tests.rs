//! The Extensions API over HTTP. The test is the runtime, and its extensions are internal ones.

use std::time::Duration;

use costrel_agent_proto::v1::{ShutdownReason, guest_message::Message};
use serde_json::{Value, json};

use super::{Event, ExtensionRefusal, Registry, Subscription};
use crate::function::tests::{Guest, is};

impl Guest {
    async fn extension(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let path = format!("/2020-01-01/extension/{path}");
        self.ask(method, &path, headers, body.as_bytes()).await
    }

    /// Registers, and gives the header by which the extension is known.
    pub(in crate::function) async fn registered(&self, name: &str, events: &Value) -> String {
        let header = format!("Lambda-Extension-Name: {name}\r\n");
        let body = json!({ "events": events }).to_string();
        let reply = self.extension("POST", "register", &header, &body).await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        let id = reply.lines().find_map(|line| line.strip_prefix("lambda-extension-identifier: "));
        format!("Lambda-Extension-Identifier: {}\r\n", id.unwrap())
    }

    async fn next_event(&self, identifier: &str) -> Value {
        let reply = self.extension("GET", "event/next", identifier, "").await;
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
        assert!(reply.contains("lambda-extension-event-identifier: "), "{reply}");
        body(&reply)
    }
}

fn body(reply: &str) -> Value {
    serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap()
}

fn refused(reply: &str, kind: &str, message: &str) {
    is(reply, "403", &json!({ "errorMessage": message, "errorType": kind }).to_string());
}

#[tokio::test]
async fn who_registers_is_told_what_it_is_part_of() {
    let guest = Guest::started().await;
    let ask = |headers: &'static str| guest.extension("POST", "register", headers, "{}");
    let reply = ask("Lambda-Extension-Name: a\r\n").await;
    let told = json!({ "functionName": "f", "functionVersion": "7", "handler": "app.handler" });
    assert_eq!(body(&reply), told);
    let headers =
        "Lambda-Extension-Name: b\r\nLambda-Extension-Accept-Feature: other, accountId\r\n";
    assert_eq!(body(&ask(headers).await)["accountId"], "123456789012");
}

#[tokio::test]
async fn what_is_wrong_is_told_by_type() {
    let guest = Guest::started().await;
    let register = |headers: &'static str, body: &'static str| {
        guest.extension("POST", "register", headers, body)
    };
    let reply = register("", "{}").await;
    refused(&reply, "Extension.InvalidExtensionName", "Empty extension name");
    let name = "Lambda-Extension-Name: a\r\n";
    assert!(register(name, "[").await.contains("InvalidRequestFormat"));
    let reply = register(name, r#"{"events":["INVOKE","SLEEP"]}"#).await;
    refused(&reply, "Extension.InvalidEventType", "SLEEP: ErrorInvalidEventType");
    let reply = register(name, r#"{"events":["SHUTDOWN"]}"#).await;
    refused(
        &reply,
        "Extension.InvalidEventType",
        "SHUTDOWN: ShutdownEventNotSupportedForInternalExtension",
    );
    let missing = "Missing Lambda-Extension-Identifier header";
    let reply = guest.extension("GET", "event/next", "", "").await;
    refused(&reply, "Extension.MissingExtensionIdentifier", missing);
    let reply =
        guest.extension("GET", "event/next", "Lambda-Extension-Identifier: x\r\n", "").await;
    refused(&reply, "Extension.InvalidExtensionIdentifier", "Invalid Lambda-Extension-Identifier");
    let id = "00000000-0000-4000-8000-000000000000";
    let header = format!("Lambda-Extension-Identifier: {id}\r\n");
    let reply = guest.extension("GET", "event/next", &header, "").await;
    let message = format!("Unknown extension {id}");
    refused(&reply, "Extension.UnknownExtensionIdentifier", &message);

    let header = guest.registered("a", &json!([])).await;
    let reply = guest.extension("POST", "init/error", &header, "").await;
    let message = "Lambda-Extension-Function-Error-Type not found";
    refused(&reply, "Extension.MissingHeader", message);
    let reply = register_again(&guest).await;
    let message = "Extension with this name already registered";
    refused(&reply, "Extension.InvalidExtensionState", message);
    for name in ["b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        guest.registered(name, &json!([])).await;
    }
    let reply = guest.extension("POST", "register", "Lambda-Extension-Name: k\r\n", "{}").await;
    refused(&reply, "Extension.TooManyExtensions", "Extension limit (10) reached");

    let reply = guest.extension("GET", "register", "", "").await;
    assert!(reply.starts_with("HTTP/1.1 405 "), "{reply}");
    is(&guest.extension("GET", "nothing", "", "").await, "404", "404 page not found\n");
}

async fn register_again(guest: &Guest) -> String {
    guest.extension("POST", "register", "Lambda-Extension-Name: a\r\n", "{}").await
}

#[tokio::test]
async fn what_failed_is_asked_no_more() {
    let guest = Guest::started().await;
    let identifier = guest.registered("a", &json!([])).await;
    let headers = format!("{identifier}Lambda-Extension-Function-Error-Type: Extension.Mine\r\n");
    for _ in 0..2 {
        let reply = guest.extension("POST", "init/error", &headers, "{}").await;
        is(&reply, "202", r#"{"status":"OK"}"#);
    }
    let reply = guest.extension("GET", "event/next", &identifier, "").await;
    let id = identifier.trim().split(": ").nth(1).unwrap();
    let message = format!(
        "State transition from InitError to Ready failed for extension {id}. Error: State transition is not allowed"
    );
    refused(&reply, "Extension.InvalidExtensionState", &message);
    let reply = guest.extension("POST", "exit/error", &headers, "{}").await;
    assert!(reply.contains("State transition from InitError to ExitError"), "{reply}");
    let runtime = guest.service.shared().runtime();
    assert_eq!(runtime.extensions.fault().unwrap().error_type(), "Extension.InitError");
    assert_eq!(
        runtime.extensions.statuses()[0].line(),
        "EXTENSION\tName: a\tState: InitError\tEvents: []\tError Type: Extension.Mine"
    );
}

/// That nothing is heard for a while.
async fn silence(guest: &Guest) {
    let heard = tokio::time::timeout(Duration::from_millis(50), guest.heard()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn all_must_be_ready_for_what_comes_next() {
    let guest = Guest::started().await;
    let one = guest.registered("one", &json!(["INVOKE"])).await;
    let idle = guest.registered("idle", &json!([])).await;
    let runtime = async {
        let next = guest.call("GET", "runtime/invocation/next", "", b"").await;
        assert!(next.contains("lambda-runtime-aws-request-id: a\r\n"), "{next}");
        let path = "runtime/invocation/a/response";
        assert!(guest.call("POST", path, "", b"1").await.starts_with("HTTP/1.1 202 "));
        // It waits for ever: no second invocation comes.
        let next = guest.call("GET", "runtime/invocation/next", "", b"");
        assert!(tokio::time::timeout(Duration::from_millis(400), next).await.is_err());
    };
    let extensions = async {
        silence(&guest).await;
        let never = guest.next_event(&idle);
        let invoked = async {
            silence(&guest).await;
            let (event, ()) = tokio::join!(guest.next_event(&one), async {
                for name in ["one", "idle"] {
                    let Message::PlatformLine(line) = guest.heard().await else { panic!() };
                    assert!(line.starts_with(&format!("EXTENSION\tName: {name}\tState: Ready\t")));
                }
                assert!(matches!(guest.heard().await, Message::InitDone(_)));
                guest.invoke("a").await;
            });
            event
        };
        let event = tokio::select! {
            event = invoked => event,
            event = never => panic!("{event}"),
        };
        assert_eq!(event["eventType"], "INVOKE");
        assert_eq!(event["requestId"], "a");
        assert_eq!(event["deadlineMs"], 7);
        for _ in ["start", "chunk", "end"] {
            guest.heard().await;
        }
        silence(&guest).await;
        let again = guest.next_event(&one);
        let done = async { assert!(matches!(guest.heard().await, Message::InvokeDone(_))) };
        tokio::select! {
            () = done => {}
            event = again => panic!("{event}"),
        }
        let reply =
            guest.extension("POST", "register", "Lambda-Extension-Name: late\r\n", "{}").await;
        let message = "Extension registration closed already";
        refused(&reply, "Extension.RegistrationClosed", message);
    };
    tokio::join!(runtime, extensions);
}

#[test]
fn external_extensions_register_by_their_files_names() {
    let mut registry = Registry::default();
    registry.launching("agent");
    assert!(!registry.all_registered());
    let events = ["INVOKE".to_owned(), "SHUTDOWN".to_owned(), "INVOKE".to_owned()];
    let id = registry.register("agent", &events).unwrap();
    assert!(registry.all_registered() && !registry.has_internal());
    assert!(matches!(
        registry.register("agent", &events),
        Err(ExtensionRefusal::Transition { from: "Registered", to: "Registered", .. })
    ));
    assert!(!registry.all_ready());
    registry.ask_next(id).unwrap();
    assert!(registry.all_ready());
    assert_eq!(registry.take_event(id), Ok(None));
    assert!(registry.is_told_of_shutdown("agent"));
    registry.post(&Event::shutdown(ShutdownReason::Timeout, 9));
    let event = registry.take_event(id).unwrap().unwrap();
    assert_eq!(event.kind, Subscription::Shutdown);
    let told = json!({ "eventType": "SHUTDOWN", "shutdownReason": "timeout", "deadlineMs": 9 });
    assert_eq!(event.body, told);
    assert_eq!(
        registry.statuses()[0].line(),
        "EXTENSION\tName: agent\tState: Running\tEvents: [INVOKE,SHUTDOWN]"
    );
}

#[test]
fn an_extension_sees_what_is_not_the_runtimes_own() {
    let variable = |name: &str| costrel_agent_proto::v1::EnvironmentVariable {
        name: name.into(),
        value: "x".into(),
    };
    let runtime = ["_HANDLER", "PATH", "LAMBDA_TASK_ROOT", "AWS_REGION", "AWS_EXECUTION_ENV"];
    let seen = super::environment(&runtime.map(variable));
    let names: Vec<_> = seen.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(names, ["PATH", "AWS_REGION"]);
}
