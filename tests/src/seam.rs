//! A machine at the seam, without a sandbox around it: what a test says of it, it gets.

use std::{path::PathBuf, sync::Arc, time::Duration};

use costrel_agent_client::{
    AGENT_PORT, AgentClient, AgentError, Process, exit_code,
    wire::{EnvironmentVariable, PrepareRequest, ProcessSpec, RootAccess, run_response::Response},
};
use costrel_rootfs::{StagedDisk, create_scratch};
use costrel_vmm::{
    BootError, Console, Disk, DiskAccess, DiskName, GuestPort, Machine, MachineSpec, Memory,
    Saving, VcpuCount,
};

use crate::{Home, TestHost};

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
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            vcpus: 1,
            memory_mib: 192,
            scratch_size: 512 << 20,
            console_limit: 64 << 10,
            kernel_arguments: vec![],
        }
    }
}

/// The files of a machine that was not started yet, in a directory of its own.
#[derive(Debug)]
pub struct Blueprint {
    /// What would be started. A test may change it.
    pub spec: MachineSpec,
    host: TestHost,
    root: Arc<StagedDisk>,
    directory: tempfile::TempDir,
}

/// A machine whose agent has made the root: the Python image, with /tmp on the scratch disk.
#[derive(Debug)]
pub struct Guest {
    // In this order: the machine goes before its directory does.
    agent: AgentClient,
    machine: Box<dyn Machine>,
    blueprint: Blueprint,
}

impl Blueprint {
    /// Makes what a machine of that shape needs.
    ///
    /// # Panics
    /// If the files cannot be made.
    pub async fn new(shape: Shape) -> Self {
        let host = TestHost::new(&Home::shared());
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
            saving: Saving::Never,
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
        let agent = async {
            let stream = machine.dial(GuestPort(AGENT_PORT)).await.expect("a stream");
            let agent = AgentClient::connect(stream).await.expect("an agent");
            agent.prepare(prepare_request()).await.map(|()| agent)
        };
        let agent = tokio::select! {
            agent = tokio::time::timeout(Duration::from_secs(240), agent) => agent.ok(),
            exit = machine.wait() => panic!("{exit}: {}", machine.console_tail().await),
        };
        let Some(agent) = agent else { panic!("silent: {}", machine.console_tail().await) };
        Self { agent: agent.expect("a root"), machine, blueprint }
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        &self.agent
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
        self.agent.run(spec).await
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
    }
}
