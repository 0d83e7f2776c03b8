//! A Python function on AWS's own runtime client: every way in which it can end.

use costrel_tests::{Costrel, Home, layer_zip};
use serde_json::json;

#[test]
fn answers_from_its_own_machine() {
    let directory = tempfile::tempdir().unwrap();
    let run =
        Costrel::python(&Home::shared(), "python-function", "app.handler", r#"{"name":"Ada"}"#)
            .with(["--layer", &layer_zip(directory.path()).to_string_lossy()])
            .run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    let payload = run.payload();
    assert_eq!(payload["greeting"], "Hello Ada, greetings from a layer");
    assert_eq!(payload["vm"]["pid1"], "vminitd");
    assert_eq!((&payload["vm"]["uid"], &payload["vm"]["gid"]), (&json!(993), &json!(990)));
    assert_eq!(payload["vm"]["cwd"], "/var/task");
    assert_eq!(payload["request_id"], run.request_id());
    assert!(
        payload["layers"].as_array().unwrap().contains(&json!("/opt/greeting.txt")),
        "{payload}"
    );

    let lines: Vec<&str> = run.stderr.lines().collect();
    let at = |line: &str| {
        lines
            .iter()
            .position(|found| *found == line)
            .unwrap_or_else(|| panic!("{line}: {lines:#?}"))
    };
    let id = run.request_id();
    let start = at(&format!("START RequestId: {id} Version: $LATEST"));
    let said = at("hello from inside the VM");
    let end = at(&format!("END RequestId: {id}"));
    assert!(start < said && said < end, "{lines:#?}");
    assert!(
        lines[end + 1].starts_with(&format!("REPORT RequestId: {id}\tDuration: ")),
        "{lines:#?}"
    );
    assert!(lines.iter().any(|line| line.starts_with("INIT_START Runtime Version: python3.11\tRuntime Version ARN: arn:aws:lambda:us-east-1::runtime:")));
    let report: Vec<&str> = run.report().split('\t').collect();
    assert_eq!(report[2], "Memory Size: 1536 MB");
    assert!(report[4].starts_with("Init Duration: "), "{report:?}");
    assert_eq!(report.last(), Some(&""), "{report:?}");
}

#[test]
fn an_error_is_passed_on_as_the_client_reports_it() {
    let run = Costrel::python_case(&Home::shared(), "cases.raises", "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    let payload = run.payload();
    assert_eq!(payload["errorType"], "OrderRejected");
    assert_eq!(payload["errorMessage"], "no stock left");
    assert!(payload["stackTrace"][0].as_str().unwrap().contains("cases.py"), "{payload}");
    assert!(run.stderr.contains("[ERROR] OrderRejected: no stock left"), "{run:#?}");
    assert!(!run.stderr.contains('\r'), "{run:#?}");
    assert!(!run.report().contains("Status:"), "{run:#?}");
}

fn exit_message(run: &costrel_tests::Run, reason: &str) {
    assert_eq!(run.code, Some(1), "{run:#?}");
    let message = format!("RequestId: {} Error: {reason}", run.request_id());
    assert_eq!(run.payload(), json!({ "errorType": "Runtime.ExitError", "errorMessage": message }));
    assert_eq!(
        run.stdout,
        format!("\n{{\"errorType\":\"Runtime.ExitError\",\"errorMessage\":\"{message}\"}}\n"),
        "AWS's order of fields"
    );
}

#[test]
fn an_exit_is_an_exit_error() {
    let run = Costrel::python_case(&Home::shared(), "cases.exits_at_once", r#"{"code":3}"#).run();
    exit_message(&run, "Runtime exited with error: exit status 3");
    assert!(run.report().ends_with("\tStatus: error\tError Type: Runtime.ExitError"), "{run:#?}");
    let run = Costrel::python_case(&Home::shared(), "cases.exits_cleanly", "{}").run();
    exit_message(&run, "Runtime exited without providing a reason");
    let run = Costrel::python_case(&Home::shared(), "cases.killed", "{}").run();
    exit_message(&run, "Runtime exited with error: signal: killed");
}

#[test]
fn what_is_printed_before_an_exit_is_not_lost() {
    let run =
        Costrel::python_case(&Home::shared(), "cases.logs_then_exits", r#"{"lines":3000}"#).run();
    exit_message(&run, "Runtime exited with error: exit status 3");
    let expected = (0..3000).map(|number| format!("last line {number}"));
    assert!(run.stderr.lines().filter(|line| line.starts_with("last line ")).eq(expected));
}

#[test]
fn a_timeout_ends_the_task() {
    let home = Home::shared();
    for handler in ["cases.sleeps", "cases.spins"] {
        let run = Costrel::python_case(&home, handler, "{}").with(["--timeout", "2"]).run();
        assert_eq!(run.code, Some(1), "{run:#?}");
        let message =
            format!("RequestId: {} Error: Task timed out after 2.00 seconds", run.request_id());
        assert_eq!(
            run.payload(),
            json!({ "errorType": "Sandbox.Timedout", "errorMessage": message })
        );
        assert!(
            run.stderr
                .contains(&format!("Z {} Task timed out after 2.00 seconds", run.request_id())),
            "{run:#?}"
        );
        assert!(
            run.report().starts_with("Duration: 2000.00 ms\tBilled Duration: 2000 ms\t"),
            "{run:#?}"
        );
        assert!(run.report().ends_with("\tStatus: timeout"), "{run:#?}");
    }
}

#[test]
fn a_response_of_7_mb_is_refused_and_one_of_6_mib_is_not() {
    let run = Costrel::python_case(&Home::shared(), "cases.returns_7_mb", "{}").run();
    assert_eq!(run.code, Some(1));
    assert_eq!(
        run.stdout,
        "\n{\"errorType\":\"Function.ResponseSizeTooLarge\",\"errorMessage\":\"Response payload size exceeded maximum allowed payload size (6291556 bytes).\"}\n"
    );
    let run = Costrel::python_case(&Home::shared(), "cases.returns_6_mb", "{}").run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.stdout.len(), 6_291_556 + 2);
}

#[test]
fn a_hundred_thousand_lines_arrive_in_order() {
    let run = Costrel::python_case(&Home::shared(), "cases.logs", "{}").run();
    assert_eq!(run.code, Some(0));
    // The two streams are apart in the guest: they may meet in the middle of a line here.
    let count = |prefix: &str| run.stderr.matches(prefix).count();
    assert_eq!(count("error line "), 10_000);
    assert_eq!(count("line "), 110_000);
    let last = run.stderr.rfind("line 99999\n").expect("the last line");
    assert!(last < run.stderr.find("END RequestId").unwrap(), "END comes last");
}

#[test]
fn a_failing_import_is_tried_twice_and_told_verbatim() {
    let run = Costrel::python_case(&Home::shared(), "broken_import.handler", "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    let payload = run.payload();
    assert_eq!(payload["errorType"], "Runtime.ImportModuleError");
    assert!(
        payload["errorMessage"]
            .as_str()
            .unwrap()
            .contains("No module named 'a_module_that_nobody_has'")
    );
    let reports: Vec<&str> =
        run.stderr.lines().filter(|line| line.starts_with("INIT_REPORT ")).collect();
    assert_eq!(reports.len(), 2, "{run:#?}");
    assert!(
        reports[0].ends_with("\tPhase: init\tStatus: error\tError Type: Runtime.Unknown")
            || reports[0].contains("\tPhase: init\tStatus: error"),
        "{reports:?}"
    );
    assert!(reports[1].contains("\tPhase: invoke\tStatus: error"), "{reports:?}");
    assert!(!run.report().contains("Init Duration"), "{run:#?}");
}

#[test]
fn a_handler_that_is_not_there_is_named() {
    let run = Costrel::python_case(&Home::shared(), "cases.nothing", "{}").run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert_eq!(run.payload()["errorType"], "Runtime.HandlerNotFound");
}

#[test]
fn an_exit_while_it_initialises_is_an_exit_error() {
    let run = Costrel::python_case(&Home::shared(), "broken_init.handler", "{}")
        .with(["-e", "INIT=exit"])
        .run();
    exit_message(&run, "Runtime exited with error: exit status 3");
    assert!(
        run.stderr.contains("\tPhase: init\tStatus: error\tError Type: Runtime.ExitError"),
        "{run:#?}"
    );
}

#[test]
fn only_tmp_can_be_written() {
    let run = Costrel::python_case(&Home::shared(), "cases.writes", "{}")
        .with(["--tmp-size", "600"])
        .run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    let payload = run.payload();
    for path in ["/", "/var/task", "/opt", "/var/runtime", "/etc", "/usr"] {
        assert!(
            ["EROFS", "EACCES"].contains(&payload[path].as_str().unwrap_or_default()),
            "{path}: {payload}"
        );
    }
    assert_eq!(payload["script"], 42, "/tmp takes programs");
    let size = payload["tmp_mib"].as_u64().unwrap();
    assert!((500..=600).contains(&size), "{payload}");
}

#[test]
fn a_function_that_runs_out_of_memory_is_killed() {
    let run = Costrel::python_case(&Home::shared(), "cases.allocates", "{}")
        .with(["--memory", "128"])
        .run();
    exit_message(&run, "Runtime exited with error: signal: killed");
    assert!(run.report().contains("Max Memory Used: 128 MB\t"), "{run:#?}");
    let run = Costrel::python_case(&Home::shared(), "cases.allocates", r#"{"mib":64}"#)
        .with(["--memory", "128"])
        .run();
    assert_eq!(run.code, Some(0), "{run:#?}");
}

#[test]
fn the_environment_is_lambdas() {
    let run = Costrel::python_case(&Home::shared(), "cases.environment", "{}")
        .with([
            "-e",
            "MINE=yes",
            "-e",
            "AWS_REGION=eu-west-1",
            "-e",
            "FROM_OUTSIDE",
            "-e",
            "UNSET",
            "--memory",
            "256",
        ])
        .env("FROM_OUTSIDE", "outside")
        .run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    let payload = run.payload();
    let environment = &payload["environment"];
    for (name, value) in [
        ("MINE", "yes"),
        ("FROM_OUTSIDE", "outside"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_python3.11"),
        ("AWS_LAMBDA_FUNCTION_NAME", "test"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/test"),
        ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"),
        ("LAMBDA_TASK_ROOT", "/var/task"),
        ("LAMBDA_RUNTIME_DIR", "/var/runtime"),
        ("TZ", ":UTC"),
        ("_HANDLER", "cases.environment"),
    ] {
        assert_eq!(environment[name], value, "{name}");
    }
    for name in ["UNSET", "AWS_LAMBDA_MAX_CONCURRENCY", "AWS_ACCESS_KEY_ID", "XDG_CACHE_HOME"] {
        assert!(environment[name].is_null(), "{name}");
    }
    assert_eq!((&payload["uid"], &payload["groups"]), (&json!(993), &json!([990])));
}

#[test]
fn orphans_are_reaped() {
    let run = Costrel::python_case(&Home::shared(), "cases.forks", "{}").run();
    assert_eq!(run.payload(), json!({ "zombies": 0 }), "{run:#?}");
}

#[test]
fn the_event_comes_from_file_and_standard_input() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("event.json");
    std::fs::write(&file, "{\n  \"from\": \"file\"\n}\n").unwrap();
    let run =
        Costrel::python_case(&Home::shared(), "cases.echo", &format!("@{}", file.display())).run();
    assert_eq!(run.payload()["event"], json!({ "from": "file" }), "{run:#?}");
    let run =
        Costrel::python_case(&Home::shared(), "cases.echo", "-").input(r#"{"from":"stdin"}"#).run();
    assert_eq!(run.payload()["event"], json!({ "from": "stdin" }), "{run:#?}");
}
