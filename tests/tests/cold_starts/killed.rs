//! SIGKILL while a snapshot is taken, and while a machine is restored from it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use costrel_tests::{processes_below, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// A moment that can be seen from outside.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// The snapshot is begun: the machine is about to stand still.
    Begun,
    /// Its state or its memory are being written.
    Written,
    /// It is there. The machine of its taker still runs.
    Published,
    /// A sandbox is made for a machine that goes on from it.
    Restoring,
    /// Its monitor runs.
    Recorded,
    /// Its guest runs.
    Running,
    /// The function has its event.
    Invoked,
}

impl Moment {
    const TAKING: [Self; 3] = [Self::Begun, Self::Written, Self::Published];
    const RESTORING: [Self; 4] = [Self::Restoring, Self::Recorded, Self::Running, Self::Invoked];

    fn has_come(self, home: &Home) -> bool {
        let entries = |path: PathBuf| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let any_draft = |has: &dyn Fn(&Path) -> bool| {
            entries(store(home).join(".drafts")).iter().any(|draft| has(draft))
        };
        let any_sandbox = |file: &str| {
            entries(home.sandboxes()).iter().any(|sandbox| {
                let name = sandbox.file_name().unwrap_or_default();
                !name.as_encoded_bytes().starts_with(b".") && sandbox.join(file).exists()
            })
        };
        let has_bytes = |path: PathBuf| fs::metadata(path).is_ok_and(|file| file.len() > 0);
        match self {
            Self::Begun => any_draft(&|_| true),
            Self::Written => any_draft(&|draft| has_bytes(draft.join("memory"))),
            Self::Published => !snapshots(home).is_empty(),
            Self::Restoring => any_sandbox("lock"),
            Self::Recorded => any_sandbox("monitor.pid"),
            Self::Running => any_sandbox("sandbox.json"),
            Self::Invoked => false,
        }
    }
}

/// Starts a call, and kills it when the moment has come, or at the latest after a second where it
/// cannot be seen. False if it had ended before.
fn kill_at(home: &Home, moment: Moment) -> bool {
    let mut command = rust(home, r#"{"case":"sleep","seconds":5}"#).into_command();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    let latest = match moment {
        Moment::Invoked => Duration::from_secs(1),
        _ => Duration::from_secs(60),
    };
    while !moment.has_come(home) && began.elapsed() < latest {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    wait_until("nothing runs on", || processes_below(home.path()).is_empty());
    true
}

/// After any of it the function answers, nothing is left, and what is there can be used.
fn goes_on(home: &Home, moment: Moment) {
    let run = answered(rust(home, r#"{"name":"Ada"}"#));
    assert_eq!(run.payload()["greeting"], "Hello Ada", "{moment:?}");
    assert!(!run.stderr.contains("warning: "), "{moment:?}: {run:#?}");
    restored(rust(home, "{}"));
    assert_eq!(drafts(home), 0, "{moment:?}");
    assert_eq!(fs::read_dir(home.sandboxes()).unwrap().count(), 0, "{moment:?}");
}

/// A moment may be so short that it is missed on a busy machine.
const ATTEMPTS: usize = 5;

#[test]
fn while_a_snapshot_is_taken() {
    let home = Home::private();
    for moment in Moment::TAKING {
        let caught = (0..ATTEMPTS).any(|_| {
            for snapshot in snapshots(&home) {
                fs::remove_dir_all(snapshot).unwrap();
            }
            kill_at(&home, moment)
        });
        assert!(caught, "it is never {moment:?}");
        goes_on(&home, moment);
    }
}

#[test]
fn while_a_machine_is_restored() {
    let home = Home::private();
    booted(rust(&home, "{}"));
    for moment in Moment::RESTORING {
        let caught = (0..ATTEMPTS).any(|_| kill_at(&home, moment));
        assert!(caught, "it is never {moment:?}");
        goes_on(&home, moment);
    }
}
