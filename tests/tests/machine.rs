//! The life of a machine at the seam, the same on every backend.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use costrel_agent_client::{AGENT_PORT, AgentClient, wire::run_response::Response};
use costrel_tests::{Blueprint, Guest, Shape, skipped};
use costrel_vmm::{
    BootError, DialError, DiskAccess, Exit, GuestPort, MachineError, Memory, printable,
};
use tokio::time::timeout;

/// The time that a process has run on a CPU, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_machine_stands_still() {
    let guest = Guest::start(Shape { vcpus: 2, ..Shape::default() }).await;
    let machine = guest.machine();
    // One vCPU spins, the other beats.
    let beats =
        "(while :; do :; done) & while :; do read t _ </proc/uptime; echo $t; sleep 0.1; done";
    let mut heart = guest.run(beats).await.unwrap();
    let mut last_beat = async |limit| {
        let mut last = None;
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(response) = timeout(left, heart.response()).await else { return last };
            if let Some(Response::Stdout(text)) = response.unwrap() {
                let text = String::from_utf8_lossy(&text).into_owned();
                last = text.lines().last().and_then(|line| line.parse::<f64>().ok()).or(last);
            }
        }
    };
    let mut beaten = last_beat(Duration::from_secs(2)).await;
    for _ in 0..100 {
        if beaten.is_some() {
            break;
        }
        beaten = last_beat(Duration::from_millis(300)).await;
    }
    assert!(beaten.is_some(), "it beats");

    machine.pause().await.unwrap();
    // What is under way may still arrive.
    last_beat(Duration::from_millis(500)).await;
    let before = ticks(machine.process_id());
    assert_eq!(last_beat(Duration::from_secs(2)).await, None, "it beats while it is paused");
    let used = ticks(machine.process_id()) - before;
    assert!(used <= 20, "its process has run for {used} ticks while it was paused");
    machine.pause().await.expect("to pause it twice is no fault");

    machine.resume().await.unwrap();
    let resumed = Instant::now();
    while last_beat(Duration::from_millis(200)).await.is_none() {
        assert!(resumed.elapsed() < Duration::from_secs(30), "it does not beat again");
    }
    machine.resume().await.expect("to resume it twice is no fault");

    machine.pause().await.unwrap();
    assert_eq!(machine.kill().await, Exit::Killed);
    assert_eq!(machine.wait().await, Exit::Killed);
    let refused = machine.resume().await.unwrap_err();
    assert!(matches!(refused, MachineError::Ended(Exit::Killed)), "{refused:?}");
}

/// How the machine ends after the script.
async fn end_of(arguments: &[&str], script: &str) -> (Exit, String) {
    let kernel_arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let guest = Guest::start(Shape { kernel_arguments, ..Shape::default() }).await;
    let _process = guest.run(script).await;
    let exit = timeout(Duration::from_secs(60), guest.machine().wait()).await;
    let console = guest.machine().console_tail().await;
    (exit.unwrap_or_else(|_| panic!("it does not end: {console}")), console)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_powers_off() {
    let guest = Guest::start(Shape::default()).await;
    let _ = guest.agent().power_off().await;
    assert_eq!(guest.machine().wait().await, Exit::PowerOff);
    assert_eq!(guest.machine().kill().await, Exit::PowerOff, "it is too late to kill it");
    let dialled = guest.machine().dial(GuestPort(AGENT_PORT)).await.map(drop);
    assert!(matches!(dialled, Err(DialError::Connect { .. })), "{dialled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reboots() {
    let reboot = "exec python3.11 -ISc 'import ctypes; ctypes.CDLL(None).reboot(0x01234567)'";
    let (exit, console) = end_of(&[], reboot).await;
    assert_eq!(exit, Exit::Reboot, "{console}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_panics() {
    let (exit, console) = end_of(&[], "echo c >/proc/sysrq-trigger").await;
    assert_eq!(exit, Exit::Panic { message: "sysrq triggered crash".to_owned() }, "{console}");
}

/// The kernel loads an empty interrupt table and faults, as `reboot=t` tells it to.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_faults_thrice() {
    let (exit, console) = end_of(&["reboot=t"], "echo b >/proc/sysrq-trigger").await;
    assert_eq!(exit, Exit::TripleFault, "{console}");
}

async fn has_vcpus(vcpus: u32) {
    let guest = Guest::start(Shape { vcpus, ..Shape::default() }).await;
    let script = "nproc; grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/cpu/online; \
        cd /sys/devices/system/cpu; for c in cpu[0-9]*; do \
        echo $(cat $c/topology/physical_package_id) $(cat $c/topology/core_id) \
        $(cat $c/topology/thread_siblings_list); done";
    let said = guest.says(script).await;
    let mut lines = said.lines();
    let mut next = || lines.next().unwrap_or_else(|| panic!("{said}"));
    assert_eq!((next(), next()), (&*vcpus.to_string(), &*vcpus.to_string()), "{said}");
    assert_eq!(next(), format!("0-{}", vcpus - 1), "{said}");
    let mut cores: Vec<&str> = (0..vcpus).map(|_| next()).collect();
    cores.sort_unstable();
    cores.dedup();
    assert_eq!(cores.len(), vcpus as usize, "two vCPUs are the same core: {said}");
    // Each is a core of its own, with nobody else's thread on it.
    assert!(cores.iter().all(|core| !core.contains(['-', ','])), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sees_2_vcpus() {
    has_vcpus(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sees_4_vcpus() {
    has_vcpus(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_sees_16_vcpus() {
    has_vcpus(16).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_at_once() {
    let guest = Guest::start(Shape::default()).await;
    let machine = guest.machine();
    let second = machine.dial(GuestPort(AGENT_PORT)).await;
    if guest.blueprint().backend() == "emulated" {
        assert!(matches!(second, Err(DialError::Busy(_))));
    } else {
        let describe = async |stream| {
            let agent = AgentClient::connect(stream).await.unwrap();
            for _ in 0..5 {
                assert!(!agent.describe().await.unwrap().kernel_release.is_empty());
            }
        };
        let dial = || async { machine.dial(GuestPort(AGENT_PORT)).await.unwrap() };
        let (third, fourth) = tokio::join!(dial(), dial());
        tokio::join!(describe(second.unwrap()), describe(third), describe(fourth));
    }
    let undeclared = machine.dial(GuestPort(1)).await.map(drop);
    assert!(matches!(undeclared, Err(DialError::Undeclared(_))), "{undeclared:?}");
    // The first is as good as ever.
    assert_eq!(guest.says("echo here").await, "here\n");
}

async fn memory_of(guest: &Guest) -> u64 {
    let kib = guest.says("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").await;
    kib.trim().parse::<u64>().unwrap() >> 10
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_memory_boots() {
    let guest = Guest::start(Shape { memory_mib: 64, ..Shape::default() }).await;
    let mib = memory_of(&guest).await;
    assert!((32..64).contains(&mib), "{mib} MiB");
}

/// Beyond 3 GiB memory goes on above 4 GiB: devices are in between.
#[tokio::test(flavor = "multi_thread")]
async fn memory_goes_on_above_the_gap() {
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    let total = host.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10;
    if total < 5000 {
        return skipped("5000 MiB of memory");
    }
    let guest = Guest::start(Shape { memory_mib: 4608, ..Shape::default() }).await;
    let mib = memory_of(&guest).await;
    assert!((4400..4608).contains(&mib), "{mib} MiB");
    // The kernel gives out what is above 4 GiB first.
    guest.says("head -c 50000000 /dev/zero >x; rm x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_trimmed_goes_back_to_the_host() {
    let guest = Guest::start(Shape { scratch_size: 64 << 30, ..Shape::default() }).await;
    let kib: u64 = guest.says("df -k --output=size /tmp | tail -n1").await.trim().parse().unwrap();
    assert!(kib > 60 << 20, "{kib} KiB");
    let used = || fs::metadata(guest.scratch()).unwrap().blocks() * 512;
    let empty = used();
    assert!(empty < 64 << 20, "an empty scratch disk takes {empty} bytes");
    guest.says("head -c 33554432 /dev/urandom >x && sync -f x").await;
    let full = used();
    assert!(full >= empty + (32 << 20), "{empty} and then {full} bytes");
    // FITRIM, on all of it.
    let trim = "rm x; sync; exec python3.11 -ISc 'import fcntl, os, struct; \
        fcntl.ioctl(os.open(\"/tmp\", os.O_RDONLY), 0xC0185879, struct.pack(\"QQQ\", 0, 1 << 63, 0))'";
    guest.says(trim).await;
    let trimmed = used();
    assert!(trimmed + (24 << 20) < full, "{empty}, {full}, and then {trimmed} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_the_console_is_bounded() {
    let limit = 4 << 10;
    let guest = Guest::start(Shape { console_limit: limit, ..Shape::default() }).await;
    // Each has the kernel print its help, of some hundred characters.
    guest.says("for n in $(seq 30); do echo h >/proc/sysrq-trigger; done").await;
    assert_eq!(guest.says("echo here").await, "here\n", "the agent answers beside it");
    let _ = guest.agent().power_off().await;
    assert_eq!(guest.machine().wait().await, Exit::PowerOff);
    let log = fs::read(&guest.blueprint().spec.console.path).unwrap();
    assert!(log.len() as u64 <= limit + 100, "{} bytes", log.len());
    let log = printable(&log);
    assert!(log.contains("HELP") && log.contains(" bytes left out]"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_argument_is_one() {
    let mut blueprint = Blueprint::new(Shape::default()).await;
    for argument in ["", "a b", "a\tb", "a\nb", "a\0b", "a=\"b\"", "a='b'", "größe", "a\u{7f}"] {
        blueprint.spec.kernel_arguments = vec![argument.to_owned()];
        let error = blueprint.boot().await.unwrap_err();
        assert!(matches!(&error, BootError::KernelArgument { .. }), "{argument:?}: {error:?}");
        assert!(error.to_string().contains(&format!("{argument:?}")), "{error}");
    }
    blueprint.spec.kernel_arguments = vec![format!("x={}", "y".repeat(3000))];
    let error = blueprint.boot().await.unwrap_err();
    assert!(error.to_string().contains("arguments"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_refuses_what_it_does_not_know() {
    let kernel_arguments = vec!["costrel.foo=1".to_owned()];
    let shape = Shape { kernel_arguments, ..Shape::default() };
    let blueprint = Blueprint::new(shape).await;
    let machine = blueprint.boot().await.unwrap();
    let exit = timeout(Duration::from_secs(60), machine.wait()).await.unwrap();
    assert!(matches!(exit, Exit::Panic { .. }), "{exit:?}");
    let console = machine.console_tail().await;
    assert!(
        console.contains("vminitd: this agent does not know the kernel argument costrel.foo=1"),
        "{console}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_cannot_be_used() {
    let mut blueprint = Blueprint::new(Shape::default()).await;
    let scratch = blueprint.spec.disks[2].path.clone();
    // Somebody else writes to it.
    let writer = fs::File::open(&scratch).unwrap();
    writer.lock().unwrap();
    let error = blueprint.boot().await.unwrap_err();
    assert!(matches!(&error, BootError::DiskLocked { path } if *path == scratch), "{error:?}");
    drop(writer);
    // A disk that is written twice is locked against itself.
    let twice = blueprint.spec.disks[2].clone();
    blueprint.spec.disks.push(twice);
    blueprint.spec.disks[3].access = DiskAccess::ReadOnly;
    let error = blueprint.boot().await.unwrap_err();
    assert!(matches!(&error, BootError::DiskLocked { .. }), "{error:?}");
    blueprint.spec.disks.pop();

    let odd = fs::metadata(&scratch).unwrap().len() - 100;
    fs::OpenOptions::new().write(true).open(&scratch).unwrap().set_len(odd).unwrap();
    let error = blueprint.boot().await.unwrap_err();
    assert!(matches!(&error, BootError::DiskSize { bytes, .. } if *bytes == odd), "{error:?}");
    fs::remove_file(&scratch).unwrap();
    let error = blueprint.boot().await.unwrap_err();
    assert!(matches!(&error, BootError::File { what: "disk image", .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_memory_than_the_host_has() {
    let mut blueprint = Blueprint::new(Shape::default()).await;
    if blueprint.backend() != "kvm" {
        return skipped("KVM: under emulation memory is the guest's only once it is used");
    }
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    if host.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >= 64 << 20 {
        return skipped("a machine with less than 64 GiB");
    }
    blueprint.spec.memory = Memory::mib(65536).unwrap();
    let error = blueprint.boot().await.unwrap_err();
    assert!(matches!(error, BootError::MemoryTooLarge { given_mib: 65536, .. }), "{error:?}");
}
