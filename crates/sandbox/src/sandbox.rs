//! A sandbox from its start to its end.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use costrel_agent_client::{
    AGENT_PORT, AgentClient, AgentError, FunctionSession, HostRelay,
    wire::{Account, PrepareRequest, RootAccess},
};
use costrel_rootfs::{StageError, StagedDisk, create_scratch};
use costrel_vmm::{
    Backend, BootError, Console, DialError, Disk, DiskAccess, DiskName, Exit, GuestPort,
    KernelImage, Machine, MachineError, MachineSpec, Memory, RestoreError, Saving, SpecError,
    VcpuCount,
};
use uuid::Uuid;

use crate::{
    directory::{DirectoryError, SandboxDirectory},
    host_ports::{HOST_PORT_LIMIT, HostPort, relay},
    record::{SandboxOrigin, SandboxRecord},
};

/// What all sandboxes of this host are made with.
#[derive(Clone, Debug)]
pub struct Host {
    /// What runs the machines.
    pub backend: Arc<dyn Backend>,
    /// The guest kernel.
    pub kernel: KernelImage,
    /// The init block, with the agent.
    pub init_block: Arc<StagedDisk>,
    /// Where the sandboxes' directories are made.
    pub sandboxes: PathBuf,
    /// How long an agent may take from the machine's start to its first word.
    pub boot_limit: Duration,
}

/// One sandbox to start.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// The machine's memory.
    pub memory: Memory,
    /// The machine's virtual CPUs.
    pub vcpus: VcpuCount,
    /// The most memory that the workload may use, in bytes; all there is if none is given.
    pub workload_memory_limit: Option<u64>,
    /// The disks that make up the root, the lowest first: at most 8.
    pub root_disks: Vec<Arc<StagedDisk>>,
    /// Whether the workload may write outside /tmp.
    pub root_access: RootAccess,
    /// The size of the scratch disk, which holds /tmp, in bytes.
    pub scratch_size: u64,
    /// Accounts to add to the root's own.
    pub accounts: Vec<Account>,
    /// Whether it will be saved ([`Sandbox::save`]).
    pub saving: Saving,
    /// What of the host's loopback the workload reaches: at most [`HOST_PORT_LIMIT`] ports, each
    /// once.
    pub host_ports: Vec<HostPort>,
}

/// Why a sandbox did not start. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory could not be made.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its scratch disk could not be made.
    #[error("cannot make the scratch disk")]
    Scratch(#[source] StageError),
    /// Too many disks, or the like.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Too many ports of the host.
    #[error(
        "{0} ports of this host are to be reached from the sandbox: at most {HOST_PORT_LIMIT} can be"
    )]
    HostPorts(usize),
    /// The machine did not start.
    #[error("cannot start the virtual machine")]
    Boot(#[from] BootError),
    /// The backend restores no machines.
    #[error("the backend {backend} cannot restore a virtual machine")]
    NoRestorer {
        /// The backend's name.
        backend: &'static str,
    },
    /// The machine could not be restored.
    #[error("cannot restore the virtual machine")]
    Restore(#[from] RestoreError),
    /// The machine could not be let go on.
    #[error(transparent)]
    Resume(#[from] MachineError),
    /// The agent's port could not be opened.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The machine ended before its agent answered.
    #[error("the virtual machine ended before its agent answered: {exit}{}", ConsoleTail(console))]
    Ended {
        /// How it ended.
        exit: Exit,
        /// What its console said last.
        console: String,
    },
    /// The agent said nothing for as long as it may.
    #[error("the agent in the virtual machine did not answer within {} s{}", limit.as_secs_f32(), ConsoleTail(console))]
    Silent {
        /// How long that was.
        limit: Duration,
        /// What the machine's console said last.
        console: String,
    },
    /// The agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

struct ConsoleTail<'a>(&'a str);

impl fmt::Display for ConsoleTail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = self.0.trim_end();
        if tail.is_empty() {
            return f.write_str("; its console said nothing");
        }
        f.write_str("; its console said last:")?;
        tail.lines().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// Where the time of a start went.
#[derive(Clone, Copy, Debug)]
pub enum StartTimes {
    /// A machine was booted.
    Booted(BootTimes),
    /// A machine was restored.
    Restored(RestoreTimes),
}

/// Where the time of a boot went.
#[derive(Clone, Copy, Debug)]
pub struct BootTimes {
    /// When the monitor was about to run the guest.
    pub booting: Instant,
    /// When the agent had answered.
    pub agent_ready: Instant,
    /// When the root was made.
    pub prepared: Instant,
}

/// Where the time of a restore went.
#[derive(Clone, Copy, Debug)]
pub struct RestoreTimes {
    /// When it began.
    pub began: Instant,
    /// When the guest executed.
    pub running: Instant,
    /// When the agent had heard that it goes on: until then, the guest took in what it needs of its
    /// memory, one fault after the other.
    pub awake: Instant,
    /// When clock and entropy were set, and the workload went on.
    pub resumed: Instant,
}

/// A running sandbox. Dropping it kills its machine and removes its directory.
#[derive(Debug)]
pub struct Sandbox {
    // In this order: the machine goes before its directory does.
    pub(crate) relay: Option<HostRelay>,
    pub(crate) host_ports: Vec<HostPort>,
    pub(crate) agent: AgentClient,
    pub(crate) machine: Box<dyn Machine>,
    pub(crate) directory: SandboxDirectory,
    pub(crate) disks: Vec<Arc<StagedDisk>>,
    pub(crate) times: StartTimes,
    pub(crate) answer_limit: Duration,
}

impl Sandbox {
    /// Boots a machine and has its agent make the root.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(host: &Host, spec: &SandboxSpec) -> Result<Self, StartError> {
        if spec.host_ports.len() > HOST_PORT_LIMIT {
            return Err(StartError::HostPorts(spec.host_ports.len()));
        }
        let directory = SandboxDirectory::create(&host.sandboxes, &Uuid::new_v4())?;
        let scratch = scratch_path(&directory);
        // An empty sparse file: a few writes, no reason to leave the executor.
        create_scratch(&scratch, spec.scratch_size).map_err(StartError::Scratch)?;
        let machine_spec = machine_spec(host, spec, &directory)?;
        let booting = Instant::now();
        let machine = host.backend.boot(&machine_spec).await?;
        SandboxRecord::new(host.backend.name(), &machine_spec, &*machine, SandboxOrigin::Boot)
            .write(directory.path())?;
        let first_words = async {
            let agent = AgentClient::connect(machine.dial(GuestPort(AGENT_PORT)).await?).await?;
            agent.describe().await?;
            Ok::<_, StartError>(agent)
        };
        let agent = answer(host.boot_limit, &*machine, first_words).await?;
        let agent_ready = Instant::now();
        answer(host.boot_limit, &*machine, agent.prepare(prepare_request(spec))).await?;
        let prepared = Instant::now();
        let times = StartTimes::Booted(BootTimes { booting, agent_ready, prepared });
        Ok(Self {
            relay: relay(&agent, &spec.host_ports),
            host_ports: spec.host_ports.clone(),
            agent,
            machine,
            directory,
            disks: spec.disks(host),
            times,
            answer_limit: host.boot_limit,
        })
    }

    /// Attaches to the machine's function.
    ///
    /// # Errors
    /// [`StartError`] if the agent does not answer as it should.
    pub async fn attach_function(&self) -> Result<FunctionSession, StartError> {
        answer(self.answer_limit, &*self.machine, self.agent.attach_function()).await
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &dyn Machine {
        &*self.machine
    }

    /// Where the time of its start went.
    #[must_use]
    pub fn times(&self) -> StartTimes {
        self.times
    }

    /// Ends the machine at once. Nothing of the sandbox is left when this returns.
    pub async fn kill(self) -> Exit {
        self.machine.kill().await
    }
}

impl SandboxSpec {
    /// All disks that a sandbox shares with others.
    pub(crate) fn disks(&self, host: &Host) -> Vec<Arc<StagedDisk>> {
        self.root_disks.iter().chain([&host.init_block]).cloned().collect()
    }
}

/// Waits for the agent's answer. The machine's end and the passing of time can come before it.
pub(crate) async fn answer<T>(
    limit: Duration,
    machine: &dyn Machine,
    call: impl Future<Output = Result<T, impl Into<StartError>>>,
) -> Result<T, StartError> {
    tokio::select! {
        biased;
        answer = call => match answer {
            Ok(answer) => Ok(answer),
            // A broken stream is what a dying machine looks like from here. Its end tells more.
            Err(error) => match tokio::time::timeout(Duration::from_secs(2), machine.wait()).await {
                Ok(exit) => Err(ended(machine, exit).await),
                Err(_) => Err(error.into()),
            },
        },
        exit = machine.wait() => Err(ended(machine, exit).await),
        () = tokio::time::sleep(limit) => {
            Err(StartError::Silent { limit, console: machine.console_tail().await })
        }
    }
}

// No closure in `answer`: the future of one could not be seen to be `Send`.
async fn ended(machine: &dyn Machine, exit: Exit) -> StartError {
    StartError::Ended { exit, console: machine.console_tail().await }
}

const CONSOLE_LIMIT: u64 = 256 << 10;

/// Where a sandbox's own disk is.
pub(crate) fn scratch_path(directory: &SandboxDirectory) -> PathBuf {
    directory.path().join("scratch.ext4")
}

pub(crate) fn machine_spec(
    host: &Host,
    spec: &SandboxSpec,
    directory: &SandboxDirectory,
) -> Result<MachineSpec, SpecError> {
    let mut disks = vec![Disk {
        name: DiskName::new("init")?,
        path: host.init_block.path().to_owned(),
        access: DiskAccess::ReadOnly,
    }];
    for (index, disk) in spec.root_disks.iter().enumerate() {
        let name = DiskName::new(root_disk_name(index))?;
        disks.push(Disk { name, path: disk.path().to_owned(), access: DiskAccess::ReadOnly });
    }
    let scratch = scratch_path(directory);
    disks.push(Disk { name: DiskName::new(SCRATCH)?, path: scratch, access: DiskAccess::Scratch });
    Ok(MachineSpec {
        vcpus: spec.vcpus,
        memory: spec.memory,
        kernel: host.kernel.clone(),
        kernel_arguments: vec!["init=/sbin/vminitd".to_owned()],
        disks,
        ports: vec![GuestPort(AGENT_PORT)],
        saving: spec.saving,
        console: Console { path: directory.path().join("console.log"), limit: CONSOLE_LIMIT },
        directory: directory.path().to_owned(),
    })
}

const SCRATCH: &str = "scratch";

fn root_disk_name(index: usize) -> String {
    format!("root{index}")
}

fn prepare_request(spec: &SandboxSpec) -> PrepareRequest {
    PrepareRequest {
        clock_unix_nanos: unix_nanos(),
        entropy: entropy().to_vec().into(),
        hostname: String::new(),
        root_disks: (0..spec.root_disks.len()).map(root_disk_name).collect(),
        scratch_disk: SCRATCH.to_owned(),
        root_access: spec.root_access.into(),
        accounts: spec.accounts.clone(),
        memory_limit_bytes: spec.workload_memory_limit.unwrap_or(0),
        host_ports: spec.host_ports.iter().map(Into::into).collect(),
    }
}

/// The wall clock.
pub(crate) fn unix_nanos() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(0)
}

/// Bytes that nobody else gets.
pub(crate) fn entropy() -> [u8; 64] {
    let mut entropy = [0; 64];
    // Always there by the time that a VM can be started.
    let _ = rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty());
    entropy
}
