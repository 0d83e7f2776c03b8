//! Control groups of the real kernel's, as root and as anybody: in a machine whose cgroup2
//! hierarchy has the memory and pids controllers, as `tests/kvm-lab` has.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::chown,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use costrel_vmm::{MeasureName, Standing, Strictness};
use costrel_vmm_process::{
    FileView, GroupSpec, JailSpec, Leftover, MonitorProcess, MonitorSpec, ResourceLimits,
    end_leftover, remove_record, spawn,
};
use rustix::{
    fs::XattrFlags,
    process::{Pid, Signal, kill_process},
    thread::{Gid, Uid},
};

use super::{INMATE, NOBODY, is_root, program, wait_until};

const ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: i64 = 0x6367_7270;
const MEMORY: u64 = 16 << 20;
const PROCESSES: u64 = 5;
/// Far from those of the group.
const LIMITS: ResourceLimits =
    ResourceLimits { open_files: 512, file_size: 64 << 20, processes: 500 };

/// Whose group and owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Root,
    Nobody,
}

/// How a group came to be an owner's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    /// As systemd marks it for services.
    Trusted,
    /// As newer versions do besides.
    User,
    None,
}

/// A group that is gone with the test, and a directory for records.
struct Group {
    path: PathBuf,
    directory: tempfile::TempDir,
}

impl Group {
    /// None, and told why, where there is no such hierarchy.
    fn new(who: Who, mark: Mark) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            eprintln!("skipped: root, who delegates control groups");
            return None;
        }
        let root = Path::new(ROOT);
        // Else it may be a directory like any other, where writing makes files.
        if !rustix::fs::statfs(root).is_ok_and(|root| root.f_type == CGROUP2) {
            eprintln!("skipped: a cgroup2 hierarchy at {ROOT}");
            return None;
        }
        let control = root.join("cgroup.subtree_control");
        // Nobody minds in the lab; elsewhere the hierarchy is left as it is.
        if std::env::var_os("KVM_LAB").is_some() {
            fs::write(&control, "+memory +pids").unwrap();
        }
        let on = fs::read_to_string(&control).unwrap_or_default();
        if !["memory", "pids"].iter().all(|name| on.split_whitespace().any(|it| it == *name)) {
            eprintln!("skipped: the memory and pids controllers, switched on at {ROOT}");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("costrel.test-{}-{number}", std::process::id()));
        if let Err(error) = fs::create_dir(&path) {
            eprintln!("skipped: the right to make control groups at {ROOT}: {error}");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let name = match mark {
            Mark::Trusted => Some("trusted.delegate"),
            Mark::User => Some("user.delegate"),
            Mark::None => None,
        };
        if let Some(name) = name {
            rustix::fs::setxattr(&path, name, b"1", XattrFlags::empty()).unwrap();
        }
        if who == Who::Nobody {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            if mark != Mark::None {
                for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                    chown(path.join(file), Some(NOBODY), Some(NOBODY)).unwrap();
                }
            }
        }
        Some(Self { path, directory })
    }

    fn read(&self, file: &str) -> String {
        let path = self.path.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        text.trim_end().to_owned()
    }

    fn has(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// Its groups' names.
    fn below(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).unwrap().flatten();
        let groups = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        groups.map(|group| group.file_name().into_string().unwrap()).collect()
    }

    fn record(&self, id: &str) -> PathBuf {
        self.directory.path().join(id)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        if std::thread::panicking() {
            return;
        }
        wait_until("a group is empty", || {
            let groups = fs::read_dir(&self.path).into_iter().flatten().flatten();
            for group in groups.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let _ = fs::remove_dir(group.path());
            }
            fs::remove_dir(&self.path).is_ok() || !self.path.exists()
        });
    }
}

/// A process of this very program that owns inmates: see [`group_owner`].
struct Owner {
    child: Child,
    orders: ChildStdin,
    words: BufReader<ChildStdout>,
}

impl Owner {
    fn start(group: &Group, who: Who, program: &Path) -> Self {
        Self::start_with(group, who, program, false)
    }

    fn start_with(group: &Group, who: Who, program: &Path, without_clone3: bool) -> Self {
        let procs = File::options().write(true).open(group.path.join("cgroup.procs")).unwrap();
        // The way to our own program need not be open to anybody, but this is none.
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["--exact", "groups::group_owner", "--ignored", "--nocapture"])
            .env(INMATE, program)
            .env("COSTREL_TEST_RECORDS", group.directory.path())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let enter = move || {
            rustix::io::write(&procs, b"0")?;
            if without_clone3 {
                refuse_clone3()?;
            }
            if who == Who::Nobody {
                let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                rustix::thread::set_thread_groups(&[])?;
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            }
            Ok(())
        };
        // SAFETY: system calls only.
        unsafe { command.pre_exec(enter) };
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let words = BufReader::new(child.stdout.take().unwrap());
        Self { child, orders, words }
    }

    /// Gives it an order, and returns what it answers.
    fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        for line in self.words.by_ref().lines() {
            if let Some((_, answer)) = line.unwrap().split_once("answer: ") {
                return answer.to_owned();
            }
        }
        panic!("no answer to {order}");
    }

    /// Starts an inmate: its process id, and the control group's standing.
    fn spawn(&mut self, id: &str, what: &str) -> (i32, String) {
        let answer = self.ask(&format!("start {id} {what}"));
        let (pid, standing) = answer.split_once(' ').unwrap();
        (pid.parse().unwrap(), standing.to_owned())
    }

    fn group(&self) -> String {
        group_of(self.child.id())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn group_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

/// From now on the kernel seems not to know the call, as in a container with an old filter.
fn refuse_clone3() -> std::io::Result<()> {
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt,
        jf,
        k,
    };
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or_default();
    let refusal = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, clone3),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, refusal),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: the program lives until the call, which copies it, returns.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Not a test: the owner of inmates, who does as it is told on standard input.
#[test]
#[ignore = "it is run by other tests"]
fn group_owner() {
    let Some(program) = std::env::var_os(INMATE).map(PathBuf::from) else { return };
    let Some(records) = std::env::var_os("COSTREL_TEST_RECORDS").map(PathBuf::from) else { return };
    let mut inmates: Vec<(String, MonitorProcess)> = Vec::new();
    for order in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<_> = order.split(' ').collect();
        let mut take = |id: &str| {
            let at = inmates.iter().position(|(name, _)| name == id).unwrap();
            inmates.remove(at).1
        };
        let answer = match words[..] {
            ["start", id, what] => {
                let process = start(&program, id, what);
                fs::create_dir_all(records.join(id)).unwrap();
                process.record(&records.join(id)).unwrap();
                let standing = process.isolation().standing(MeasureName::ControlGroup).cloned();
                let answer = format!("{} {}", process.pid().as_raw_nonzero(), said(standing));
                inmates.push((id.to_owned(), process));
                answer
            }
            ["wait", id] => {
                let mut process = take(id);
                let mut said = String::new();
                File::from(process.take_stderr().unwrap()).read_to_string(&mut said).unwrap();
                let status = process.wait().unwrap();
                remove_record(&records.join(id));
                format!("{} {} {}", told(status), process.ran_out_of_memory(), said.trim_end())
            }
            ["drop", id] => {
                drop(take(id));
                "dropped".to_owned()
            }
            ["sweep", id] => format!("{:?}", end_leftover(&records.join(id)).unwrap()),
            _ => panic!("{order}"),
        };
        println!("answer: {answer}");
    }
}

fn start(program: &Path, id: &str, what: &str) -> MonitorProcess {
    let group = Some(GroupSpec { id, memory: MEMORY, processes: PROCESSES });
    let jail = JailSpec { files: FileView::Empty, limits: LIMITS, group };
    let arguments = &[what.to_owned()];
    let strictness = Strictness::Warn;
    spawn(&MonitorSpec { program, arguments, inherited: &[], jail, strictness }).unwrap()
}

fn said(standing: Option<Standing>) -> String {
    match standing.unwrap() {
        Standing::InForce { detail } => format!("in force: {}", detail.unwrap_or_default()),
        Standing::Waived { reason, .. } => format!("waived: {reason}"),
        Standing::Lacking { reason, .. } => format!("lacking: {reason}"),
    }
}

fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

fn both(test: impl Fn(&Group, Who, &Path)) {
    let Some(program) = program() else { return };
    for (who, mark) in
        [(Who::Root, Mark::Trusted), (Who::Root, Mark::User), (Who::Nobody, Mark::User)]
    {
        let Some(group) = Group::new(who, mark) else { return };
        test(&group, who, &program);
    }
}

#[test]
fn a_monitor_lives_in_a_group_of_its_own() {
    both(|group, who, program| {
        let mut owner = Owner::start(group, who, program);
        assert!(!owner.group().ends_with("costrel.owner"));
        let (pid, standing) = owner.spawn("a", "sleep");
        assert_eq!(standing, "in force: 16 MiB, 5 processes");
        let path = format!("/{}", group.path.file_name().unwrap().to_str().unwrap());
        assert_eq!(group_of(pid.cast_unsigned()), format!("{path}/costrel-a"));
        assert_eq!(owner.group(), format!("{path}/costrel.owner"));
        assert_eq!(group.read("cgroup.subtree_control"), "memory pids");
        assert_eq!(group.read("costrel-a/memory.max"), MEMORY.to_string());
        assert_eq!(group.read("costrel-a/pids.max"), PROCESSES.to_string());
        if group.has("costrel-a/memory.swap.max") {
            assert_eq!(group.read("costrel-a/memory.swap.max"), "0");
        }
        // What a killed process has left empty is in nobody's way.
        fs::create_dir(group.path.join("costrel-b")).unwrap();
        let (_, standing) = owner.spawn("b", "sleep");
        assert!(standing.starts_with("in force"), "{standing}");
        // The id of one that runs is taken.
        let (_, standing) = owner.spawn("b", "sleep");
        assert!(standing.starts_with("lacking"), "{standing}");

        assert_eq!(owner.ask("drop a"), "dropped");
        assert!(!group.has("costrel-a"));
        // Killed by somebody else.
        kill(
            fs::read_to_string(group.path.join("costrel-b/cgroup.procs"))
                .map_or(0, |pid| pid.trim().parse().unwrap()),
        );
        assert_eq!(owner.ask("wait b"), "signal 9 false ");
        assert_eq!(owner.ask("drop b"), "dropped");
        // By itself.
        owner.spawn("c", "tell");
        assert!(owner.ask("wait c").starts_with("code 7 false "));
        assert_eq!(group.below(), ["costrel.owner"]);
    });
}

#[test]
fn its_limits_are_its_own() {
    both(|group, who, program| {
        let mut owner = Owner::start(group, who, program);
        let (sleeper, _) = owner.spawn("sleeper", "sleep");
        owner.spawn("eater", "allocate");
        assert_eq!(owner.ask("wait eater"), "signal 9 true ");
        owner.spawn("crowd", "multiply");
        let crowd = owner.ask("wait crowd");
        assert_eq!(crowd, format!("code 7 false multiplied {} EAGAIN", PROCESSES - 1));
        assert_eq!(group.read("costrel-sleeper/cgroup.procs"), sleeper.to_string());
        assert_eq!(group.below().len(), 2);
    });
}

#[test]
fn what_a_killed_owner_leaves_is_swept() {
    both(|group, who, program| {
        let mut owner = Owner::start(group, who, program);
        owner.spawn("a", "sleep");
        owner.child.kill().unwrap();
        owner.child.wait().unwrap();
        wait_until("the inmate is gone", || group.read("costrel-a/cgroup.procs").is_empty());
        drop(owner);
        // Some process in it outlived the monitor, as none should.
        let mut stray = Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(group.path.join("costrel-a/cgroup.procs"), stray.id().to_string()).unwrap();
        // The next start may be anywhere.
        let outside = Group::new(who, Mark::None).unwrap();
        fs::create_dir(outside.record("a")).unwrap();
        for file in fs::read_dir(group.record("a")).unwrap().flatten() {
            fs::copy(file.path(), outside.record("a").join(file.file_name())).unwrap();
        }
        let mut next = Owner::start(&outside, who, program);
        assert_eq!(next.ask("sweep a"), format!("{:?}", Leftover::None));
        assert_eq!(stray.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
        assert_eq!(group.below(), ["costrel.owner"]);
    });
}

#[test]
fn without_clone3_it_is_moved_there() {
    both(|group, who, program| {
        let mut owner = Owner::start_with(group, who, program, true);
        let (pid, standing) = owner.spawn("a", "sleep");
        assert_eq!(standing, "in force: 16 MiB, 5 processes");
        assert_eq!(group.read("costrel-a/cgroup.procs"), pid.to_string());
        owner.spawn("eater", "allocate");
        assert_eq!(owner.ask("wait eater"), "signal 9 true ");
    });
}

#[test]
fn nothing_changes_in_a_group_that_is_not_delegated() {
    let Some(program) = program() else { return };
    let untouched = |group: &Group, who, reason: &str, prepare: &dyn Fn(&Group)| {
        prepare(group);
        let before = group.below();
        let mut owner = Owner::start(group, who, &program);
        let home = owner.group();
        let (pid, standing) = owner.spawn("a", "sleep");
        assert_eq!(standing, format!("waived: {reason}"));
        assert_eq!(group_of(pid.cast_unsigned()), home);
        assert_eq!((owner.group(), group.below()), (home, before));
        assert_eq!(group.read("cgroup.subtree_control"), "");
        assert_eq!(owner.ask("drop a"), "dropped");
    };
    let Some(group) = Group::new(Who::Root, Mark::None) else { return };
    let unmarked = "the group at hand is not marked as delegated";
    untouched(&group, Who::Root, unmarked, &|_| {});
    let group = Group::new(Who::Nobody, Mark::None).unwrap();
    untouched(&group, Who::Nobody, "none is delegated to this user", &|_| {});
    // Root's mark is of no use to anybody else.
    let group = Group::new(Who::Root, Mark::Trusted).unwrap();
    chown(group.directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    untouched(&group, Who::Nobody, "none is delegated to this user", &|_| {});

    for who in [Who::Root, Who::Nobody] {
        let group = Group::new(who, Mark::User).unwrap();
        let other = std::cell::OnceCell::new();
        untouched(&group, who, "other processes are in the group at hand", &|group| {
            let child = Command::new("sleep").arg("600").spawn().unwrap();
            fs::write(group.path.join("cgroup.procs"), child.id().to_string()).unwrap();
            other.set(child).unwrap();
        });
        let mut other = other.into_inner().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        let group = Group::new(who, Mark::User).unwrap();
        untouched(&group, who, "the group at hand is one of threads", &|group| {
            fs::create_dir(group.path.join("threads")).unwrap();
            fs::write(group.path.join("threads/cgroup.type"), "threaded").unwrap();
        });
    }
}
