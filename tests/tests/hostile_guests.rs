//! A guest program that breaks every rule (`tests/hostile`): the monitor survives it, or ends that
//! one machine with a clear reason, and nothing outside of the guest changes.

#![expect(clippy::print_stdout, reason = "what came of each attack, for people")]

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use costrel_tests::{installation, kernel, kvm_backend, skipped};
use costrel_vmm::{
    Backend, Console, Disk, DiskAccess, DiskName, Exit, GuestPort, KernelImage, Machine,
    MachineSpec, Memory, Saving, VcpuCount,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};

/// What the guest finds in the second sector of the disk that it may only read.
const MARK: &[u8] = b"costrel\0";
const DISK_BYTES: u64 = 1 << 20;
const CONSOLE_LIMIT: u64 = 8 << 10;
const PORT: GuestPort = GuestPort(1024);
/// The monitor's own memory, and what the kernel counts with it.
const OVERHEAD_KIB: u64 = 24 << 10;

/// A place for one machine at a time, and what is checked of it.
struct Arena {
    backend: Arc<dyn Backend>,
    directory: tempfile::TempDir,
    /// The guest's program, as it was at first.
    guest: Vec<u8>,
}

/// A machine that was given its orders.
struct Attack {
    machine: Box<dyn Machine>,
    console: PathBuf,
    memory_mib: u64,
}

fn long() -> bool {
    std::env::var_os("COSTREL_LONG_TESTS").is_some()
}

impl Arena {
    /// None where there is no KVM.
    fn new() -> Option<Self> {
        let Some(backend) = kvm_backend() else {
            skipped("KVM does not work here");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        for disk in ["read-only", "scratch"] {
            let file = fs::File::create(directory.path().join(disk)).unwrap();
            file.set_len(DISK_BYTES).unwrap();
            file.write_all_at(MARK, 512).unwrap();
        }
        let guest = fs::read(guest()).unwrap();
        Some(Self { backend, directory, guest })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn boot(&self, kernel: PathBuf, arguments: Vec<String>, vcpus: u32, mib: u64) -> Attack {
        let disk = |name: &str, access| Disk {
            name: DiskName::new(name).unwrap(),
            path: self.path(name),
            access,
        };
        let (console, directory) = (self.path("console"), self.path("machine"));
        fs::create_dir_all(&directory).unwrap();
        let spec = MachineSpec {
            vcpus: VcpuCount::new(vcpus).unwrap(),
            memory: Memory::mib(mib).unwrap(),
            kernel: KernelImage { path: kernel },
            kernel_arguments: arguments,
            disks: vec![
                disk("read-only", DiskAccess::ReadOnly),
                disk("scratch", DiskAccess::Scratch),
            ],
            ports: vec![PORT],
            saving: Saving::Never,
            console: Console { path: console.clone(), limit: CONSOLE_LIMIT },
            directory,
        };
        let machine = self.backend.boot(&spec).await.unwrap();
        Attack { machine, console, memory_mib: mib }
    }

    /// Boots the hostile guest with these attacks.
    async fn attack(&self, attacks: &str, seed: u64, rounds: u64, mib: u64) -> Attack {
        let arguments = [
            format!("hostile={attacks}"),
            format!("seed={seed}"),
            format!("rounds={rounds}"),
            format!("memory={mib}"),
        ];
        self.boot(guest(), arguments.to_vec(), 2, mib).await
    }

    /// Nothing that the guest could not change has changed.
    fn check_disks(&self) {
        let mut wanted = vec![0; usize::try_from(DISK_BYTES).unwrap()];
        wanted[512..520].copy_from_slice(MARK);
        assert!(
            fs::read(self.path("read-only")).unwrap() == wanted,
            "written to what is read-only"
        );
        assert_eq!(fs::metadata(self.path("scratch")).unwrap().len(), DISK_BYTES);
        // Its pages are the guest's memory, which the guest may write to.
        assert!(fs::read(guest()).unwrap() == self.guest, "the kernel's file has changed");
        let log = fs::metadata(self.path("console")).unwrap().len();
        assert!(log <= CONSOLE_LIMIT + 4096, "the console's log has {log} bytes");
        let left: Vec<_> = fs::read_dir(self.path("machine")).unwrap().flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// Has attacks end by themselves; the guest must not have anything to complain of.
    async fn survives(&self, attacks: &str, seed: u64, rounds: u64) {
        self.survives_in(attacks, seed, rounds, 64).await;
    }

    async fn survives_in(&self, attacks: &str, seed: u64, rounds: u64, mib: u64) {
        let attack = self.attack(attacks, seed, rounds, mib).await;
        let (exit, text) = attack.end(Duration::from_secs(300)).await;
        let what = format!("{attacks} seed={seed} rounds={rounds}: {exit}\n{}", words(&text));
        println!("{what}");
        assert_eq!(exit, Exit::Reboot, "{what}");
        assert!(!text.contains("FAIL"), "{what}");
        let count = attacks.split(',').count();
        assert!(text.contains(&format!("verdict: survived {count}\n")), "{what}");
        self.check_disks();
    }
}

impl Attack {
    /// Waits for the machine's end. All the while, the monitor must not take more memory than the
    /// guest has, and a bit.
    async fn end(self, limit: Duration) -> (Exit, String) {
        let deadline = Instant::now() + limit;
        let mut peak = 0;
        let exit = loop {
            peak = peak.max(peak_kib(self.machine.process_id()));
            if let Ok(exit) = timeout(Duration::from_millis(50), self.machine.wait()).await {
                break exit;
            }
            if Instant::now() > deadline {
                let tail = self.machine.console_tail().await;
                panic!("not within {limit:?}; the console:\n{tail}");
            }
        };
        assert!(peak <= (self.memory_mib << 10) + OVERHEAD_KIB, "it had {peak} KiB of memory");
        (exit, text(&self.console))
    }

    /// Waits until the guest has said so.
    async fn said(&self, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !text(&self.console).lines().any(|found| found == line) {
            assert!(Instant::now() < deadline, "{line}: {}", text(&self.console));
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// It can be paused, resumed and killed, whatever it does. Says how long it took at most.
    async fn obeys(&self) -> Duration {
        let mut longest = Duration::ZERO;
        for _ in 0..3 {
            let began = Instant::now();
            self.machine.pause().await.unwrap();
            let _ = self.machine.console_tail().await;
            self.machine.resume().await.unwrap();
            longest = longest.max(began.elapsed());
            sleep(Duration::from_millis(20)).await;
        }
        let began = Instant::now();
        assert_eq!(self.machine.kill().await, Exit::Killed);
        longest = longest.max(began.elapsed());
        // A tenth of it, where the processor is not emulated and the others leave some of it.
        assert!(longest < Duration::from_secs(10), "{longest:?}");
        longest
    }
}

fn guest() -> PathBuf {
    let path = installation().join("../test-inputs/hostile");
    assert!(path.exists(), "{} is missing: `make test` makes it", path.display());
    path
}

/// What the guest says of its attacks, without what it floods the console with.
fn words(text: &str) -> String {
    let is_word = |line: &&str| {
        ["begin ", "end ", "FAIL", "verdict"].iter().any(|word| line.starts_with(word))
    };
    text.lines().filter(is_word).map(|line| line.to_owned() + "\n").collect()
}

fn text(console: &Path) -> String {
    String::from_utf8_lossy(&fs::read(console).unwrap()).into_owned()
}

/// The most memory that a process has had at a time.
fn peak_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

/// Random ones are as thorough as the time allows.
const ROUNDS: u64 = 40;

fn seeds() -> std::ops::Range<u64> {
    if long() { 1..20 } else { 1..2 }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues() {
    let Some(arena) = Arena::new() else { return };
    for seed in seeds() {
        arena.survives("check,placement,chains,chaos,check", seed, ROUNDS).await;
        arena.survives("race,check", seed, ROUNDS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices() {
    let Some(arena) = Arena::new() else { return };
    for seed in seeds() {
        let attacks = "registers,block,entropy,kicks,resets,interrupts,packets,check";
        arena.survives(attacks, seed, ROUNDS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_and_ports() {
    let Some(arena) = Arena::new() else { return };
    for seed in seeds() {
        let attacks = "ports,mmio,serial,console,keyboard,msr,cpuid,control,check";
        arena.survives(attacks, seed, ROUNDS).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_its_memory() {
    let Some(arena) = Arena::new() else { return };
    arena.survives_in("memory,check", 1, 1, if long() { 1024 } else { 256 }).await;
}

/// A guest that does not read keeps its client waiting, not the monitor's memory growing; and one
/// that sends more than it may loses the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_neglected() {
    let Some(arena) = Arena::new() else { return };
    let attack = arena.attack("mute,check", 1, ROUNDS, 64).await;
    attack.said("now").await;
    let mut stream = attack.machine.dial(PORT).await.unwrap();
    let mut sent = 0;
    while let Ok(Ok(count)) = timeout(Duration::from_secs(1), stream.write(&[7; 65536])).await {
        sent += count;
        assert!(sent < 4 << 20, "all of it went somewhere");
    }
    attack.said("mute").await;
    let (exit, text) = attack.end(Duration::from_secs(60)).await;
    assert!(exit == Exit::Reboot && !text.contains("FAIL"), "{exit}\n{text}");

    let attack = arena.attack("flood,check", 1, ROUNDS, 64).await;
    attack.said("now").await;
    let mut stream = attack.machine.dial(PORT).await.unwrap();
    attack.said("flooded").await;
    let mut received = Vec::new();
    // What it could take until it had enough.
    let _ = timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await.unwrap();
    assert!((1..=1 << 20).contains(&received.len()), "{} bytes", received.len());
    let (exit, text) = attack.end(Duration::from_secs(60)).await;
    assert!(exit == Exit::Reboot && !text.contains("FAIL"), "{exit}\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_to_be_deaf() {
    let Some(arena) = Arena::new() else { return };
    for attack in ["halt", "spin", "storm"] {
        let machine = arena.attack(attack, 1, ROUNDS, 64).await;
        machine.said("now").await;
        let longest = machine.obeys().await;
        println!("{attack}: obeys within {longest:?}");
        arena.check_disks();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_with_a_reason() {
    let Some(arena) = Arena::new() else { return };
    let monitor = |exit: &Exit| matches!(exit, Exit::Monitor { reason } if reason.contains("KVM"));
    for (attack, is_expected) in [
        ("triple", &(|exit: &Exit| *exit == Exit::TripleFault) as &dyn Fn(&Exit) -> bool),
        ("jump", &monitor),
        ("emulate", &monitor),
        ("init", &|exit| monitor(exit) || *exit == Exit::TripleFault),
        ("smi", &|exit| monitor(exit) || matches!(exit, Exit::TripleFault | Exit::Reboot)),
        ("suicide", &|exit| monitor(exit) || matches!(exit, Exit::TripleFault | Exit::Reboot)),
    ] {
        let machine = arena.attack(attack, 1, ROUNDS, 64).await;
        let began = Instant::now();
        let (exit, text) = machine.end(Duration::from_secs(30)).await;
        println!("{attack}: {exit} after {:?}", began.elapsed());
        assert!(is_expected(&exit), "{attack}: {exit}\n{text}");
        arena.check_disks();
    }
    // All that leaves the host as it was: a kernel that means well boots, up to its missing root.
    let attack = arena.boot(kernel(), vec![], 1, 128).await;
    let (exit, text) = attack.end(Duration::from_secs(60)).await;
    assert!(matches!(&exit, Exit::Panic { message } if message.contains("root")), "{exit}\n{text}");
}
