//! Restores machines from a snapshot.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use costrel_vmm::{
    BootError, Exit, Machine, MachineSpec, RestoreError, Restorer, SnapshotFiles, file_stamp,
    with_sources,
};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::{
    QemuBackend,
    machine::QemuMachine,
    memory::{Backing, SnapshotMemory},
    qmp::QmpCommand,
    save::{MigrationError, sockets},
    state::{Description, StateError, machine_text},
};

/// The memories of snapshots that machines use now: all machines of a snapshot share one.
#[derive(Debug, Default)]
pub(crate) struct SnapshotMemories(Mutex<HashMap<FileIdentity, Weak<SnapshotMemory>>>);

/// What tells a file, and its content, from any other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct FileIdentity {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    modified: (i64, i64),
}

/// A guest whose clock is wrong by more than this cannot be set right by the usual means: a
/// thousandth of a rate's 500 ppm, and what a measurement of it may be off.
const TSC_TOLERANCE_PPM: u64 = 1000;

#[async_trait]
impl Restorer for QemuBackend {
    fn compatibility(&self) -> Result<Vec<(&'static str, String)>, BootError> {
        let path = self.program();
        let host = |operation| move |source| BootError::Host { operation, source };
        let stamp = file_stamp(path).map_err(host("look at QEMU's program"))?;
        let cpus = fs::read_to_string("/proc/cpuinfo").map_err(host("read /proc/cpuinfo"))?;
        Ok(vec![
            ("format", "qemu state 1".to_owned()),
            ("emulator", format!("{}, {stamp}", path.display())),
            ("processor", processor(&cpus).to_owned()),
        ])
    }

    async fn restore(
        &self,
        spec: &MachineSpec,
        files: &SnapshotFiles,
    ) -> Result<Box<dyn Machine>, RestoreError> {
        let (machine, stream) = self.launch_for(spec, files).await?;
        match take_in(&machine, &stream).await {
            Ok(()) => Ok(Box::new(machine)),
            Err(error) => {
                machine.kill().await;
                Err(match error {
                    MigrationError::Ended(exit) => ended(&machine, exit),
                    MigrationError::Failed(reason) => refused(reason),
                    MigrationError::Command(reason) => BootError::Monitor { reason }.into(),
                })
            }
        }
    }
}

impl QemuBackend {
    /// A QEMU that waits for a snapshot's stream, which comes along.
    async fn launch_for(
        &self,
        spec: &MachineSpec,
        files: &SnapshotFiles,
    ) -> Result<(QemuMachine, Vec<u8>), RestoreError> {
        let state = clone(&files.state)?;
        let read = tokio::task::spawn_blocking(move || Description::read(&state));
        let (description, stream) = in_thread(read.await)?.map_err(|error| match error {
            StateError::Read(source) => host("read a snapshot's state", source),
            other => refused(with_sources(&other)),
        })?;
        self.check(spec, &description)?;
        let memory = self.snapshots.of(&files.memory, spec)?;
        let file = clone(&files.memory)?;
        // Until it is told what it shall be, QEMU does not look at the guest's memory.
        let filled = tokio::task::spawn_blocking({
            let memory = Arc::clone(&memory);
            move || memory.fill(&file)
        });
        let (launched, filled) = tokio::join!(self.launch(spec, Backing::Snapshot(memory)), filled);
        let machine = launched?;
        let checked = in_thread(filled).and_then(|filled| {
            filled.map_err(|source| host("copy a snapshot's memory", source))?;
            let version = machine.shared.qmp.version().map(|version| version.0);
            match version.unwrap_or_default() {
                same if same == description.qemu => Ok(()),
                other => Err(refused(format!(
                    "QEMU {} has saved it, and this is QEMU {other}",
                    description.qemu
                ))),
            }
        });
        match checked {
            Ok(()) => Ok((machine, stream)),
            Err(error) => {
                machine.kill().await;
                Err(error)
            }
        }
    }

    fn check(&self, spec: &MachineSpec, description: &Description) -> Result<(), RestoreError> {
        let machine = machine_text(spec);
        if machine != description.machine {
            let saved = &description.machine;
            return Err(refused(format!("it is one of a machine with {saved}, not {machine}")));
        }
        let (saved, here) = (description.tsc_khz, self.tsc.khz());
        if saved.abs_diff(here) > saved / 1_000_000 * TSC_TOLERANCE_PPM {
            return Err(refused(format!(
                "its time stamp counter runs at {saved} kHz, and the one of this host at {here}"
            )));
        }
        Ok(())
    }
}

/// Has the machine be as it was when it was saved. It stands still.
async fn take_in(machine: &QemuMachine, stream: &[u8]) -> Result<(), MigrationError> {
    let (mut ours, theirs) = sockets()?;
    machine.prepare_migration(theirs).await?;
    let mut status = machine.shared.qmp.migration();
    let uri = json!({ "uri": "fd:migration" });
    machine.command(QmpCommand::new("migrate-incoming", uri)).await?;
    let tell = async move {
        // Where QEMU does not take all of it, it says why, or ends.
        let _ = ours.write_all(stream).await;
    };
    let (done, ()) = tokio::join!(machine.migrated(&mut status), tell);
    done
}

/// A QEMU that ends by itself while it reads a stream does so since it cannot make sense of it.
fn ended(machine: &QemuMachine, exit: Exit) -> RestoreError {
    let reason = match exit {
        Exit::Monitor { reason } => reason,
        other => other.to_string(),
    };
    match machine.shared.exit_code.get() {
        Some(_) => refused(reason),
        None => BootError::Monitor { reason }.into(),
    }
}

impl SnapshotMemories {
    /// The copy that machines share, or a new one that is still to be filled.
    fn of(&self, file: &File, spec: &MachineSpec) -> Result<Arc<SnapshotMemory>, RestoreError> {
        let metadata = file.metadata().map_err(|source| host("look at a memory file", source))?;
        let (bytes, needed) = (metadata.len(), spec.memory.as_bytes());
        if bytes != needed {
            return Err(refused(format!("its memory has {bytes} bytes instead of {needed}")));
        }
        let identity = FileIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, memory| memory.strong_count() > 0);
        if let Some(memory) = known.get(&identity).and_then(Weak::upgrade) {
            return Ok(memory);
        }
        let memory = SnapshotMemory::new(bytes)
            .map_err(|source| host("make a file for the machine's memory", source))?;
        let memory = Arc::new(memory);
        known.insert(identity, Arc::downgrade(&memory));
        Ok(memory)
    }
}

/// The model of the first processor.
fn processor(cpuinfo: &str) -> &str {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or("unknown", |model| model.trim_start_matches([' ', '\t', ':']))
}

fn clone(file: &File) -> Result<File, RestoreError> {
    file.try_clone().map_err(|source| host("duplicate a descriptor", source))
}

fn in_thread<T>(done: Result<T, tokio::task::JoinError>) -> Result<T, RestoreError> {
    done.map_err(|error| host("finish a thread", io::Error::other(error)))
}

fn host(operation: &'static str, source: io::Error) -> RestoreError {
    BootError::Host { operation, source }.into()
}

fn refused(reason: String) -> RestoreError {
    RestoreError::Refused { reason }
}

#[cfg(test)]
mod tests {
    use costrel_vmm::{Console, KernelImage, Memory, Saving, VcpuCount};

    use super::*;

    #[test]
    fn machines_of_a_snapshot_share_its_memory_while_there_is_one() {
        let spec = MachineSpec {
            vcpus: VcpuCount::ONE,
            memory: Memory::mib(64).unwrap(),
            kernel: KernelImage { path: "/k".into() },
            kernel_arguments: vec![],
            disks: vec![],
            ports: vec![],
            saving: Saving::Expected,
            console: Console { path: "/c".into(), limit: 1 },
            directory: "/d".into(),
        };
        let [file, other] = [0, 1].map(|_| tempfile::tempfile().unwrap());
        for file in [&file, &other] {
            file.set_len(64 << 20).unwrap();
        }
        let memories = SnapshotMemories::default();
        let memory = memories.of(&file, &spec).unwrap();
        assert!(Arc::ptr_eq(&memory, &memories.of(&file, &spec).unwrap()));
        assert!(!Arc::ptr_eq(&memory, &memories.of(&other, &spec).unwrap()));
        let weak = Arc::downgrade(&memory);
        drop(memory);
        assert!(weak.upgrade().is_none());
        memories.of(&other, &spec).unwrap();
        assert_eq!(memories.0.lock().unwrap().len(), 1, "what nobody uses is forgotten");
        file.set_len(1).unwrap();
        let refused = memories.of(&file, &spec).unwrap_err();
        assert!(matches!(refused, RestoreError::Refused { .. }), "{refused:?}");
    }

    #[test]
    fn finds_the_processor() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2.4 GHz\nmodel name\t: Other\n";
        assert_eq!(processor(text), "Some CPU @ 2.4 GHz");
        assert_eq!(processor("processor: 0\n"), "unknown");
    }
}
