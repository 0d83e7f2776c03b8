//! A running QEMU as its owner sees it.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use costrel_vmm::{
    ByteStream, ConsoleWatch, DialError, Exit, GuestPort, JailReport, Machine, MachineError,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal},
};
use tokio::{sync::watch, time::timeout};

use crate::{ports::Ports, qmp::QmpCommands};

/// What the supervisor's thread and the owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Ports,
    pub(crate) qmp: QmpCommands,
    pub(crate) console: Mutex<ConsoleWatch>,
    /// Refers to the process even after it was reaped, so no signal ever hits another.
    pub(crate) process: OwnedFd,
    pub(crate) process_id: Pid,
    pub(crate) isolation: JailReport,
    /// Set before the signal is sent.
    pub(crate) killed: AtomicBool,
}

/// A machine that was started.
pub(crate) struct QemuMachine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
}

/// Commands take microseconds; this is for a QEMU that does not run at all.
const OBEDIENCE: Duration = Duration::from_secs(30);

impl Shared {
    /// Kills QEMU. The supervisor's thread reaps it.
    pub(crate) fn kill(&self) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
    }
}

impl QemuMachine {
    async fn command(&self, command: &'static str) -> Result<(), MachineError> {
        if let Some(exit) = self.exit.borrow().clone() {
            return Err(MachineError::Ended(exit));
        }
        let failed = |source| MachineError::Command { command, source };
        let answer = match self.shared.qmp.send(command) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(MachineError::Ended(self.wait().await));
            }
            Err(source) => return Err(failed(source)),
        };
        match timeout(OBEDIENCE, answer).await {
            Ok(Ok(answer)) => answer.map_err(|reason| failed(io::Error::other(reason))),
            // Nobody is left to answer.
            Ok(Err(_)) => Err(MachineError::Ended(self.wait().await)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
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

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| exit.clone()).unwrap_or_else(|| Exit::Monitor {
            reason: "the thread that supervised it ended before it".to_owned(),
        })
    }

    async fn kill(&self) -> Exit {
        self.shared.killed.store(true, Ordering::SeqCst);
        self.shared.kill();
        self.wait().await
    }

    async fn console_tail(&self) -> String {
        self.shared.console.lock().unwrap_or_else(PoisonError::into_inner).tail()
    }

    fn isolation(&self) -> &JailReport {
        &self.shared.isolation
    }

    fn process_id(&self) -> u32 {
        self.shared.process_id.as_raw_nonzero().get().unsigned_abs()
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        self.shared.killed.store(true, Ordering::SeqCst);
        self.shared.kill();
        // Whoever drops a machine may end the next moment, and must not leave anything running: it
        // takes the kernel milliseconds to take QEMU apart.
        let mut ended = [PollFd::new(&self.shared.process, PollFlags::IN)];
        let _ = poll(&mut ended, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }));
    }
}

impl fmt::Debug for QemuMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QemuMachine").field("exit", &*self.exit.borrow()).finish_non_exhaustive()
    }
}
