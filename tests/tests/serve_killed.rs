//! Whatever ends the server, and whenever: what it was told is there after the next start.

use std::fs;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use costrel_tests::{
    Home, Response, Server, layer_zip, processes_below, rust_function, wait_until,
};
use rustix::process::Signal;
use serde_json::{Value, json};

fn serve(home: &Home) -> Server {
    Server::start(home, &["--event-retry-delay", "2"])
}

fn post(server: &Server, path: &str, body: &Value) -> Response {
    server.call("POST", path, &[], body.to_string().as_bytes())
}

fn create(server: &Server, name: &str, more: &Value) {
    let mut function = json!({
        "FunctionName": name,
        "Runtime": "provided.al2023",
        "Handler": "bootstrap",
        "Role": "arn:aws:iam::000000000000:role/lambda",
        "Timeout": 60,
        "Code": { "ZipFile": BASE64.encode(fs::read(rust_function()).unwrap()) },
    });
    function.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let created = post(server, "/2015-03-31/functions", &function);
    assert_eq!(created.status, 201, "{created:?}");
}

/// Publishes the example layer. Returns its version's ARN.
fn publish_layer(server: &Server, home: &Home) -> String {
    let directory = home.path().join("layer");
    fs::create_dir(&directory).unwrap();
    let content = BASE64.encode(fs::read(layer_zip(&directory)).unwrap());
    let layer = json!({ "Content": { "ZipFile": content } });
    let published = post(server, "/2018-10-31/layers/greeting/versions", &layer);
    assert_eq!(published.status, 201, "{published:?}");
    published.json()["LayerVersionArn"].as_str().unwrap().to_owned()
}

/// The names of all functions, page by page.
fn list(server: &Server) -> Vec<String> {
    let (mut names, mut query) = (Vec::new(), String::new());
    loop {
        let path = format!("/2015-03-31/functions{query}");
        let page = server.call("GET", &path, &[], b"").json();
        let functions = page["Functions"].as_array().unwrap();
        names.extend(functions.iter().map(|it| it["FunctionName"].as_str().unwrap().to_owned()));
        let Some(marker) = page["NextMarker"].as_str() else { return names };
        query = format!("?Marker={marker}");
    }
}

fn kill(server: Server) {
    server.signal(Signal::KILL);
    let (status, said) = server.wait();
    assert!(!status.success(), "{said}");
}

#[test]
fn functions_layers_and_events_outlive_a_killed_server() {
    let home = Home::private();
    let server = serve(&home);
    let layer = publish_layer(&server, &home);
    create(&server, "greeter", &json!({ "Layers": [layer] }));
    let sink = home.path().join("sink.jsonl");
    create(&server, "failing", &json!({}));
    let destination = format!("file://{}", sink.display());
    let config = json!({
        "MaximumRetryAttempts": 1,
        "DestinationConfig": { "OnFailure": { "Destination": destination } },
    });
    let path = "/2019-09-25/functions/failing/event-invoke-config";
    let put = server.call("PUT", path, &[], config.to_string().as_bytes());
    assert_eq!(put.status, 200, "{put:?}");
    let version = post(&server, "/2015-03-31/functions/greeter/versions", &json!({}));
    assert_eq!(version.status, 201, "{version:?}");
    let alias = json!({ "Name": "live", "FunctionVersion": "1" });
    let alias = post(&server, "/2015-03-31/functions/greeter/aliases", &alias);
    assert_eq!(alias.status, 201, "{alias:?}");

    // One event waits for its second attempt, another is under way, when the server is killed.
    let event = |name: &str, event: &str| {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        let accepted =
            server.call("POST", &path, &[("X-Amz-Invocation-Type", "Event")], event.as_bytes());
        assert_eq!(accepted.status, 202, "{accepted:?}");
    };
    event("failing", r#"{"case":"raise"}"#);
    wait_until("the first attempt has failed", || server.said().contains("REPORT RequestId"));
    event("greeter", r#"{"case":"sleep","seconds":10}"#);
    wait_until("the other is under way", || server.said().matches("START RequestId").count() >= 2);
    kill(server);
    wait_until("no machine runs on", || processes_below(&home.sandboxes()).is_empty());

    let server = serve(&home);
    assert_eq!(list(&server), ["failing", "greeter"]);
    let answer = server.invoke("greeter:live", r#"{"name":"again"}"#);
    assert_eq!(answer.header("x-amz-executed-version"), Some("1"), "{answer:?}");
    assert_eq!(answer.json()["greeting"], "Hello again");
    assert_eq!(answer.json()["layer"], "from a layer");
    wait_until("the event's failure is delivered", || sink.exists());
    let record: Value = serde_json::from_str(fs::read_to_string(&sink).unwrap().trim()).unwrap();
    assert_eq!(record["requestContext"]["condition"], "RetriesExhausted", "{record}");
    assert_eq!(record["requestPayload"]["case"], "raise", "{record}");
    assert_eq!(record["responseContext"]["functionError"], "Unhandled", "{record}");
    let (status, said) = server.stop();
    assert!(status.success(), "{status}: {said}");
    assert_eq!(processes_below(home.path()), Vec::<u32>::new());
}

#[test]
fn sigkill_at_any_moment_leaves_no_half_of_a_function() {
    let home = Home::private();
    let mut whole = 0;
    for round in 0..8 {
        let server = serve(&home);
        let functions = list(&server);
        assert!(functions.len() >= whole, "round {round}: what was confirmed is gone");
        for name in &functions {
            let got = server.call("GET", &format!("/2015-03-31/functions/{name}"), &[], b"");
            assert_eq!(got.status, 200, "{got:?}");
            let code = got.json()["Code"]["Location"].as_str().unwrap().to_owned();
            let path = code.split_once("://").unwrap().1;
            let path = &path[path.find('/').unwrap()..];
            let zip = server.call("GET", path, &[], b"");
            assert_eq!(zip.body, fs::read(rust_function()).unwrap(), "{name}'s code");
        }
        // Create without a pause, and kill it somewhere in between.
        whole = functions.len();
        std::thread::scope(|scope| {
            let creating = scope.spawn(|| {
                let code = BASE64.encode(fs::read(rust_function()).unwrap());
                let mut confirmed = 0;
                for number in 0..1000 {
                    let function = json!({
                        "FunctionName": format!("f{round}-{number}"),
                        "Runtime": "provided.al2023",
                        "Handler": "bootstrap",
                        "Role": "arn:aws:iam::000000000000:role/lambda",
                        "Code": { "ZipFile": code },
                    });
                    let body = function.to_string();
                    match server.try_call("POST", "/2015-03-31/functions", &[], body.as_bytes()) {
                        Ok(created) if created.status == 201 => confirmed += 1,
                        _ => break,
                    }
                }
                confirmed
            });
            std::thread::sleep(std::time::Duration::from_millis(300 + 37 * round));
            server.signal(Signal::KILL);
            whole += creating.join().unwrap();
        });
        let _ = server.wait();
    }
    assert!(whole > 8, "only {whole} functions were created: the kills came too early");
}
