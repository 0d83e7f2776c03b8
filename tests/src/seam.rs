//! A machine at the seam, without a sandbox around it: what a test says of it, it gets.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use costrel_agent_client::{
    AGENT_PORT, AgentClient, AgentError, Process, exit_code,
    wire::{EnvironmentVariable, PrepareRequest, ProcessSpec, RootAccess, run_response::Response},
};
use costrel_rootfs::{StagedDisk, create_scratch};
use costrel_snapshot::copy_sparse;
use costrel_vmm::{
    BootError, Console, DialError, Disk, DiskAccess, DiskName, GuestPort, Machine, MachineSpec,
    Memory, RestoreError, Restorer, SaveError, Saving, SnapshotFiles, VcpuCount,
};
use tokio::time::{sleep, timeout};

use crate::{Home, TestHost, unhurried};

/// The most that an agent may take until it answers.
const BOOT: Duration = Duration::from_secs(240);

/// What a test's machine is made of, where that matters.
#[derive(Clone, Debug)]
pub struct Shape {
    /// How many virtual CPUs.
    pub vcpus: u32,
    /// How much memory, in MiB.
    pub memory_mib: u64,
    /// The size of the scratch disk, in bytes.
    pub scratch_size: u64,
    /// The most that the console's log may hold, in bytes.
    pub console_limit: u64,
    /// More arguments for the kernel.
    pub kernel_arguments: Vec<String>,
    /// Whether it will be saved.
    pub saving: Saving,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            vcpus: 1,
            memory_mib: 192,
            scratch_size: 512 << 20,
            console_limit: 64 << 10,
            kernel_arguments: vec![],
            saving: Saving::Never,
        }
    }
}

/// The files of a machine that was not started yet, in a directory of its own.
#[derive(Debug)]
pub struct Blueprint {
    /// What would be started. A test may change it.
    pub spec: MachineSpec,
    host: Arc<TestHost>,
    root: Arc<StagedDisk>,
    directory: tempfile::TempDir,
}

/// A machine whose agent has made the root: the Python image, with /tmp on the scratch disk.
#[derive(Debug)]
pub struct Guest {
    // In this order: the machine goes before its directory does.
    agent: Option<AgentClient>,
    machine: Box<dyn Machine>,
    blueprint: Blueprint,
}

/// A machine that was saved, with the scratch disk that it had then.
#[derive(Debug)]
pub struct Saved {
    /// The two files, `state` and `memory` in the directory.
    pub files: SnapshotFiles,
    spec: MachineSpec,
    host: Arc<TestHost>,
    root: Arc<StagedDisk>,
    directory: tempfile::TempDir,
}

impl Blueprint {
    /// Makes what a machine of that shape needs.
    ///
    /// # Panics
    /// If the files cannot be made.
    pub async fn new(shape: Shape) -> Self {
        let host = Arc::new(TestHost::new(&Home::shared()));
        let root = host.python_disk().await;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let scratch = directory.path().join("scratch.ext4");
        create_scratch(&scratch, shape.scratch_size).expect("a scratch disk");
        let disk = |name: &str, path: PathBuf, access| Disk {
            name: DiskName::new(name).expect("a disk's name"),
            path,
            access,
        };
        let init = host.host.init_block.path().to_owned();
        let mut kernel_arguments = vec!["init=/sbin/vminitd".to_owned()];
        kernel_arguments.extend(shape.kernel_arguments);
        let spec = MachineSpec {
            vcpus: VcpuCount::new(shape.vcpus).expect("a number of vCPUs"),
            memory: Memory::mib(shape.memory_mib).expect("an amount of memory"),
            kernel: host.host.kernel.clone(),
            kernel_arguments,
            disks: vec![
                disk("init", init, DiskAccess::ReadOnly),
                disk("root0", root.path().to_owned(), DiskAccess::ReadOnly),
                disk("scratch", scratch, DiskAccess::Scratch),
            ],
            ports: vec![GuestPort(AGENT_PORT)],
            saving: shape.saving,
            console: Console {
                path: directory.path().join("console.log"),
                limit: shape.console_limit,
            },
            directory: directory.path().to_owned(),
        };
        Self { spec, host, root, directory }
    }

    /// What boots it: `kvm` or `emulated`.
    #[must_use]
    pub fn backend(&self) -> &'static str {
        self.host.host.backend.name()
    }

    /// The root's disk.
    #[must_use]
    pub fn root(&self) -> &StagedDisk {
        &self.root
    }

    /// The power to restore machines, where its backend has it.
    #[must_use]
    pub fn restorer(&self) -> Option<&dyn Restorer> {
        self.host.host.backend.restorer()
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the machine, and does not wait for its agent.
    ///
    /// # Errors
    /// [`BootError`].
    pub async fn boot(&self) -> Result<Box<dyn Machine>, BootError> {
        self.host.host.backend.boot(&self.spec).await
    }
}

impl Guest {
    /// Boots a machine of that shape, and has its agent make the root.
    ///
    /// # Panics
    /// If that fails, with what the console said.
    pub async fn start(shape: Shape) -> Self {
        let blueprint = Blueprint::new(shape).await;
        let machine = blueprint.boot().await.expect("a machine");
        let mut guest = Self { agent: None, machine, blueprint };
        guest.connect_within(BOOT).await;
        guest.agent().prepare(prepare_request()).await.expect("a root");
        guest
    }

    /// Connects to the agent, as often as it takes: of a stream that follows another one, or a
    /// restore, the guest may take the beginning for the old one's end.
    ///
    /// # Panics
    /// If that fails, with what the console said.
    pub async fn connect(&mut self) {
        self.connect_within(Duration::from_secs(unhurried(2).into())).await;
    }

    /// As [`Guest::connect`], where an answer may take so long at first.
    async fn connect_within(&mut self, mut patience: Duration) {
        self.agent = None;
        let connect = async {
            loop {
                if let Ok(Some(agent)) = timeout(patience, self.try_connect()).await {
                    return agent;
                }
                patience *= 2;
                // A port is closed for long enough to be seen.
                sleep(Duration::from_millis(100)).await;
            }
        };
        let agent = tokio::select! {
            agent = timeout(BOOT, connect) => agent.ok(),
            exit = self.machine.wait() => {
                panic!("{exit}: {}", self.machine.console_tail().await)
            }
        };
        if agent.is_none() {
            panic!("silent: {}", self.machine.console_tail().await);
        }
        self.agent = agent;
    }

    async fn try_connect(&self) -> Option<AgentClient> {
        let stream = match self.machine.dial(GuestPort(AGENT_PORT)).await {
            Ok(stream) => stream,
            // The last one ends a moment after its agent was dropped.
            Err(DialError::Busy(_)) => return None,
            Err(error) => panic!("{error}"),
        };
        let agent = AgentClient::connect(stream).await.ok()?;
        match agent.describe().await {
            Ok(_) => Some(agent),
            Err(error) if error.is_broken_stream() => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Ends the connection to the agent.
    pub fn hang_up(&mut self) {
        self.agent = None;
    }

    /// Saves the machine, and lets it go on.
    ///
    /// # Panics
    /// If that fails.
    pub async fn save(&mut self) -> Saved {
        self.hang_up();
        self.machine.pause().await.expect("a pause");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let saved = self.saved_in(directory);
        self.save_to(&saved.files).await.expect("a snapshot");
        copy(&self.scratch(), &saved.directory.path().join("scratch.ext4"));
        self.machine.resume().await.expect("a machine that goes on");
        self.connect().await;
        saved
    }

    /// Saves the machine, which is paused, into these files.
    ///
    /// # Errors
    /// [`SaveError`].
    ///
    /// # Panics
    /// If it cannot be saved at all.
    pub async fn save_to(&self, files: &SnapshotFiles) -> Result<(), SaveError> {
        self.machine.saver().expect("a machine that can be saved").save(files).await
    }

    fn saved_in(&self, directory: tempfile::TempDir) -> Saved {
        let Blueprint { spec, host, root, .. } = &self.blueprint;
        Saved {
            files: snapshot_files(directory.path()),
            spec: spec.clone(),
            host: Arc::clone(host),
            root: Arc::clone(root),
            directory,
        }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// The agent.
    ///
    /// # Panics
    /// If the connection to it was ended.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        self.agent.as_ref().expect("a connection to the agent")
    }

    /// What it was started from.
    #[must_use]
    pub fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// The scratch disk's image.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.blueprint.directory.path().join("scratch.ext4")
    }

    /// Starts a shell's script, as root.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn run(&self, script: &str) -> Result<Process, AgentError> {
        let path = EnvironmentVariable { name: "PATH".into(), value: "/usr/bin:/bin".into() };
        let spec = ProcessSpec {
            arguments: vec!["sh".into(), "-c".into(), script.into()],
            environment: vec![path],
            working_directory: "/tmp".into(),
            user: String::new(),
        };
        self.agent().run(spec).await
    }

    /// What a shell's script prints.
    ///
    /// # Panics
    /// If it fails.
    pub async fn says(&self, script: &str) -> String {
        let mut process = match self.run(script).await {
            Ok(process) => process,
            Err(error) => panic!("{error}: {}", self.machine.console_tail().await),
        };
        let (mut output, mut code) = (Vec::new(), None);
        while let Some(response) = process.response().await.expect("a response") {
            match response {
                Response::Started(_) => {}
                Response::Stdout(data) | Response::Stderr(data) => output.extend_from_slice(&data),
                Response::Exited(exited) => code = Some(exit_code(&exited)),
                Response::StartFailure(failure) => panic!("{failure:?}"),
            }
        }
        let output = String::from_utf8_lossy(&output).into_owned();
        assert_eq!(code, Some(0), "{script}: {output}");
        output
    }
}

impl Saved {
    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The place of a machine to restore, with a scratch disk of its own.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn blueprint(&self) -> Blueprint {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut spec = self.spec.clone();
        let scratch = directory.path().join("scratch.ext4");
        copy(&self.directory.path().join("scratch.ext4"), &scratch);
        let disk = spec.disks.iter_mut().find(|disk| disk.name.as_str() == "scratch");
        disk.expect("a scratch disk").path = scratch;
        spec.console.path = directory.path().join("console.log");
        directory.path().clone_into(&mut spec.directory);
        let (host, root) = (Arc::clone(&self.host), Arc::clone(&self.root));
        Blueprint { spec, host, root, directory }
    }

    /// Restores a machine in a place, and does not wait for its agent.
    ///
    /// # Errors
    /// [`RestoreError`].
    ///
    /// # Panics
    /// If the backend restores no machines.
    pub async fn restore_in(
        &self,
        blueprint: &Blueprint,
    ) -> Result<Box<dyn Machine>, RestoreError> {
        let restorer = blueprint.restorer().expect("a backend that restores machines");
        restorer.restore(&blueprint.spec, &self.files).await
    }

    /// A machine restored, and connected to.
    ///
    /// # Panics
    /// If that fails.
    pub async fn restore(&self) -> Guest {
        let blueprint = self.blueprint();
        let machine = self.restore_in(&blueprint).await.expect("a restored machine");
        machine.resume().await.expect("a machine that goes on");
        let mut guest = Guest { agent: None, machine, blueprint };
        guest.connect().await;
        guest
    }
}

/// New files for a snapshot.
///
/// # Panics
/// If they cannot be made.
#[must_use]
pub fn snapshot_files(directory: &Path) -> SnapshotFiles {
    let file = |name| {
        let path = directory.join(name);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).open(path).expect("a file")
    };
    SnapshotFiles { state: file("state"), memory: file("memory") }
}

/// With its holes, as the standard library does not.
fn copy(from: &Path, to: &Path) {
    let to = File::create(to).expect("a file");
    copy_sparse(&File::open(from).expect("a file"), &to).expect("a copy");
}

fn prepare_request() -> PrepareRequest {
    PrepareRequest {
        clock_unix_nanos: 1_700_000_000_000_000_000,
        entropy: vec![7; 32].into(),
        hostname: String::new(),
        root_disks: vec!["root0".to_owned()],
        scratch_disk: "scratch".to_owned(),
        root_access: RootAccess::ReadOnly.into(),
        accounts: vec![],
        memory_limit_bytes: 0,
        host_ports: vec![],
    }
}
