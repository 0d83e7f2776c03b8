//! Functions from snapshots, as people run them: the first cold start of a version takes one, the
//! later ones go on from it, and each instance is its own.

mod clones;
mod damage;
mod hooks;
mod killed;
mod versions;

use std::{
    fs,
    path::{Path, PathBuf},
};

use costrel_tests::{Costrel, Home, Run};

/// A call of the Rust function that takes and uses snapshots.
fn rust(home: &Home, event: &str) -> Costrel {
    Costrel::rust_case(home, event).with(["--memory", "128"]).with_snapshots()
}

/// As [`rust`], for a Python handler.
fn python(home: &Home, handler: &str, event: &str) -> Costrel {
    Costrel::python_case(home, handler, event).with(["--memory", "128"]).with_snapshots()
}

fn answered(call: Costrel) -> Run {
    let run = call.run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    run
}

/// Runs it, and checks that it was booted.
fn booted(call: Costrel) -> Run {
    let run = answered(call);
    assert!(!run.stderr.contains("RESTORE_START"), "{run:#?}");
    assert!(run.report().contains("\tInit Duration: "), "{run:#?}");
    run
}

/// Runs it, and checks that it went on from a snapshot.
fn restored(call: Costrel) -> Run {
    let run = answered(call);
    assert!(!run.stderr.contains("warning: "), "{run:#?}");
    assert!(run.stderr.contains("RESTORE_REPORT Restore Duration: "), "{run:#?}");
    assert!(!run.report().contains("Init Duration"), "{run:#?}");
    assert!(run.report().contains("\tBilled Restore Duration: "), "{run:#?}");
    run
}

fn store(home: &Home) -> PathBuf {
    home.path().join("cache/costrel/snapshots")
}

/// The directories of the complete snapshots.
fn snapshots(home: &Home) -> Vec<PathBuf> {
    let listing = fs::read_dir(store(home)).into_iter().flatten().flatten();
    let complete = listing.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    complete.map(|entry| entry.path()).collect()
}

fn the_snapshot(home: &Home) -> PathBuf {
    let mut all = snapshots(home);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// What killed processes have left of snapshots.
fn drafts(home: &Home) -> usize {
    fs::read_dir(store(home).join(".drafts")).map_or(0, Iterator::count)
}

fn content(snapshot: &Path) -> Vec<Vec<u8>> {
    ["manifest", "state", "memory", "scratch"]
        .map(|file| fs::read(snapshot.join(file)).unwrap())
        .into()
}

fn is_long() -> bool {
    std::env::var_os("COSTREL_LONG_TESTS").is_some()
}
