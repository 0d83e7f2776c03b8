//! What there is a snapshot of, and what people can do about it.

use std::os::unix::fs::PermissionsExt as _;

use costrel_tests::kernel;

use super::*;

#[test]
fn the_second_cold_start_goes_on_from_the_first() {
    let home = Home::private();
    let first = booted(rust(&home, r#"{"name":"Ada"}"#));
    assert_eq!(first.payload()["greeting"], "Hello Ada");
    let second = restored(rust(&home, r#"{"name":"Grace"}"#).with(["--timings"]));
    assert_eq!(second.payload()["greeting"], "Hello Grace");
    for phase in ["restore", "wake", "resume", "invoke"] {
        let shown = second.stderr.lines().any(|line| line.trim_start().starts_with(phase));
        assert!(shown, "{phase}: {second:#?}");
    }
    let entry = the_snapshot(&home);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&entry), 0o700);
    for file in ["manifest", "state", "memory", "scratch", "verified"] {
        assert_eq!(mode(&entry.join(file)), 0o600, "{file}");
    }

    let listed = answered(Costrel::new(&home, ["snapshot", "ls"])).stdout;
    let id = entry.file_name().unwrap().to_str().unwrap();
    assert!(listed.contains(&id[..12]) && listed.contains("test:$LATEST"), "{listed}");
    let json = answered(Costrel::new(&home, ["snapshot", "ls", "--json"])).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["id"], id);
    for fact in ["backend", "kernel", "agent", "processor", "environment", "machine memory"] {
        assert!(json[0]["facts"][fact].is_string(), "{fact}: {json}");
    }
    let usage = answered(Costrel::new(&home, ["df"])).stdout;
    let line = usage.lines().find(|line| line.starts_with("snapshots")).unwrap();
    assert_eq!(line.split_whitespace().nth(1), Some("1"), "{usage}");

    for refusal in [["--no-snapshot"].as_slice(), &["--kernel", "/nowhere"]] {
        let run = rust(&home, "{}").with(refusal).run();
        assert!(!run.stderr.contains("RESTORE_START"), "{run:#?}");
    }
    booted(rust(&home, "{}").env("COSTREL_SNAPSHOTS", "0"));
    let removed = answered(Costrel::new(&home, ["snapshot", "rm", &id[..8]]));
    assert!(removed.stdout.starts_with(&format!("removed {id}")), "{removed:#?}");
    let none = Costrel::new(&home, ["snapshot", "rm", &id[..8]]).run();
    assert_eq!(none.code, Some(1), "{none:#?}");
    booted(rust(&home, "{}").with(["--no-snapshot"]));
    assert_eq!(snapshots(&home), Vec::<PathBuf>::new());
}

/// A snapshot of something else is never gone on from, whatever it is that differs.
#[test]
fn another_version_has_a_snapshot_of_its_own() {
    let home = Home::private();
    let call = |options: &[&str]| Costrel::rust_case(&home, "{}").with(options).with_snapshots();
    let copy = home.path().join("vmlinux");
    fs::copy(kernel(), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    let variants: [&[&str]; 6] = [
        &["--memory", "128"],
        &["--memory", "192"],
        &["--memory", "128", "-e", "A=1"],
        &["--memory", "128", "--name", "other"],
        &["--memory", "128", "--tmp-size", "600"],
        &["--memory", "128", "--kernel", copy],
    ];
    for (index, options) in variants.into_iter().enumerate() {
        booted(call(options));
        assert_eq!(snapshots(&home).len(), index + 1, "{options:?}");
    }
    // Its time limit is nothing that the machine knows of.
    restored(rust(&home, "{}").with(["--timeout", "77"]));
    restored(rust(&home, "{}").with(["-e", "A=1"]));

    let pruned = answered(Costrel::new(&home, ["snapshot", "prune", "--all"]));
    assert!(pruned.stdout.starts_with("removed 6 snapshots ("), "{pruned:#?}");
    booted(rust(&home, "{}"));
}

#[test]
fn no_more_are_kept_than_there_is_room_for() {
    let home = Home::private();
    let limited = |options: &[&str]| {
        booted(rust(&home, "{}").with(options).env("COSTREL_SNAPSHOTS_LIMIT", "1"))
    };
    limited(&["-e", "A=1"]);
    let first = the_snapshot(&home);
    limited(&["-e", "A=2"]);
    assert_ne!(the_snapshot(&home), first, "the newest stays, and alone");
}

/// A full disk costs the snapshot and nothing else. In a mount namespace of its own.
#[test]
fn without_room_for_a_snapshot_the_function_answers() {
    if !rustix::process::geteuid().is_root() {
        costrel_tests::skipped("a small disk takes a mount, which takes root");
        return;
    }
    let home = Home::private();
    fs::create_dir_all(store(&home)).unwrap();
    let command = rust(&home, r#"{"name":"Ada"}"#).into_command();
    let script = r#"mount -t tmpfs -o size=4m small "$0" && shift 0 && "$@"; status=$?;
        echo "left: $(ls -A "$0/.drafts" | wc -l) drafts" >&2; exit $status"#;
    let mut confined = std::process::Command::new("unshare");
    confined.args(["-m", "sh", "-c", script]).arg(store(&home));
    confined.arg(command.get_program()).args(command.get_args()).env_clear();
    confined.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = confined.output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.contains("Hello Ada"), "{stdout}");
    assert!(stderr.contains("warning: no snapshot is taken of the function: "), "{stderr}");
    assert!(stderr.contains("left: 0 drafts"), "{stderr}");
}
