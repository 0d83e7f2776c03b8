//! A Node.js function on AWS's own runtime client, which speaks to the Runtime API by a compiled
//! addon, and is the only one that answers in pieces.

use costrel_tests::{Costrel, Home, example, node_image};

fn node(home: &Home, handler: &str, event: &str) -> Costrel {
    let image = format!("oci:{}", node_image().display());
    let code = example("node-cases");
    let code = code.to_string_lossy();
    let function =
        ["--runtime", "nodejs22.x", "--image", &image, "--code", &code, "--handler", handler];
    Costrel::new(home, ["invoke"].iter().chain(&function).chain(&["--", event]))
}

#[test]
fn answers_from_a_booted_and_from_a_restored_machine() {
    let home = Home::private();
    let runs = ["boot", "restore"]
        .map(|name| node(&home, "cases.echo", &format!(r#"{{"name":"{name}"}}"#)).with_snapshots())
        .map(Costrel::run);
    for (run, name) in runs.iter().zip(["boot", "restore"]) {
        assert_eq!(run.code, Some(0), "{run:#?}");
        let payload = run.payload();
        assert_eq!(payload["event"]["name"], name);
        assert_eq!(payload["invocations"], 1);
        assert_eq!(payload["requestId"], run.request_id());
        assert_eq!(payload["memory"], "1536");
        assert!(payload["node"].as_str().unwrap().starts_with("v22."), "{payload}");
        let said = format!("\t{}\tINFO\thello from Node.js", run.request_id());
        assert!(run.stderr.contains(&said), "{run:#?}");
    }
    assert!(runs[0].report().contains("Init Duration: "), "{runs:#?}");
    assert!(runs[1].report().contains("Restore Duration: "), "{runs:#?}");
}

#[test]
fn its_failures_are_told_as_it_reports_them() {
    let home = Home::shared();
    let run = node(&home, "cases.raises", "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    let payload = run.payload();
    assert_eq!(payload["errorType"], "RangeError");
    assert_eq!(payload["errorMessage"], "no stock left");
    assert!(payload["trace"][1].as_str().unwrap().contains("/var/task/cases.js"), "{payload}");
    assert!(!run.report().contains("Status:"), "{run:#?}");

    let run = node(&home, "cases.exits", "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    let reason = run.payload()["errorMessage"].as_str().unwrap().to_owned();
    assert!(reason.ends_with("Runtime exited with error: exit status 3"), "{reason}");

    let run = node(&home, "cases.returns7Mb", "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert_eq!(run.payload()["errorType"], "Function.ResponseSizeTooLarge");
}

#[test]
fn an_answer_in_pieces_is_put_together_for_who_wants_it_whole() {
    let home = Home::shared();
    let run = node(&home, "cases.streams", "{}").run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    // The metadata of an HTTP response, eight zeros, and the body.
    let (prelude, body) = run.stdout.trim_end().split_once("\0\0\0\0\0\0\0\0").unwrap();
    let prelude: serde_json::Value = serde_json::from_str(prelude).unwrap();
    assert_eq!(prelude["statusCode"], 201);
    assert_eq!(prelude["cookies"][0], "a=1");
    assert_eq!(body, "one two three");

    let run = node(&home, "cases.failsMidway", "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert_eq!(run.payload()["errorMessage"], "no stock left midway");
}
