//! Whatever kills the command, and whenever: no machine runs on, and the next start finds no mess.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use costrel_tests::{Costrel, Home, processes_below, wait_until};
use rustix::process::{Pid, Signal, kill_process};

fn start(home: &Home, event: &str) -> Child {
    let mut command = Costrel::rust_case(home, event).into_command();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The monitors' process ids, as the sandboxes' records have them.
fn monitors(home: &Home) -> Vec<i32> {
    let records = fs::read_dir(home.sandboxes()).into_iter().flatten().flatten();
    records
        .filter_map(|sandbox| fs::read_to_string(sandbox.path().join("monitor.pid")).ok())
        .filter_map(|record| record.split_whitespace().next()?.parse().ok())
        .collect()
}

fn is_alive(pid: i32) -> bool {
    // A zombie has no command line: it is dead to the world.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn sandboxes(home: &Home) -> usize {
    fs::read_dir(home.sandboxes()).map_or(0, Iterator::count)
}

fn drafts(root: &Path) -> usize {
    let stores = ["cache/costrel/rootfs", "cache/costrel/functions", "cache/costrel/init"];
    stores
        .iter()
        .filter_map(|store| fs::read_dir(root.join(store).join(".drafts")).ok())
        .map(Iterator::count)
        .sum()
}

#[test]
fn sigkill_takes_the_machine_along_and_the_next_start_sweeps() {
    let home = Home::private();
    let mut child = start(&home, r#"{"case":"sleep"}"#);
    wait_until("a machine runs", || !monitors(&home).is_empty());
    let monitors = monitors(&home);
    send(&child, Signal::KILL);
    child.wait().unwrap();
    wait_until("the monitor is gone", || !monitors.iter().copied().any(is_alive));
    assert_eq!(sandboxes(&home), 1, "what a killed process leaves is there until the next start");
    let run = Costrel::rust_case(&home, r#"{"case":"hello"}"#).run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(sandboxes(&home), 0);
    assert_eq!(processes_below(home.path()), Vec::<u32>::new());
}

#[test]
fn ctrl_c_leaves_nothing() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let home = Home::private();
        let mut child = start(&home, r#"{"case":"sleep"}"#);
        wait_until("a machine runs", || !monitors(&home).is_empty());
        let monitors = monitors(&home);
        send(&child, signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(!monitors.iter().copied().any(is_alive));
        assert_eq!((sandboxes(&home), drafts(home.path())), (0, 0));
        assert_eq!(processes_below(home.path()), Vec::<u32>::new());
    }
}

/// At moments spread over a run, staging included: the image is staged anew each time.
#[test]
fn sigkill_at_any_moment() {
    let rounds = if std::env::var_os("COSTREL_LONG_TESTS").is_some() { 60 } else { 8 };
    for round in 0..rounds {
        let home = Home::private();
        let mut command = Costrel::python_case(&home, "cases.echo", "{}").into_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(3000 * round / rounds));
        let monitors = monitors(&home);
        send(&child, Signal::KILL);
        child.wait().unwrap();
        wait_until("the monitor is gone", || !monitors.iter().copied().any(is_alive));
        wait_until("nothing runs on", || processes_below(home.path()).is_empty());
        assert_eq!(drafts(home.path()), 0, "a draft has no name until it is complete");
        let run = Costrel::python_case(&home, "cases.echo", r#"{"a":1}"#).run();
        assert_eq!(run.code, Some(0), "after {round}: {run:#?}");
        assert_eq!(sandboxes(&home), 0);
    }
}
