//! Saving a sandbox into a snapshot, and going on from one.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use costrel_agent_client::{AGENT_PORT, AgentClient, AgentError, wire::ResumeRequest};
use costrel_rootfs::StagedDisk;
use costrel_snapshot::{Fact, Snapshot, SnapshotDraft, copy_sparse};
use costrel_vmm::{BootError, DialError, GuestPort, Machine, MachineError, SaveError, file_stamp};
use uuid::Uuid;

use crate::{
    directory::SandboxDirectory,
    host_ports::{HostPort, relay},
    record::{SandboxOrigin, SandboxRecord},
    sandbox::{
        Host, RestoreTimes, Sandbox, SandboxSpec, StartError, StartTimes, answer, entropy,
        machine_spec, scratch_path, unix_nanos,
    },
};

/// A sandbox that was to be saved and goes on, and whether it was.
#[derive(Debug)]
pub struct Saved {
    /// The sandbox. What was attached to it before is of no use any more.
    pub sandbox: Sandbox,
    /// What came of it. If it failed, the draft holds nothing of use.
    pub outcome: Result<(), SaveSandboxError>,
}

/// Why a sandbox was not saved. It goes on all the same.
#[derive(Debug, thiserror::Error)]
pub enum SaveSandboxError {
    /// Its machine cannot be saved: its backend lacks the power, or it was not started for it.
    #[error("the virtual machine cannot be saved")]
    NoSaver,
    /// Its agent could not bring the workload to a stand.
    #[error(transparent)]
    Suspend(#[from] AgentError),
    /// Its machine did not stop.
    #[error(transparent)]
    Pause(#[from] MachineError),
    /// The machine was not saved.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Its disk was not copied.
    #[error("cannot copy the scratch disk")]
    Scratch(#[source] io::Error),
}

/// However slow the host is, by then a machine goes on from its snapshot or never will.
const RESTORE_LIMIT: Duration = Duration::from_secs(40);
/// How long an attempt to reach the agent may take. The first one gets through, unless the stream
/// was cut off at the worst of moments: a serial port has no beginnings and ends of its own. So it
/// is given time, on a host that restores many at once as well.
const ATTEMPT: Duration = Duration::from_secs(15);
/// How long a stream stays closed before the next one is opened: longer than an agent takes to be
/// sure that its client has hung up.
const PAUSE: Duration = Duration::from_millis(150);

impl Sandbox {
    /// Saves the sandbox into a snapshot that is being taken, and lets it go on. Whatever holds a
    /// conversation with its agent must be dropped before.
    ///
    /// # Errors
    /// [`StartError`] if the machine does not go on; then nothing is left of the sandbox.
    pub async fn save(self, draft: &SnapshotDraft) -> Result<Saved, StartError> {
        let Self {
            relay: relaying,
            host_ports,
            agent,
            machine,
            directory,
            disks,
            times,
            answer_limit,
        } = self;
        // What it carries ends here: the other end would not find it after a restore.
        if let Some(relaying) = relaying {
            relaying.stop().await;
        }
        let suspended = agent.suspend().await;
        // Streams do not survive: both sides begin anew.
        drop(agent);
        let outcome = match suspended {
            Ok(()) => save_machine(&*machine, &directory, draft).await,
            Err(error) => Err(error.into()),
        };
        machine.resume().await?;
        let resume = async |agent: &AgentClient| agent.resume(as_it_was()).await;
        let (agent, _) = reach(answer_limit, &*machine, resume).await?;
        let relay = relay(&agent, &host_ports);
        let sandbox =
            Self { relay, host_ports, agent, machine, directory, disks, times, answer_limit };
        Ok(Saved { sandbox, outcome })
    }

    /// Starts a sandbox that goes on from a snapshot. The spec is the one of the sandbox that was
    /// saved. Before its workload runs, it has new entropy and the host's time.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left of it.
    pub async fn restore(
        host: &Host,
        spec: &SandboxSpec,
        snapshot: &Snapshot,
    ) -> Result<Self, StartError> {
        let began = Instant::now();
        Self::stand_by(host, spec, snapshot, Warmth::Cold).await?.go_on(began).await
    }

    /// Does of a restore what need not wait for the sandbox to be wanted, which is nearly all of it:
    /// for whoever serves many calls. The workload stands still, and so does the machine.
    ///
    /// # Errors
    /// As [`Sandbox::restore`].
    pub async fn stand_by(
        host: &Host,
        spec: &SandboxSpec,
        snapshot: &Snapshot,
        warmth: Warmth,
    ) -> Result<Standby, StartError> {
        let (machine, directory) = restored(host, spec, snapshot).await?;
        let agent = match warmth {
            Warmth::Cold => None,
            Warmth::Warm => {
                machine.resume().await?;
                let limit = host.boot_limit.min(RESTORE_LIMIT);
                let describe = async |agent: &AgentClient| agent.describe().await;
                let (agent, _) = reach(limit, &*machine, describe).await?;
                machine.pause().await?;
                Some(agent)
            }
        };
        Ok(Standby {
            host_ports: spec.host_ports.clone(),
            agent,
            machine,
            directory,
            disks: spec.disks(host),
            answer_limit: host.boot_limit,
        })
    }
}

/// How far a machine has got that stands by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warmth {
    /// It has not run yet. It takes little memory of its own.
    Cold,
    /// Its agent has answered once: what that takes of its memory is there, and under emulation its
    /// code is translated.
    Warm,
}

/// A sandbox that was restored and stands still. It takes memory and no CPU time.
#[derive(Debug)]
pub struct Standby {
    // In the order of `Sandbox`.
    host_ports: Vec<HostPort>,
    agent: Option<AgentClient>,
    machine: Box<dyn Machine>,
    directory: SandboxDirectory,
    disks: Vec<Arc<StagedDisk>>,
    answer_limit: Duration,
}

impl Standby {
    /// Lets it go on, with new entropy and the host's time.
    ///
    /// # Errors
    /// [`StartError`]; then nothing is left of it.
    pub async fn wake(self) -> Result<Sandbox, StartError> {
        self.go_on(Instant::now()).await
    }

    /// Of a start that began then.
    async fn go_on(self, began: Instant) -> Result<Sandbox, StartError> {
        let Self { host_ports, agent, machine, directory, disks, answer_limit } = self;
        machine.resume().await?;
        let running = Instant::now();
        let resume = async |agent: &AgentClient| agent.resume(anew()).await;
        let (agent, took) = match agent {
            Some(agent) => {
                let took = answer(answer_limit, &*machine, resume(&agent)).await?;
                (agent, took)
            }
            None => reach(answer_limit.min(RESTORE_LIMIT), &*machine, resume).await?,
        };
        let resumed = Instant::now();
        let awake = resumed.checked_sub(took).unwrap_or(running).max(running);
        let times = StartTimes::Restored(RestoreTimes { began, running, awake, resumed });
        let relay = relay(&agent, &host_ports);
        Ok(Sandbox { relay, host_ports, agent, machine, directory, disks, times, answer_limit })
    }
}

/// What the machine needs that was saved: its clock has stood still, its entropy is its own.
fn as_it_was() -> ResumeRequest {
    ResumeRequest { clock_unix_nanos: unix_nanos(), ..ResumeRequest::default() }
}

/// What makes a machine another one than the one that was saved.
fn anew() -> ResumeRequest {
    ResumeRequest {
        clock_unix_nanos: unix_nanos(),
        entropy: entropy().to_vec().into(),
        ..ResumeRequest::default()
    }
}

/// A machine that stands where the saved one stood.
async fn restored(
    host: &Host,
    spec: &SandboxSpec,
    snapshot: &Snapshot,
) -> Result<(Box<dyn Machine>, SandboxDirectory), StartError> {
    let name = host.backend.name();
    let restorer = host.backend.restorer().ok_or(StartError::NoRestorer { backend: name })?;
    let directory = SandboxDirectory::create(&host.sandboxes, &Uuid::new_v4())?;
    copy_scratch(snapshot, &directory).await.map_err(|source| BootError::Host {
        operation: "copy the snapshot's scratch disk",
        source,
    })?;
    let machine_spec = machine_spec(host, spec, &directory)?;
    let machine = restorer.restore(&machine_spec, snapshot.files()).await?;
    SandboxRecord::new(name, &machine_spec, &*machine, SandboxOrigin::Snapshot)
        .write(directory.path())?;
    Ok((machine, directory))
}

async fn save_machine(
    machine: &dyn Machine,
    directory: &SandboxDirectory,
    draft: &SnapshotDraft,
) -> Result<(), SaveSandboxError> {
    let saver = machine.saver().ok_or(SaveSandboxError::NoSaver)?;
    machine.pause().await?;
    saver.save(draft.files()).await?;
    let copied = File::open(scratch_path(directory))
        .and_then(|scratch| Ok((scratch, draft.scratch().try_clone()?)))
        .map_err(SaveSandboxError::Scratch)?;
    blocking(move || copy_sparse(&copied.0, &copied.1)).await.map_err(SaveSandboxError::Scratch)
}

async fn copy_scratch(snapshot: &Snapshot, directory: &SandboxDirectory) -> io::Result<()> {
    let from = snapshot.scratch().try_clone()?;
    let path = scratch_path(directory);
    blocking(move || {
        let to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        copy_sparse(&from, &to)
    })
    .await
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reaches the agent of a machine that goes on, and asks it something.
async fn reach<T>(
    limit: Duration,
    machine: &dyn Machine,
    ask: impl AsyncFn(&AgentClient) -> Result<T, AgentError>,
) -> Result<(AgentClient, T), StartError> {
    let attempts = async {
        loop {
            let attempt = async {
                let agent = AgentClient::connect(dial(machine).await?).await?;
                let answer = ask(&agent).await?;
                Ok::<_, StartError>((agent, answer))
            };
            match tokio::time::timeout(ATTEMPT, attempt).await {
                Ok(Ok(reached)) => return Ok(reached),
                // It answered, and it cannot.
                Ok(Err(error)) if !is_broken_stream(&error) => return Err(error),
                Ok(Err(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    };
    answer(limit, machine, attempts).await
}

/// A backend may not have noticed yet that the last stream was closed.
async fn dial(machine: &dyn Machine) -> Result<Box<dyn costrel_vmm::ByteStream>, StartError> {
    loop {
        match machine.dial(GuestPort(AGENT_PORT)).await {
            Err(DialError::Busy(_)) => tokio::time::sleep(Duration::from_millis(1)).await,
            dialled => return Ok(dialled?),
        }
    }
}

fn is_broken_stream(error: &StartError) -> bool {
    matches!(error, StartError::Dial(_))
        || matches!(error, StartError::Agent(error) if error.is_broken_stream())
}

/// What a sandbox's snapshot depends on, as far as the machine goes; nothing where the backend
/// cannot restore any.
///
/// # Errors
/// [`StartError`] if that cannot be found out.
pub fn snapshot_facts(host: &Host, spec: &SandboxSpec) -> Result<Option<Vec<Fact>>, StartError> {
    let Some(restorer) = host.backend.restorer() else { return Ok(None) };
    let path = &host.kernel.path;
    let stamp = file_stamp(path).map_err(|source| BootError::File {
        what: "kernel",
        path: path.clone(),
        source,
    })?;
    let kernel = format!("{}, {stamp}", path.display());
    let host_ports: Vec<_> = spec.host_ports.iter().map(ToString::to_string).collect();
    let host_ports = host_ports.join(", ");
    let mut facts = vec![Fact::new("backend", host.backend.name())];
    facts.extend(restorer.compatibility()?.into_iter().map(|(name, value)| Fact::new(name, value)));
    facts.extend([
        Fact::new("kernel", kernel),
        Fact::new("agent", host.init_block.key().hex()),
        Fact::new("vCPUs", spec.vcpus.get().to_string()),
        Fact::new("machine memory", format!("{} MiB", spec.memory.as_mib())),
        Fact::new("workload memory", format!("{:?}", spec.workload_memory_limit)),
        Fact::new("scratch disk", format!("{} bytes", spec.scratch_size)),
        Fact::new("root access", spec.root_access.as_str_name()),
        Fact::new("accounts", format!("{:?}", spec.accounts)),
        Fact::new("host ports", host_ports),
    ]);
    let disks = spec.root_disks.iter().zip(1..);
    facts.extend(disks.map(|(disk, number)| Fact::new(format!("disk {number}"), disk.key().hex())));
    Ok(Some(facts))
}
