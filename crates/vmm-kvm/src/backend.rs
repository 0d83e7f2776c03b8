//! Boots machines, each in a process of `costrel-vmm`.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::{fs::PermissionsExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    thread,
};

use async_trait::async_trait;
use costrel_vmm::{
    Backend, BootError, JailReport, Machine, MachineSpec, RestoreError, Restorer, SnapshotFiles,
    Strictness,
};
use costrel_vmm_process::{FileView, GroupSpec, JailSpec, MonitorSpec, ResourceLimits, spawn};
use tokio::sync::oneshot;

use crate::{
    HugePages,
    compatibility::compatibility,
    control::{Event, Request},
    machine::KvmMachine,
    supervisor::{Plan, say, spawn_error, supervise},
};

const DEVICE: &str = "/dev/kvm";
/// Two of the devices that there can be are always there; one more is a network card's place.
const MOST_DISKS: usize = 8;

/// What the backend is made of.
#[derive(Clone, Debug)]
pub struct KvmSettings {
    /// The program `costrel-vmm`, which must be static.
    pub program: PathBuf,
    /// What is done where a part of the jail cannot be had.
    pub strictness: Strictness,
    /// Whether guests' memory is in huge pages.
    pub huge_pages: HugePages,
}

/// KVM on this host.
#[derive(Clone)]
pub struct KvmBackend {
    settings: KvmSettings,
}

/// Why the program cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {}, which runs machines on KVM", path.display())]
pub struct ProgramError {
    /// Its path.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl KvmBackend {
    /// Looks whether the program is there. Whether KVM works is for others to find out.
    ///
    /// # Errors
    /// [`ProgramError`].
    pub fn new(settings: KvmSettings) -> Result<Self, ProgramError> {
        check_program(&settings.program)
            .map_err(|source| ProgramError { path: settings.program.clone(), source })?;
        Ok(Self { settings })
    }

    /// Has the program enter the jail of a machine, without one, and says what is in force of it.
    /// Takes milliseconds.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn try_jail(&self) -> Result<JailReport, BootError> {
        let host = |operation| move |source| BootError::Host { operation, source };
        let (control, theirs) = UnixStream::pair().map_err(host("make a pair of sockets"))?;
        let id = format!("trial-{}", std::process::id());
        let process = spawn(&MonitorSpec {
            program: &self.settings.program,
            arguments: &[theirs.as_raw_fd().to_string()],
            inherited: &[theirs.as_fd()],
            jail: JailSpec {
                files: FileView::Empty,
                limits: ResourceLimits { open_files: 64, file_size: 0, processes: 8 },
                group: Some(GroupSpec { id: &id, memory: 64 << 20, processes: 8 }),
            },
            strictness: Strictness::Warn,
        })
        .map_err(spawn_error)?;
        drop(theirs);
        say(&control, &Request::Jail).map_err(host("talk to costrel-vmm"))?;
        let mut line = String::new();
        BufReader::new(control).read_line(&mut line).map_err(host("talk to costrel-vmm"))?;
        match serde_json::from_str(&line) {
            Ok(Event::Running { jail }) => {
                let mut report = process.isolation().clone();
                report.merge(jail);
                Ok(report)
            }
            Ok(Event::Refused { reason, .. }) => Err(BootError::Monitor { reason }),
            _ => Err(BootError::Monitor { reason: "it did not answer".to_owned() }),
        }
    }

    /// The program's path.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.settings.program
    }
}

fn check_program(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::other("it is no executable file"));
    }
    Ok(())
}

#[async_trait]
impl Backend for KvmBackend {
    fn name(&self) -> &'static str {
        "kvm"
    }

    async fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError> {
        match self.start(spec, None).await {
            Ok(machine) => Ok(Box::new(machine)),
            Err(RestoreError::Boot(error)) => Err(error),
            // There is no snapshot that it could have refused.
            Err(RestoreError::Refused { reason }) => Err(BootError::Monitor { reason }),
        }
    }

    fn restorer(&self) -> Option<&dyn Restorer> {
        Some(self)
    }
}

#[async_trait]
impl Restorer for KvmBackend {
    fn compatibility(&self) -> Result<Vec<(&'static str, String)>, BootError> {
        compatibility(&self.settings.program)
    }

    async fn restore(
        &self,
        spec: &MachineSpec,
        files: &SnapshotFiles,
    ) -> Result<Box<dyn Machine>, RestoreError> {
        let copy = |file: &File| {
            let copied = file.try_clone();
            copied.map_err(|source| BootError::Host { operation: "copy a descriptor", source })
        };
        let files = SnapshotFiles { state: copy(&files.state)?, memory: copy(&files.memory)? };
        Ok(Box::new(self.start(spec, Some(files)).await?))
    }
}

impl KvmBackend {
    async fn start(
        &self,
        spec: &MachineSpec,
        snapshot: Option<SnapshotFiles>,
    ) -> Result<KvmMachine, RestoreError> {
        check(spec)?;
        let (settings, spec) = (self.settings.clone(), spec.clone());
        let plan = Plan { kvm: open_device()?, settings, spec, snapshot };
        let (sender, started) = oneshot::channel();
        thread::Builder::new()
            .name("costrel-kvm".to_owned())
            .spawn(move || supervise(&plan, sender))
            .map_err(|source| BootError::Host { operation: "start a thread", source })?;
        match started.await {
            Ok(machine) => machine,
            Err(_) => {
                Err(BootError::Monitor { reason: "its supervisor panicked".to_owned() }.into())
            }
        }
    }
}

/// What can be known before anything is started.
fn check(spec: &MachineSpec) -> Result<(), BootError> {
    spec.check()?;
    let given = spec.disks.len();
    if given > MOST_DISKS {
        return Err(BootError::Limit { what: "disks", given, most: MOST_DISKS });
    }
    let host_mib = host_memory_mib();
    let given_mib = u64::from(spec.memory.as_mib());
    if given_mib > host_mib {
        return Err(BootError::MemoryTooLarge { given_mib, host_mib });
    }
    Ok(())
}

fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(info.mem_unit.into()) >> 20
}

pub(crate) fn open_device() -> Result<File, BootError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|source| BootError::File {
        what: "virtualization device",
        path: DEVICE.into(),
        source,
    })
}

impl fmt::Debug for KvmBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmBackend").field("program", &self.settings.program).finish()
    }
}
