//! Boots machines, each in a process of `costrel-vmm`.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use async_trait::async_trait;
use costrel_vmm::{Backend, BootError, Machine, MachineSpec, Strictness};
use tokio::sync::oneshot;

use crate::supervisor::{Plan, supervise};

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
        check(spec)?;
        let plan = Plan {
            kvm: open_device()?,
            program: self.settings.program.clone(),
            strictness: self.settings.strictness,
            spec: spec.clone(),
        };
        let (sender, started) = oneshot::channel();
        thread::Builder::new()
            .name("costrel-kvm".to_owned())
            .spawn(move || supervise(plan, sender))
            .map_err(|source| BootError::Host { operation: "start a thread", source })?;
        match started.await {
            Ok(machine) => Ok(Box::new(machine?)),
            Err(_) => Err(BootError::Monitor { reason: "its supervisor panicked".to_owned() }),
        }
    }
}

/// What can be known before anything is started.
fn check(spec: &MachineSpec) -> Result<(), BootError> {
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

fn open_device() -> Result<File, BootError> {
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
