//! Saves a machine: QEMU tells what its devices are, and its owner copies the memory.
//!
//! It is a migration that leaves out memory that is shared (`x-ignore-shared`). QEMU writes to a
//! socket, so it needs no file, and a full disk is its owner's trouble alone.

use std::{fs::File, io, os::unix::net::UnixStream as StdUnixStream, sync::Arc, time::Duration};

use async_trait::async_trait;
use costrel_vmm::{Exit, MachineError, SaveError, Saver, SnapshotFiles, with_sources};
use serde_json::{Value, json};
use tokio::{
    io::AsyncReadExt as _,
    net::UnixStream,
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    machine::QemuMachine,
    memory::{self, Backing},
    qmp::QmpCommand,
    state::{Description, MOST_STREAM},
};

/// A migration without memory takes milliseconds; this is for a QEMU that does not get on.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a migration ended that did not succeed.
#[derive(Debug)]
pub(crate) enum MigrationError {
    /// QEMU has ended.
    Ended(Exit),
    /// It says that it has failed, and why.
    Failed(String),
    /// A command was refused, or the host is at fault.
    Command(String),
}

#[async_trait]
impl Saver for QemuMachine {
    async fn save(&self, files: &SnapshotFiles) -> Result<(), SaveError> {
        let Backing::Shared(memory) = &self.backing else {
            return Err(failed("its memory is QEMU's alone"));
        };
        let mut saved = self.saved.lock().await;
        let status = self.command("query-status").await.map_err(unwilling)?;
        if !matches!(status["status"].as_str(), Some("paused" | "postmigrate")) {
            return Err(SaveError::NotPaused);
        }
        if saved.is_none() {
            self.end_streams().await?;
            *saved = Some(self.devices().await?);
        }
        let stream = saved.clone().unwrap_or_default();
        let version = self.shared.qmp.version().ok_or_else(|| failed("QEMU has no version"))?;
        let machine = self.machine_text.clone();
        let description = Description::new(version.0, machine, self.tsc_khz, &stream);
        let memory = Arc::clone(memory);
        let (memory_file, state_file) = (clone(&files.memory)?, clone(&files.state)?);
        let write = move || {
            memory::save(&memory, &memory_file)?;
            description.write(&stream, &state_file)
        };
        tokio::task::spawn_blocking(write)
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(format!("cannot write the snapshot: {error}")))
    }
}

impl QemuMachine {
    /// Hangs up, and waits until QEMU has told the guest's memory of it: what comes later than the
    /// devices' state would contradict it.
    async fn end_streams(&self) -> Result<(), SaveError> {
        self.shared.ports.hang_up();
        let mut quiet = 0;
        // Twice, since QEMU may yet take a client that came and went.
        let all_gone = async {
            while quiet < 2 {
                let ports = self.command("query-chardev").await?;
                quiet = if any_stream(&ports) { 0 } else { quiet + 1 };
                sleep(Duration::from_millis(1)).await;
            }
            Ok::<_, MachineError>(())
        };
        match timeout(PATIENCE, all_gone).await {
            Ok(done) => done.map_err(unwilling),
            Err(_) => Err(failed("QEMU keeps a stream to the guest open")),
        }
    }

    /// What all but the memory is, in QEMU's own form.
    async fn devices(&self) -> Result<Vec<u8>, SaveError> {
        let told = async {
            let (ours, theirs) = sockets()?;
            self.prepare_migration(theirs).await?;
            let mut status = self.shared.qmp.migration();
            self.command(QmpCommand::new("migrate", json!({ "uri": "fd:migration" }))).await?;
            let mut stream = Vec::new();
            let mut ours = ours.take(MOST_STREAM as u64 + 1);
            let (read, done) =
                tokio::join!(ours.read_to_end(&mut stream), self.migrated(&mut status));
            done?;
            read.map_err(|error| MigrationError::Command(error.to_string()))?;
            if stream.len() > MOST_STREAM {
                return Err(MigrationError::Failed("its devices' state is too long".to_owned()));
            }
            Ok(stream)
        };
        told.await.map_err(|error| match error {
            MigrationError::Ended(exit) => SaveError::Ended(exit),
            MigrationError::Failed(reason) | MigrationError::Command(reason) => failed(reason),
        })
    }

    /// Hands over QEMU's end of a stream, as `fd:migration`.
    pub(crate) async fn prepare_migration(
        &self,
        theirs: StdUnixStream,
    ) -> Result<(), MigrationError> {
        let on = |name| json!({ "capability": name, "state": true });
        // `events` has it say how far it is.
        let capabilities = json!({ "capabilities": [on("x-ignore-shared"), on("events")] });
        self.command(QmpCommand::new("migrate-set-capabilities", capabilities)).await?;
        self.command(QmpCommand::hand_over("migration", theirs.into())).await?;
        Ok(())
    }

    /// Waits for a migration's end.
    pub(crate) async fn migrated(
        &self,
        status: &mut watch::Receiver<String>,
    ) -> Result<(), MigrationError> {
        let is_over = |status: &String| matches!(&**status, "completed" | "failed" | "cancelled");
        let over = async {
            tokio::select! {
                status = status.wait_for(is_over) => {
                    Ok(status.is_ok_and(|status| *status == "completed"))
                }
                exit = self.process.wait() => Err(MigrationError::Ended(exit)),
            }
        };
        match timeout(PATIENCE, over).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                let migration = self.command("query-migrate").await?;
                let reason = migration["error-desc"].as_str().unwrap_or("QEMU does not say why");
                Err(MigrationError::Failed(reason.to_owned()))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(MigrationError::Command("QEMU does not get on with it".to_owned())),
        }
    }
}

/// Whether a stream to a port is open, as `query-chardev` tells.
fn any_stream(devices: &Value) -> bool {
    devices.as_array().into_iter().flatten().any(|device| {
        let is_port = device["label"].as_str().is_some_and(|label| label.starts_with("port"));
        let is_open = !device["filename"].as_str().unwrap_or("").starts_with("disconnected");
        is_port && is_open
    })
}

/// A pair of sockets: our end, and QEMU's.
pub(crate) fn sockets() -> Result<(UnixStream, StdUnixStream), MigrationError> {
    let pair = || {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((UnixStream::from_std(ours)?, theirs))
    };
    pair().map_err(|error: io::Error| MigrationError::Command(error.to_string()))
}

fn clone(file: &File) -> Result<File, SaveError> {
    file.try_clone().map_err(|error| failed(error.to_string()))
}

fn failed(reason: impl Into<String>) -> SaveError {
    SaveError::Failed { reason: reason.into() }
}

impl From<MachineError> for MigrationError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Ended(exit) => Self::Ended(exit),
            error @ MachineError::Command { .. } => Self::Command(with_sources(&error)),
        }
    }
}

/// What the machine refuses, it could not tell.
fn unwilling(error: MachineError) -> SaveError {
    match error {
        MachineError::Ended(exit) => SaveError::Ended(exit),
        error @ MachineError::Command { .. } => failed(with_sources(&error)),
    }
}
