//! A running QEMU as its owner sees it.

use std::{
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use costrel_vmm::{
    ByteStream, ConsoleWatch, DialError, Exit, GuestPort, JailReport, Machine, MachineError, Saver,
};
use costrel_vmm_process::MachineOwner;

use crate::{ports::Ports, qmp::QmpCommands};

/// What the supervisor's thread and the owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Ports,
    pub(crate) qmp: QmpCommands,
    pub(crate) console: Mutex<ConsoleWatch>,
}

/// A machine that was started.
pub(crate) struct QemuMachine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) process: MachineOwner,
}

impl QemuMachine {
    async fn command(&self, command: &'static str) -> Result<(), MachineError> {
        let answer = self.process.ask(command, || self.shared.qmp.send(command)).await?;
        let refused = |reason| MachineError::Command { command, source: io::Error::other(reason) };
        answer.map_err(refused)
    }
}

#[async_trait]
impl Machine for QemuMachine {
    async fn dial(&self, port: GuestPort) -> Result<Box<dyn ByteStream>, DialError> {
        Ok(Box::new(self.shared.ports.dial(port).await?))
    }

    async fn pause(&self) -> Result<(), MachineError> {
        self.command("stop").await
    }

    async fn resume(&self) -> Result<(), MachineError> {
        self.command("cont").await
    }

    fn saver(&self) -> Option<&dyn Saver> {
        None
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
