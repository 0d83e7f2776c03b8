//! SnapStart's hooks, with AWS's own runtime client and its `snapshot_restore_py`.

use super::*;

fn snap_start(home: &Home, hooks: &str) -> Run {
    python(home, "hooks.handler", "{}")
        .with(["--snap-start", "-e", &format!("HOOKS={hooks}")])
        .run()
}

fn payload_of(run: &Run) -> serde_json::Value {
    assert_eq!(run.code, Some(1), "{run:#?}");
    run.payload()
}

#[test]
fn run_once_before_the_snapshot_and_once_in_each_clone() {
    let home = Home::private();
    let credentials = |call: Costrel| {
        let key = ["-e", "AWS_ACCESS_KEY_ID=AKIA", "-e", "AWS_SECRET_ACCESS_KEY=secret"];
        call.with(["--snap-start"]).with(key)
    };
    let call = || credentials(python(&home, "hooks.handler", "{}"));
    for run in [booted(call()), restored(call()), restored(call())] {
        let payload = run.payload();
        assert_eq!(payload["calls"], serde_json::json!(["before", "after"]), "{run:#?}");
        let environment = &payload["environment"];
        assert_eq!(environment["AWS_LAMBDA_INITIALIZATION_TYPE"], "snap-start");
        assert_eq!(environment["AWS_LAMBDA_LOG_STREAM_NAME"], serde_json::Value::Null);
        assert_eq!(environment["AWS_ACCESS_KEY_ID"], serde_json::Value::Null);
        assert_eq!(payload["credentials"]["AccessKeyId"], "AKIA", "{run:#?}");
        assert_eq!(payload["credentials"]["SecretAccessKey"], "secret", "{run:#?}");
    }
    // The function's machine memory is in the file, its credentials never were in the machine's.
    let memory = content(&the_snapshot(&home)).swap_remove(2);
    assert!(!memory.windows(9).any(|bytes| bytes == b"\"secret\"\n"));
}

#[test]
fn one_that_fails_before_the_snapshot_is_an_init_error() {
    let home = Home::private();
    let run = snap_start(&home, "fail-before");
    assert_eq!(payload_of(&run)["errorMessage"], "the hook before the snapshot failed as asked");
    assert!(run.report().ends_with("Status: error\tError Type: Runtime.BeforeSnapshotError"));
    assert!(
        run.stderr.contains("Phase: init\tStatus: error\tError Type: Runtime.BeforeSnapshotError")
    );
    assert_eq!(snapshots(&home), Vec::<PathBuf>::new());
}

#[test]
fn one_that_fails_after_the_restore_fails_the_invocation() {
    let home = Home::private();
    for restored in [false, true] {
        let run = snap_start(&home, "fail-after");
        let payload = payload_of(&run);
        assert_eq!(payload["errorMessage"], "the hook after the restore failed as asked");
        assert!(run.report().ends_with("Status: error\tError Type: Runtime.AfterRestoreError"));
        let said = run.stderr.lines().any(|line| {
            line.starts_with("RESTORE_REPORT Restore Duration: ")
                && line.ends_with("Status: error\tError Type: Runtime.AfterRestoreError")
        });
        assert_eq!(said, restored, "{run:#?}");
    }
}

#[test]
fn one_that_hangs_is_given_up_as_on_aws() {
    let home = Home::private();
    let run = snap_start(&home, "hang-after");
    assert_eq!(payload_of(&run)["errorType"], "SnapStartTimeoutException");
    assert!(run.report().ends_with("Status: timeout"), "{run:#?}");
}

#[test]
fn snapshots_must_not_be_turned_off_with_it() {
    let home = Home::private();
    let call = || python(&home, "hooks.handler", "{}").with(["--snap-start"]);
    for call in [call().with(["--no-snapshot"]), call().env("COSTREL_SNAPSHOTS", "0")] {
        let run = call.run();
        assert_eq!((run.code, &*run.stdout), (Some(2), ""), "{run:#?}");
    }
}
