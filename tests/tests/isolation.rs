//! What is told of running sandboxes, and what separates them from the host.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
};

use costrel_tests::{Costrel, Home, skipped, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn inspect(home: &Home, id: &str) -> Value {
    let run = Costrel::new(home, ["inspect"].iter().chain((!id.is_empty()).then_some(&id))).run();
    assert_eq!(run.code, Some(0), "{run:#?}");
    serde_json::from_str(&run.stdout).unwrap()
}

/// A line of `/proc/PID/status`, without its name.
fn status(pid: u64, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

fn namespace(process: &str, name: &str) -> PathBuf {
    fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap()
}

#[test]
fn a_running_sandbox_tells_of_itself() {
    let home = Home::private();
    assert_eq!(inspect(&home, ""), Value::Array(Vec::new()));
    let mut command = Costrel::rust_case(&home, r#"{"case":"sleep"}"#).into_command();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until("a machine runs", || inspect(&home, "") != Value::Array(Vec::new()));
    let all = inspect(&home, "");
    let record = &all[0];
    let id = record["id"].as_str().unwrap();
    let directory = home.sandboxes().join(id);
    let mode = fs::metadata(directory.join("sandbox.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(inspect(&home, &id[..6]), all);
    let none = Costrel::new(&home, ["inspect", "zz"]).run();
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("no sandbox runs whose id begins with \"zz\""), "{none:#?}");

    assert_eq!(record["vcpus"], 1);
    assert!(record["memoryMiB"].as_u64().unwrap() >= 128);
    assert_eq!(record["disks"][0]["name"], "init");
    assert_eq!(record["disks"][0]["readOnly"], true);
    assert!(record["kernel"].as_str().unwrap().ends_with("vmlinux"));
    assert!(record["startedAt"].as_str().unwrap().ends_with('Z'));

    // What it says of its isolation is so.
    let pid = record["monitorPid"].as_u64().unwrap();
    let measures = record["isolation"].as_array().unwrap();
    let holds = |name: &str| {
        measures.iter().any(|measure| measure["name"] == name && measure["standing"] == "in-force")
    };
    for (name, file) in [
        ("user-namespace", "user"),
        ("network-namespace", "net"),
        ("pid-namespace", "pid"),
        ("ipc-and-uts-namespaces", "ipc"),
        ("file-system", "mnt"),
    ] {
        let is_apart = namespace(&pid.to_string(), file) != namespace("self", file);
        assert_eq!(is_apart, holds(name), "{name}: {measures:#?}");
    }
    assert!(holds("no-new-privileges") && holds("capabilities") && holds("seccomp"));
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    if holds("own-user-id") {
        let uid: u32 = status(pid, "Uid").split('\t').next().unwrap().parse().unwrap();
        assert!(uid >= 0x7000_0000, "{uid}");
    }

    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    assert_eq!(inspect(&home, ""), Value::Array(Vec::new()));
}

/// A QEMU that nobody but root can reach, so that it cannot have a user id of its own.
fn hidden_qemu(directory: &Path) -> Option<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&search).map(|path| path.join("qemu-system-x86_64"));
    let program = programs.into_iter().find(|program| program.exists())?;
    let prefix = program.parent()?.parent()?;
    // Its firmware and its modules, which it looks for from where it is.
    for name in ["share", "lib"] {
        symlink(prefix.join(name), directory.join(name)).unwrap();
    }
    let bin = directory.join("bin");
    fs::create_dir(&bin).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o700)).unwrap();
    let hidden = bin.join("qemu-system-x86_64");
    fs::copy(program, &hidden).unwrap();
    Some(hidden)
}

#[test]
fn what_is_lacking_is_told_once_or_refused() {
    if std::env::var_os("COSTREL_BACKEND").is_some_and(|backend| backend == "kvm") {
        return skipped(
            "emulation to test: this run is of KVM, in a machine that is emulated itself",
        );
    }
    if !rustix::process::geteuid().is_root() {
        return skipped("root, for whom a monitor's own user id can be made to lack");
    }
    let directory = tempfile::tempdir().unwrap();
    let Some(qemu) = hidden_qemu(directory.path()) else { return skipped("QEMU") };
    let home = Home::private();
    let call = || {
        let call = Costrel::rust_case(&home, r#"{"case":"hello"}"#);
        call.env("COSTREL_QEMU", &qemu).env("COSTREL_BACKEND", "emulated")
    };
    let warned = call().run();
    assert_eq!(warned.code, Some(0), "{warned:#?}");
    let warnings = warned.stderr.matches("without: user id of its own;").count();
    assert_eq!(warnings, 1, "{warned:#?}");
    for refused in [call().with(["--strict"]).run(), call().env("COSTREL_STRICT", "1").run()] {
        assert_eq!(refused.code, Some(1), "{refused:#?}");
        let reason = "lacking: user id of its own: nobody but this user can execute";
        assert!(refused.stderr.contains(reason), "{refused:#?}");
    }
    let nonsense = call().env("COSTREL_STRICT", "maybe").run();
    assert_eq!(nonsense.code, Some(2), "{nonsense:#?}");
    assert_eq!(fs::read_dir(home.sandboxes()).unwrap().count(), 0);

    let doctor = Costrel::new(&home, ["doctor"]).env("COSTREL_QEMU", &qemu).run();
    assert!(doctor.stdout.contains("--  jail     in force: user namespace"), "{doctor:#?}");
    assert!(doctor.stdout.contains("\n             lacking: user id of its own"), "{doctor:#?}");
}
