//! The jail that QEMU runs in, as far as it can bear one.
//!
//! It has its disks, sockets and the kernel by descriptor; what it opens by itself are its
//! libraries, its firmware and, for NUMA, what `/sys` says of the nodes. The kernel, and memory that
//! is a file, it opens anew through `/proc/self/fd`; the latter has no name, so Landlock does not
//! ask.

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use costrel_vmm::{BootError, DiskAccess, JailReport, MachineSpec, Strictness};
use costrel_vmm_process::{
    FileView, GroupSpec, JailSpec, MonitorProcess, MonitorSpec, ResourceLimits, SpawnError, spawn,
};
use rustix::fs::MemfdFlags;

use crate::supervisor::Plan;

/// Beside a descriptor or two for each device.
const OPEN_FILES: u64 = 1024;
/// Beside the virtual CPUs: the main loop, RCU, and up to 64 that wait for disks.
const THREADS: u64 = 128;
/// Beside the guest's memory: translated code, of which QEMU keeps up to 1 GiB, and its own heap.
const MEMORY: u64 = 1536 << 20;

/// Starts QEMU.
pub(crate) fn start(
    plan: &Plan,
    arguments: &[String],
    inherited: &[BorrowedFd<'_>],
    kernel: Option<&Kernel>,
    disks: &[File],
) -> Result<MonitorProcess, BootError> {
    let spec = &plan.spec;
    let threads = THREADS + u64::from(spec.vcpus.get());
    let limits = ResourceLimits {
        open_files: OPEN_FILES,
        file_size: largest_writable(spec, disks)
            .map_err(|source| BootError::Host { operation: "measure a disk", source })?,
        processes: threads,
    };
    let id = group_id(&spec.directory);
    let memory = plan.backing.most(spec.memory) + MEMORY;
    let group = GroupSpec { id: &id, memory, processes: threads };
    let readable = readable(&plan.program);
    let reopened: Vec<_> = kernel.and_then(Kernel::named).into_iter().collect();
    let files = FileView::ReadOnlyPrograms { readable: &readable, reopened: &reopened };
    let monitor = MonitorSpec {
        program: &plan.program,
        arguments,
        inherited,
        jail: JailSpec { files, limits, group: Some(group) },
        strictness: plan.strictness,
    };
    spawn(&monitor).map_err(|error| match error {
        SpawnError::Isolation(error) => error.into(),
        SpawnError::Execute(source) if source.kind() == io::ErrorKind::NotFound => {
            BootError::ProgramMissing { program: plan.program.display().to_string() }
        }
        SpawnError::Execute(source) => BootError::Host { operation: "start QEMU", source },
        SpawnError::Host { operation, source } => BootError::Host { operation, source },
    })
}

/// Has QEMU tell its version from inside a jail like that of a machine.
pub(crate) fn try_out(program: &Path) -> Result<JailReport, SpawnError> {
    let limits = ResourceLimits { open_files: OPEN_FILES, file_size: 0, processes: THREADS };
    let id = format!("try-{}", std::process::id());
    let readable = readable(program);
    let files = FileView::ReadOnlyPrograms { readable: &readable, reopened: &[] };
    let mut process = spawn(&MonitorSpec {
        program,
        arguments: &["--version".to_owned()],
        inherited: &[],
        jail: JailSpec {
            files,
            limits,
            group: Some(GroupSpec { id: &id, memory: MEMORY, processes: THREADS }),
        },
        strictness: Strictness::Warn,
    })?;
    let status =
        process.wait().map_err(|source| SpawnError::Host { operation: "wait for QEMU", source })?;
    if status.success() {
        Ok(process.isolation().clone())
    } else {
        let source = io::Error::other(format!("QEMU ended with {status}"));
        Err(SpawnError::Host { operation: "run QEMU in a jail", source })
    }
}

/// Only a disk is ever written.
fn largest_writable(spec: &MachineSpec, disks: &[File]) -> io::Result<u64> {
    let mut largest = 0;
    for (disk, file) in spec.disks.iter().zip(disks) {
        if disk.access != DiskAccess::ReadOnly {
            largest = largest.max(file.metadata()?.len());
        }
    }
    Ok(largest)
}

/// What belongs to a QEMU that is installed elsewhere than below /usr.
fn readable(program: &Path) -> Vec<PathBuf> {
    let mut readable =
        vec![PathBuf::from("/sys/devices/system/node"), PathBuf::from("/sys/devices/system/cpu")];
    if let Some(prefix) = program.parent().and_then(Path::parent) {
        let below = ["share/qemu", "lib", "lib64", "libexec"];
        readable.extend(below.map(|directory| prefix.join(directory)));
    }
    readable
}

/// The machine's directory has a name of its own.
fn group_id(directory: &Path) -> String {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    name.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The kernel as QEMU can open it anew.
#[derive(Debug)]
pub(crate) enum Kernel {
    /// As it is.
    File(File),
    /// A copy in memory: the file is its owner's alone, and QEMU may be another user.
    Copy(File),
}

impl Kernel {
    pub(crate) fn for_anybody(mut file: File) -> io::Result<Self> {
        let may_be_another = rustix::process::geteuid().is_root();
        if !may_be_another || file.metadata()?.mode() & 0o004 != 0 {
            return Ok(Self::File(file));
        }
        let copy = rustix::fs::memfd_create(c"kernel", MemfdFlags::CLOEXEC)?;
        let mut copy = File::from(copy);
        file.seek(SeekFrom::Start(0))?;
        io::copy(&mut file, &mut copy)?;
        Ok(Self::Copy(copy))
    }

    pub(crate) fn file(&self) -> &File {
        match self {
            Self::File(file) | Self::Copy(file) => file,
        }
    }

    /// What Landlock has to be told of: not what has no name.
    fn named(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::File(file) => Some(file.as_fd()),
            Self::Copy(_) => None,
        }
    }
}
