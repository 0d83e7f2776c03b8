//! Whatever kills the command, and whenever: no machine runs on, and the next start finds no mess.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use costrel_tests::{Costrel, Home, processes_below, unhurried, wait_until};
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
    // Each stages the image twice: where that is slow, fewer will do, for every step has its turn below.
    let few = u64::from(8 / unhurried(1).clamp(1, 4));
    let rounds = if std::env::var_os("COSTREL_LONG_TESTS").is_some() { 60 } else { few };
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

/// A moment in a machine's life that can be seen from outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// The socket that reaches the guest is there; the monitor may not be yet.
    Listening,
    /// The monitor was started, and is on record. It enters its jail, or builds the machine.
    Recorded,
    /// The guest runs: its kernel boots, the agent connects and prepares, the runtime starts.
    Described,
    /// The function has its event.
    Invoked,
    /// The function has answered: the machine is stopped.
    Answered,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Monitor,
    Owner,
    MonitorThenOwner,
    OwnerThenMonitor,
}

/// One call of the command, and what it says as it says it.
struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    home: PathBuf,
    sandboxes: PathBuf,
}

impl Running {
    fn start(home: &Home, event: &str) -> Self {
        let temporary = home.path().join("tmp");
        fs::create_dir_all(&temporary).unwrap();
        let mut command = Costrel::rust_case(home, event).env("TMPDIR", temporary).into_command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let (home, sandboxes) = (home.path().to_owned(), home.sandboxes());
        Self { child, lines, said: Vec::new(), home, sandboxes }
    }

    /// The sandbox's directory, once it has one. One that an earlier call left is swept before.
    fn sandbox(&self, earlier: &BTreeSet<PathBuf>) -> Option<PathBuf> {
        let all = fs::read_dir(&self.sandboxes).into_iter().flatten().flatten();
        all.map(|entry| entry.path()).find(|path| {
            let is_draft = path.file_name().unwrap().as_encoded_bytes().starts_with(b".");
            !is_draft && !earlier.contains(path)
        })
    }

    fn has_said(&mut self, prefix: &str) -> bool {
        self.said.extend(self.lines.try_iter());
        self.said.iter().any(|line| line.starts_with(prefix))
    }

    fn has_come_to(&mut self, moment: Moment, sandbox: Option<&Path>) -> bool {
        let has = |name: &str| sandbox.is_some_and(|directory| directory.join(name).exists());
        let is_socket = |entry: fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_socket());
        match moment {
            Moment::Listening => sandbox.is_some_and(|directory| {
                fs::read_dir(directory).into_iter().flatten().flatten().any(is_socket)
            }),
            Moment::Recorded => has("monitor.pid"),
            Moment::Described => has("sandbox.json"),
            Moment::Invoked => self.has_said("START RequestId: "),
            Moment::Answered => self.has_said("END RequestId: "),
        }
    }

    /// Spins until the moment has come, and returns the sandbox's directory.
    fn come_to(&mut self, moment: Moment, earlier: &BTreeSet<PathBuf>) -> PathBuf {
        let began = Instant::now();
        let mut sandbox = None;
        loop {
            sandbox = sandbox.or_else(|| self.sandbox(earlier));
            if self.has_come_to(moment, sandbox.as_deref()) {
                return sandbox.expect("a sandbox");
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended before it was {moment:?}: {:#?}", self.said);
            assert!(began.elapsed() < Duration::from_secs(60), "it is never {moment:?}");
            thread::sleep(Duration::from_micros(300));
        }
    }

    /// The command's end: its exit code, and what it printed.
    fn end(mut self) -> (Option<i32>, String, Vec<String>) {
        let began = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "it goes on: {:#?}", self.said);
            thread::sleep(Duration::from_millis(5));
        }
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.said.extend(self.lines.iter());
        wait_until("nothing runs on", || processes_below(&self.home).is_empty());
        (self.child.wait().unwrap().code(), stdout, self.said)
    }
}

fn kill_if_there(pid: Option<i32>) {
    if let Some(pid) = pid.and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// The monitor's process, waited for: its machine's directory comes first.
fn monitor_of(sandbox: &Path, child: &mut Child) -> Option<i32> {
    loop {
        if let Ok(record) = fs::read_to_string(sandbox.join("monitor.pid")) {
            return record.split_whitespace().next()?.parse().ok();
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
    }
}

/// Control groups below `directory` that are named for one of the sandboxes.
fn groups_of(sandboxes: &BTreeSet<PathBuf>, directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.fold(Vec::new(), |mut found, entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let of = |path: &PathBuf| {
            let id = path.file_name().unwrap_or_default().to_string_lossy();
            name.strip_prefix("costrel-") == Some(&*id)
        };
        if sandboxes.iter().any(of) {
            found.push(entry.path());
        }
        found.extend(groups_of(sandboxes, &entry.path()));
        found
    })
}

fn kill_at(home: &Home, moment: Moment, victim: Victim, earlier: &mut BTreeSet<PathBuf>) {
    let what = format!("{victim:?} at {moment:?}");
    let event = match moment {
        Moment::Answered => r#"{"case":"hello"}"#,
        _ => r#"{"case":"sleep"}"#,
    };
    let mut running = Running::start(home, event);
    let sandbox = running.come_to(moment, earlier);
    // What was killed before is swept by now.
    assert!(earlier.iter().all(|path| !path.exists()), "{what}: {earlier:?}");
    earlier.insert(sandbox.clone());
    match victim {
        Victim::Monitor => kill_if_there(monitor_of(&sandbox, &mut running.child)),
        Victim::Owner => send(&running.child, Signal::KILL),
        Victim::MonitorThenOwner => {
            kill_if_there(monitor_of(&sandbox, &mut running.child));
            send(&running.child, Signal::KILL);
        }
        Victim::OwnerThenMonitor => {
            let monitor = fs::read_to_string(sandbox.join("monitor.pid")).ok();
            send(&running.child, Signal::KILL);
            kill_if_there(monitor.and_then(|record| record.split(' ').next()?.parse().ok()));
        }
    }
    let (code, stdout, said) = running.end();
    if victim != Victim::Monitor {
        assert_eq!(code, None, "{what}: {said:#?}");
        return;
    }
    // Its caller has gone on, and says what happened, once.
    let errors: Vec<&String> = said.iter().filter(|line| line.starts_with("error: ")).collect();
    if moment == Moment::Answered && code == Some(0) {
        assert_eq!(errors, Vec::<&String>::new(), "{what}");
        assert!(stdout.contains("Hello"), "{what}: {stdout}");
    } else {
        assert_eq!((code, errors.len(), &*stdout), (Some(1), 1, ""), "{what}: {said:#?}");
        // With its causes, each told once.
        let at = said.iter().position(|line| line.starts_with("error: ")).unwrap();
        let told = said[at..].join("\n");
        assert!(told.contains("the virtual machine monitor "), "{what}: {told}");
        assert_eq!(told.matches("signal: 9").count(), 1, "{what}: {told}");
    }
    assert!(!sandbox.exists(), "{what}: it has removed its directory");
}

#[test]
fn sigkill_at_every_step() {
    use {Moment::*, Victim::*};
    let rounds = if std::env::var_os("COSTREL_LONG_TESTS").is_some() { 10 } else { 1 };
    let home = Home::private();
    let mut killed = BTreeSet::new();
    let others = [Owner, MonitorThenOwner, OwnerThenMonitor];
    for round in 0..rounds {
        for (index, moment) in
            [Listening, Recorded, Described, Invoked, Answered].into_iter().enumerate()
        {
            kill_at(&home, moment, Monitor, &mut killed);
            kill_at(&home, moment, others[(round + index) % others.len()], &mut killed);
        }
    }
    let run = Costrel::rust_case(&home, r#"{"case":"hello"}"#).run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!((sandboxes(&home), drafts(home.path())), (0, 0));
    assert_eq!(processes_below(home.path()), Vec::<u32>::new());
    assert_eq!(groups_of(&killed, Path::new("/sys/fs/cgroup")), Vec::<PathBuf>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&*home.path().to_string_lossy()), "{mounts}");
    assert_eq!(fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
}
