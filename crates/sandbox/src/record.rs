//! What a running sandbox tells of itself to other processes: `sandbox.json` in its directory.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use costrel_vmm::{Disk, DiskAccess, JailReport, MachineSpec};
use serde::{Deserialize, Serialize};

use crate::directory::{DirectoryError, LOCK, at};

/// A running sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxRecord {
    /// Its id, 32 hexadecimal digits: its directory's name.
    pub id: String,
    /// What runs its machine: `emulated`, `kvm`.
    pub backend: String,
    /// The guest kernel's file.
    pub kernel: PathBuf,
    /// How many virtual CPUs.
    pub vcpus: u8,
    /// The machine's memory, in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: u32,
    /// Its disks, in the guest's order.
    pub disks: Vec<DiskRecord>,
    /// When its machine was started, in RFC 3339's form.
    pub started_at: String,
    /// How it was started.
    pub started_from: SandboxOrigin,
    /// The id of the process that runs the machine.
    pub monitor_pid: u32,
    /// What separates that process from the host.
    pub isolation: JailReport,
}

/// How a sandbox's machine came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxOrigin {
    /// It was booted.
    Boot,
    /// It goes on from a snapshot.
    Snapshot,
}

/// A disk of a running sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskRecord {
    /// What the guest finds it by.
    pub name: String,
    /// The image.
    pub path: PathBuf,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

impl DiskRecord {
    fn new(disk: &Disk) -> Self {
        Self {
            name: disk.name.as_str().to_owned(),
            path: disk.path.clone(),
            read_only: disk.access == DiskAccess::ReadOnly,
        }
    }
}

impl SandboxRecord {
    /// Of a machine that has just been started.
    pub(crate) fn new(
        backend: &str,
        spec: &MachineSpec,
        machine: &dyn costrel_vmm::Machine,
        started_from: SandboxOrigin,
    ) -> Self {
        let id = spec.directory.file_name().unwrap_or_default();
        Self {
            id: id.to_string_lossy().into_owned(),
            backend: backend.to_owned(),
            kernel: spec.kernel.path.clone(),
            vcpus: spec.vcpus.get(),
            memory_mib: spec.memory.as_mib(),
            disks: spec.disks.iter().map(DiskRecord::new).collect(),
            started_at: jiff::Timestamp::now().to_string(),
            started_from,
            monitor_pid: machine.process_id(),
            isolation: machine.isolation().clone(),
        }
    }

    /// Leaves it in the sandbox's directory. It need not outlast a crash of the host: nothing of a
    /// sandbox does.
    pub(crate) fn write(&self, directory: &Path) -> Result<(), DirectoryError> {
        let path = directory.join(RECORD);
        let draft = directory.join("sandbox.json.new");
        let write = || {
            let json = serde_json::to_vec(self)?;
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?
                .write_all(&json)?;
            fs::rename(&draft, &path)
        };
        write().map_err(at("write", &path))
    }
}

const RECORD: &str = "sandbox.json";

/// The sandboxes below `sandboxes` that run, ordered by their start.
///
/// # Errors
/// [`DirectoryError`] if the directory cannot be listed. A sandbox that ends meanwhile is left out,
/// as is one whose machine has not started yet.
pub fn running(sandboxes: &Path) -> Result<Vec<SandboxRecord>, DirectoryError> {
    let listing = match fs::read_dir(sandboxes) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at("list", sandboxes)(error)),
    };
    let is_held = |directory: &Path| {
        // Shared, so that two who ask do not take one another for an owner.
        File::open(directory.join(LOCK))
            .is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    };
    let mut records: Vec<SandboxRecord> = listing
        .flatten()
        .map(|entry| entry.path())
        .filter(|directory| is_held(directory))
        .filter_map(|directory| {
            serde_json::from_slice(&fs::read(directory.join(RECORD)).ok()?).ok()
        })
        .collect();
    records.sort_by(|a, b| (&a.started_at, &a.id).cmp(&(&b.started_at, &b.id)));
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::SandboxDirectory;

    fn record(id: &str) -> SandboxRecord {
        SandboxRecord {
            id: id.to_owned(),
            backend: "emulated".to_owned(),
            kernel: "/k".into(),
            vcpus: 1,
            memory_mib: 256,
            disks: Vec::new(),
            started_at: "2026-01-01T00:00:00Z".to_owned(),
            started_from: SandboxOrigin::Boot,
            monitor_pid: 7,
            isolation: JailReport::default(),
        }
    }

    #[test]
    fn only_those_that_run_are_told_of() {
        let root = tempfile::tempdir().unwrap();
        assert!(running(&root.path().join("none")).unwrap().is_empty());
        let living = SandboxDirectory::create(root.path(), &uuid::Uuid::new_v4()).unwrap();
        let starting = SandboxDirectory::create(root.path(), &uuid::Uuid::new_v4()).unwrap();
        let dead = root.path().join("dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        record("living").write(living.path()).unwrap();
        record("dead").write(&dead).unwrap();
        assert_eq!(running(root.path()).unwrap(), [record("living")]);
        let mode = fs::metadata(living.path().join(RECORD)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(starting);
    }
}
