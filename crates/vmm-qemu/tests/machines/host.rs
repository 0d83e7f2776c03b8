//! What the tests run their guests with.

use std::{
    ffi::OsString,
    fs,
    future::Future,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};

use costrel_vmm::{
    Backend as _, ByteStream, Console, Disk, DiskAccess, DiskName, GuestPort, KernelImage, Machine,
    MachineSpec, Memory, Saving, VcpuCount,
};
use costrel_vmm_qemu::{QemuBackend, QemuSearch};
use rustix::{
    event::{PollFd, PollFlags},
    process::Pid,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    time::{sleep, timeout},
};

pub(crate) const PORT: GuestPort = GuestPort(1024);

/// A place for a machine, and what it is made of.
pub(crate) struct Host {
    pub(crate) backend: Arc<QemuBackend>,
    pub(crate) spec: MachineSpec,
    pub(crate) directory: TempDir,
}

/// Far beyond what a busy machine needs: a test that hangs shall fail.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a test's body, or says what is missing for it.
#[expect(clippy::print_stderr, reason = "this is how a skipped test says so")]
pub(crate) fn test<Body: Future<Output = ()>>(body: impl FnOnce(Host) -> Body) {
    let host = match Host::new() {
        Ok(host) => host,
        Err(lacks) => {
            eprintln!("SKIPPED: lacks {lacks}");
            return;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, body(host)).await }).expect("the test hangs");
}

impl Host {
    fn new() -> Result<Self, String> {
        let kernel = std::env::var_os("COSTREL_TEST_KERNEL")
            .ok_or("a kernel: set COSTREL_TEST_KERNEL to a vmlinux")?;
        let search = QemuSearch { program: None, path: std::env::var_os("PATH") };
        let backend = QemuBackend::find(&search).map_err(|error| error.to_string())?;
        static ROOT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let root = ROOT.get_or_init(build_root).clone()?;
        let directory = tempfile::tempdir().unwrap();
        let spec = MachineSpec {
            vcpus: VcpuCount::ONE,
            memory: Memory::mib(128).unwrap(),
            kernel: KernelImage { path: kernel.into() },
            kernel_arguments: vec!["init=/init".to_owned()],
            disks: vec![Disk {
                name: DiskName::new("root").unwrap(),
                path: root,
                access: DiskAccess::ReadOnly,
            }],
            ports: vec![PORT],
            saving: Saving::Never,
            console: Console { path: PathBuf::new(), limit: 1 << 20 },
            directory: PathBuf::new(),
        };
        let host = Self { backend: Arc::new(backend), spec, directory };
        let directory = host.directory.path().to_owned();
        Ok(host.in_directory(&directory))
    }

    /// The same, for a machine of its own.
    pub(crate) fn sibling(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        Self { backend: Arc::clone(&self.backend), spec: self.spec.clone(), directory }
            .in_directory(&path)
    }

    pub(crate) fn in_directory(mut self, directory: &Path) -> Self {
        self.spec.directory = directory.join("machine");
        self.spec.console.path = directory.join("console.log");
        fs::create_dir_all(&self.spec.directory).unwrap();
        self
    }

    pub(crate) async fn boot(&self) -> Box<dyn Machine> {
        self.backend.boot(&self.spec).await.unwrap()
    }

    /// The QEMU that runs in this place.
    pub(crate) fn qemu(&self) -> Pid {
        let record = fs::read_to_string(self.spec.directory.join("monitor.pid")).unwrap();
        Pid::from_raw(record.split(' ').next().unwrap().parse().unwrap()).unwrap()
    }

    /// Whether there is such a process, be it a zombie.
    pub(crate) fn runs(&self, pid: Pid) -> bool {
        Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()
    }

    pub(crate) fn assert_clean(&self) {
        let left: Vec<OsString> =
            fs::read_dir(&self.spec.directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// Compiles the guest and makes its disk. Every test process makes it anew, under the same name.
fn build_root() -> Result<PathBuf, String> {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tree = place.path().join("root");
    for directory in ["dev", "proc", "sys"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machines/guest.c");
    run(Command::new("cc").args(["-O1", "-static", "-o"]).arg(tree.join("init")).arg(source))?;
    let draft = place.path().join("root.ext4");
    let make = Path::new("/sbin/mke2fs");
    let make = if make.exists() { make } else { Path::new("mke2fs") };
    run(Command::new(make).args(["-qFt", "ext4", "-d"]).arg(&tree).arg(&draft).arg("8M"))?;
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest.ext4");
    fs::rename(draft, &root).unwrap();
    Ok(root)
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{name} ({error})"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{name} that works: {complaint}")) }
}

/// Waits, without a deadline of its own, until something holds.
pub(crate) async fn eventually(mut holds: impl FnMut() -> bool) {
    while !holds() {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a process has ended.
pub(crate) fn wait_for_end(process: &OwnedFd) {
    rustix::event::poll(&mut [PollFd::new(process, PollFlags::IN)], None).unwrap();
}

/// Lines to and from the guest.
pub(crate) struct Conversation(BufReader<Box<dyn ByteStream>>);

impl Conversation {
    pub(crate) async fn dial(machine: &dyn Machine) -> Self {
        Self(BufReader::new(machine.dial(PORT).await.unwrap()))
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> String {
        let mut line = String::new();
        let count = self.0.read_line(&mut line).await.unwrap();
        assert_ne!(count, 0, "the machine hung up");
        line.trim_end_matches('\n').to_owned()
    }

    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.say(line).await;
        self.hear().await
    }

    /// False if nothing comes for a while, which proves little, but never fails a sound machine.
    pub(crate) async fn can_be_heard_for_a_while(&mut self) -> bool {
        timeout(Duration::from_millis(300), self.0.fill_buf()).await.is_ok()
    }

    pub(crate) async fn is_over(&mut self) -> bool {
        self.0.fill_buf().await.is_ok_and(<[u8]>::is_empty)
    }
}
