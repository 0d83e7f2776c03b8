//! A Rust function on the `lambda_runtime` crate, as `provided.al2023`, without any image.

use costrel_tests::{Costrel, Home, Run, layer_zip, unhurried};
use serde_json::json;

#[test]
fn answers_without_an_image() {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::private();
    let run = Costrel::rust_case(&home, r#"{"case":"hello","name":"Ada"}"#)
        .with(["-e", "COLOUR=green", "--layer", &layer_zip(directory.path()).to_string_lossy()])
        .run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    let payload = run.payload();
    assert_eq!(payload["greeting"], "Hello Ada");
    assert_eq!(payload["layer"], "from a layer");
    assert_eq!(payload["pid1"], "vminitd");
    assert_eq!(payload["environment"]["COLOUR"], "green");
    assert!(payload["environment"]["AWS_EXECUTION_ENV"].is_null(), "provided runtimes have none");
    assert_eq!(payload["request_id"], run.request_id());
    // Nothing was pulled, nothing staged but the agent and the function.
    assert_eq!(
        std::fs::read_dir(home.path().join("cache/costrel/rootfs"))
            .unwrap()
            .filter(|entry| {
                !entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')
            })
            .count(),
        0
    );
    assert_eq!(std::fs::read_dir(home.sandboxes()).unwrap().count(), 0, "its directory is gone");
}

fn failed(event: &str, options: &[&str]) -> Run {
    let run = Costrel::rust_case(&Home::shared(), event).with(options).run();
    assert_eq!(run.code, Some(1), "{run:#?}");
    run
}

#[test]
fn an_error_is_passed_on_as_the_crate_reports_it() {
    let run = failed(r#"{"case":"raise"}"#, &[]);
    assert_eq!(run.payload()["errorMessage"], "no stock left");
}

#[test]
fn ends_are_told_in_awss_words() {
    let exited = |run: &Run, reason: &str| {
        let message = format!("RequestId: {} Error: {reason}", run.request_id());
        assert_eq!(
            run.payload(),
            json!({ "errorType": "Runtime.ExitError", "errorMessage": message })
        );
    };
    exited(&failed(r#"{"case":"exit","code":3}"#, &[]), "Runtime exited with error: exit status 3");
    let run = failed(r#"{"case":"sleep"}"#, &["--timeout", "1"]);
    let message =
        format!("RequestId: {} Error: Task timed out after 1.00 seconds", run.request_id());
    assert_eq!(run.payload(), json!({ "errorType": "Sandbox.Timedout", "errorMessage": message }));
    let run = failed(r#"{"case":"big"}"#, &[]);
    assert_eq!(run.payload()["errorType"], "Function.ResponseSizeTooLarge");
    let run = failed("{}", &["-e", "INIT=exit"]);
    exited(&run, "Runtime exited with error: exit status 3");
    assert_eq!(run.stderr.matches("INIT_REPORT ").count(), 2, "{run:#?}");
}

#[test]
fn a_hundred_thousand_lines_arrive_in_order() {
    let run = Costrel::rust_case(&Home::shared(), r#"{"case":"log"}"#).run();
    assert_eq!(run.code, Some(0));
    let lines = run.stderr.lines().filter(|line| line.starts_with("line "));
    assert!(lines.eq((0..100_000).map(|number| format!("line {number}"))));
}

#[test]
fn an_init_that_takes_too_long_is_cut_off_and_repeated() {
    let run = failed("{}", &["-e", "INIT=sleep", "--timeout", "2"]);
    let reports: Vec<&str> =
        run.stderr.lines().filter(|line| line.starts_with("INIT_REPORT ")).collect();
    assert_eq!(reports.len(), 2, "{run:#?}");
    let took = reports[0].strip_prefix("INIT_REPORT Init Duration: ").unwrap();
    let took: f64 = took.split(' ').next().unwrap().parse().unwrap();
    let late = f64::from(unhurried(250));
    assert!((10_000.0..10_000.0 + late).contains(&took), "{reports:?}");
    assert!(reports[0].ends_with("\tPhase: init\tStatus: timeout"), "{reports:?}");
    assert!(reports[1].ends_with("\tPhase: invoke\tStatus: timeout"), "{reports:?}");
    assert_eq!(run.payload()["errorType"], "Sandbox.Timedout");
}
