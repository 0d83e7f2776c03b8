//! What a machine's process is, seen from outside: for root, and for anybody who may use KVM.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use costrel_tests::{Costrel, Home, Run, installation, rust_function, skipped, wait_until};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, Signal, kill_process},
};
use serde_json::Value;

const NOBODY: u32 = 65534;
/// Anybody's group that may use KVM.
const KVM_GROUP: u32 = 65533;

/// Who calls the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    Root,
    /// As a supplementary group's member may use KVM.
    Member,
    /// As everybody may use KVM.
    Anybody,
}

/// An installation, a function and a home that the caller can read.
struct Place {
    caller: Caller,
    home: Home,
    directory: tempfile::TempDir,
}

impl Place {
    fn new(caller: Caller) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        for name in ["bin/costrel", "lib/costrel/costrel-vmm", "lib/costrel/vminitd"] {
            copy(&installation().join(name), &directory.path().join(name), 0o755);
        }
        let kernel = "lib/costrel/vmlinux";
        copy(&installation().join(kernel), &directory.path().join(kernel), 0o644);
        copy(&rust_function(), &directory.path().join("function.zip"), 0o644);
        let home = Home::private();
        if caller != Caller::Root {
            chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Self { caller, home, directory }
    }

    /// The same call, of what is in this place and by its caller.
    fn command(&self, call: Costrel) -> Command {
        let call = call.into_command();
        let (function, own) = (rust_function(), self.directory.path().join("function.zip"));
        let arguments = call.get_args().map(|it| if it == function { own.as_os_str() } else { it });
        let program = self.directory.path().join("bin/costrel");
        let mut command = match self.caller {
            Caller::Root => Command::new(program),
            Caller::Member | Caller::Anybody => {
                let mut command = match self.kvm() {
                    None => Command::new("setpriv"),
                    Some(node) => {
                        let script = r#"mount --bind "$0" /dev/kvm && exec setpriv "$@""#;
                        let mut command = Command::new("unshare");
                        command.args(["--mount", "--", "sh", "-c", script]).arg(node);
                        command
                    }
                };
                let id = NOBODY.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--groups"]);
                let group = if self.caller == Caller::Member { KVM_GROUP } else { NOBODY };
                command.arg(group.to_string()).arg("--").arg(program);
                command
            }
        };
        command.args(arguments).env_clear().current_dir("/");
        command.envs(call.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    }

    /// KVM as the caller finds it, for a mount namespace: the host's is left as it is.
    fn kvm(&self) -> Option<PathBuf> {
        let device = fs::metadata("/dev/kvm").ok()?.rdev();
        let node = self.directory.path().join("kvm");
        if !node.exists() {
            mknodat(CWD, &node, FileType::CharacterDevice, Mode::RUSR, device).ok()?;
            chown(&node, Some(0), Some(KVM_GROUP)).unwrap();
            let mode = if self.caller == Caller::Member { 0o660 } else { 0o666 };
            fs::set_permissions(&node, Permissions::from_mode(mode)).unwrap();
        }
        Some(node)
    }

    fn run(&self, call: Costrel) -> Run {
        let output = self.command(call).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn start(&self, call: Costrel) -> Started {
        let mut command = self.command(call);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Started(command.process_group(0).spawn().unwrap())
    }

    fn inspect(&self) -> Value {
        let run = self.run(Costrel::new(&self.home, ["inspect"]));
        assert_eq!(run.code, Some(0), "{run:#?}");
        serde_json::from_str(&run.stdout).unwrap()
    }
}

fn copy(from: &Path, to: &Path, mode: u32) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
    let permissions = Permissions::from_mode(mode);
    for (place, permissions) in
        [(to, permissions), (to.parent().unwrap(), Permissions::from_mode(0o755))]
    {
        fs::set_permissions(place, permissions).unwrap();
    }
}

struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Of a thread or a process: a line of its `status`.
fn status<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}: {text}")).trim()
}

fn namespace(pid: u64, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap()
}

fn is_jailed(place: &Place, owner: u64, record: &Value) {
    let pid = record["monitorPid"].as_u64().unwrap();
    let measures = record["isolation"].as_array().unwrap();
    let holds = |name: &str| {
        measures.iter().any(|measure| measure["name"] == name && measure["standing"] == "in-force")
    };
    // Root may lack the namespace in a container, and has a user id of its own instead.
    let own_namespace = holds("user-namespace");
    assert!(own_namespace || place.caller == Caller::Root && holds("own-user-id"), "{record:#}");
    for name in ["mnt", "net", "pid", "ipc", "uts", "cgroup"] {
        assert_ne!(namespace(pid, name), namespace(owner, name), "{name}: {record:#}");
    }
    assert_eq!(namespace(pid, "user") != namespace(owner, "user"), own_namespace);
    if record["backend"] == "kvm" {
        let root = fs::read_dir(format!("/proc/{pid}/root/")).unwrap();
        assert_eq!(root.count(), 0, "its root is empty");
    }

    let threads: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().collect();
    assert!(threads.len() > 1, "one that listens and a virtual CPU, at least");
    let id = match place.caller {
        Caller::Root => {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let id: u32 = status(&text, "Uid").split('\t').next().unwrap().parse().unwrap();
            assert!((0x7000_0000..0x7800_0000).contains(&id), "{id}");
            id
        }
        Caller::Member | Caller::Anybody => NOBODY,
    };
    for thread in threads {
        let text = fs::read_to_string(thread.path().join("status")).unwrap();
        let is = |name: &str, value: &str| assert_eq!(status(&text, name), value, "{name}: {text}");
        is("Uid", &format!("{id}\t{id}\t{id}\t{id}"));
        is("Gid", &format!("{id}\t{id}\t{id}\t{id}"));
        is("Seccomp", "2");
        is("NoNewPrivs", "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            is(set, "0000000000000000");
        }
        if place.caller == Caller::Root {
            is("Groups", "");
        }
    }
}

fn seen_from_outside(caller: Caller) {
    if !rustix::process::geteuid().is_root() {
        return skipped("root, who can be anybody");
    }
    let place = Place::new(caller);
    if caller != Caller::Root && place.kvm().is_none() && Path::new("/dev/kvm").exists() {
        return skipped("the right to make device nodes");
    }
    let hello = || Costrel::rust_case(&place.home, r#"{"case":"hello"}"#);
    // Strictly, it runs, or says by name what this host lacks.
    let strict = place.run(hello().with(["--strict"]));
    let doctor = place.run(Costrel::new(&place.home, ["doctor"]));
    let jail = doctor.stdout.lines().find(|line| line.contains("  jail  ")).unwrap_or_default();
    if strict.code == Some(0) {
        assert!(jail.starts_with("ok  jail     in force: "), "{doctor:#?}");
    } else {
        assert!(strict.stderr.contains("lacking: "), "{strict:#?}");
        let warned = place.run(hello());
        assert_eq!(warned.code, Some(0), "{warned:#?}");
        assert!(jail.starts_with("--  jail     in force: "), "{doctor:#?}");
    }
    for measure in ["no capabilities", "no new privileges", "network namespace", "PID namespace"] {
        assert!(jail.contains(measure), "{measure}: {doctor:#?}");
    }
    assert_eq!(jail.contains("user id of its own"), caller == Caller::Root, "{doctor:#?}");

    let owner = place.start(Costrel::rust_case(&place.home, r#"{"case":"sleep"}"#));
    wait_until("a machine runs", || place.inspect() != Value::Array(Vec::new()));
    let record = &place.inspect()[0];
    is_jailed(&place, u64::from(owner.0.id()), record);
    if let Ok(wanted) = std::env::var("COSTREL_BACKEND") {
        assert_eq!(record["backend"], wanted.as_str());
    }
    drop(owner);
    assert_eq!(place.inspect(), Value::Array(Vec::new()));
}

#[test]
fn of_root() {
    seen_from_outside(Caller::Root);
}

#[test]
fn of_a_member_of_the_group() {
    seen_from_outside(Caller::Member);
}

#[test]
fn of_anybody() {
    seen_from_outside(Caller::Anybody);
}

/// The same command, from within a control group.
fn within(group: &Path, command: &Command) -> Command {
    let mut within = Command::new("sh");
    within.args(["-c", r#"echo $$ >"$0/cgroup.procs" && exec "$@""#]).arg(group);
    within.arg(command.get_program()).args(command.get_args()).env_clear().current_dir("/");
    within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    within
}

#[test]
fn that_ran_out_of_memory() {
    if std::env::var_os("KVM_LAB").is_none() {
        return skipped("kvm-lab, whose control groups are nobody else's");
    }
    let root = Path::new("/sys/fs/cgroup");
    fs::write(root.join("cgroup.subtree_control"), "+memory +pids").unwrap();
    let group = root.join(format!("costrel.test-{}", std::process::id()));
    fs::create_dir(&group).unwrap();
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        chown(group.join(file), Some(NOBODY), Some(NOBODY)).unwrap();
    }

    let place = Place::new(Caller::Anybody);
    let call = Costrel::rust_case(&place.home, r#"{"case":"sleep"}"#);
    let mut command = within(&group, &place.command(call));
    let owner = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let owner = owner.spawn().unwrap();
    wait_until("a machine runs", || place.inspect() != Value::Array(Vec::new()));
    let record = &place.inspect()[0];
    let pid = record["monitorPid"].as_u64().unwrap();
    let of_machine = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let name = format!("costrel-{}", record["id"].as_str().unwrap());
    assert!(of_machine.trim_end().ends_with(&name), "{of_machine}: {record:#}");
    let limit = fs::read_to_string(group.join(&name).join("memory.max")).unwrap();
    let limit: u64 = limit.trim().parse().unwrap();
    assert!(limit > record["memoryMiB"].as_u64().unwrap() << 20, "{limit}: {record:#}");

    // Less than it has in use.
    fs::write(group.join(&name).join("memory.max"), "1M").unwrap();
    let output = owner.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("needed more memory than its control group may have"), "{told}");
    assert!(!group.join(&name).exists());
    fs::remove_dir(group.join("costrel.owner")).unwrap();
    fs::remove_dir(&group).unwrap();
}
