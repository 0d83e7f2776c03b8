//! A running QEMU as its owner sees it.

use std::{
    fmt, io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use async_trait::async_trait;
use costrel_vmm::{
    ByteStream, ConsoleWatch, DialError, Exit, GuestPort, JailReport, Machine, MachineError, Saver,
};
use costrel_vmm_process::MachineOwner;

use serde_json::Value;

use crate::{
    memory::Backing,
    ports::Ports,
    qmp::{QmpCommand, QmpCommands},
};

/// What the supervisor's thread and the owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Ports,
    pub(crate) qmp: QmpCommands,
    pub(crate) console: Mutex<ConsoleWatch>,
    /// QEMU's exit code, once it has ended by itself.
    pub(crate) exit_code: OnceLock<i32>,
}

/// A machine that was started.
pub(crate) struct QemuMachine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) process: MachineOwner,
    pub(crate) backing: Backing,
    /// What a snapshot says of it.
    pub(crate) machine_text: String,
    /// The rate of its time stamp counter.
    pub(crate) tsc_khz: u64,
    /// QEMU's stream, if the machine was saved since it was paused: QEMU gives it once a pause.
    /// Whoever changes anything about a paused machine holds this.
    pub(crate) saved: tokio::sync::Mutex<Option<Vec<u8>>>,
}

impl QemuMachine {
    pub(crate) async fn command(
        &self,
        command: impl Into<QmpCommand>,
    ) -> Result<Value, MachineError> {
        let command = command.into();
        let name = command.name;
        let answer = self.process.ask(name, || self.shared.qmp.send(&command)).await?;
        answer.map_err(|reason| MachineError::Command {
            command: name,
            source: io::Error::other(reason),
        })
    }
}

#[async_trait]
impl Machine for QemuMachine {
    async fn dial(&self, port: GuestPort) -> Result<Box<dyn ByteStream>, DialError> {
        let mut saved = self.saved.lock().await;
        // The guest's memory tells of the stream as soon as QEMU does.
        *saved = None;
        Ok(Box::new(self.shared.ports.dial(port).await?))
    }

    async fn pause(&self) -> Result<(), MachineError> {
        self.command("stop").await.map(drop)
    }

    async fn resume(&self) -> Result<(), MachineError> {
        let mut saved = self.saved.lock().await;
        *saved = None;
        self.command("cont").await.map(drop)
    }

    fn saver(&self) -> Option<&dyn Saver> {
        // What is mapped privately cannot be seen from here.
        matches!(self.backing, Backing::Shared(_)).then_some(self)
    }

    async fn wait(&self) -> Exit {
        self.process.wait().await
    }

    async fn kill(&self) -> Exit {
        self.process.kill().await
    }

    async fn console_tail(&self) -> String {
        self.shared.console.lock().unwrap_or_else(PoisonError::into_inner).tail()
    }

    fn isolation(&self) -> &JailReport {
        self.process.isolation()
    }

    fn process_id(&self) -> u32 {
        self.process.id()
    }
}

impl fmt::Debug for QemuMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QemuMachine").field("process", &self.process).finish_non_exhaustive()
    }
}
