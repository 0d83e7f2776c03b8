//! A machine's process as the machine's owner holds it, while a thread supervises it.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use costrel_vmm::{Exit, JailReport, MachineError};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use crate::MonitorProcess;

/// What the supervisor's thread and the owner know of the process.
#[derive(Debug)]
pub struct ProcessHandle {
    /// Refers to the process even after it was reaped, so no signal ever hits another.
    handle: OwnedFd,
    id: u32,
    isolation: JailReport,
    /// Set before the signal is sent.
    killed: AtomicBool,
}

/// A process that runs a machine. Dropping it kills it.
pub struct MachineOwner {
    process: Arc<ProcessHandle>,
    exit: watch::Receiver<Option<Exit>>,
}

/// Commands take microseconds; this is for a monitor that does not run at all.
const OBEDIENCE: Duration = Duration::from_secs(30);

impl ProcessHandle {
    /// A handle on a process that was started, of which `isolation` is in force.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(process: &MonitorProcess, isolation: JailReport) -> io::Result<Self> {
        let id = process.pid().as_raw_nonzero().get().unsigned_abs();
        Ok(Self { handle: process.handle()?, id, isolation, killed: AtomicBool::new(false) })
    }

    /// Ends it for a reason of the machine's own. The supervisor's thread reaps it.
    pub fn end(&self) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Whether its owner has killed it, or tried to.
    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.end();
    }
}

impl AsFd for ProcessHandle {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl MachineOwner {
    /// Takes over a process. Its supervisor says through `exit` how it ended.
    #[must_use]
    pub fn new(process: Arc<ProcessHandle>, exit: watch::Receiver<Option<Exit>>) -> Self {
        Self { process, exit }
    }

    /// What of its jail is in force.
    #[must_use]
    pub fn isolation(&self) -> &JailReport {
        &self.process.isolation
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id
    }

    /// Waits for its end, as often as asked.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| exit.clone()).unwrap_or_else(|| Exit::Monitor {
            reason: "the thread that supervised it ended before it".to_owned(),
        })
    }

    /// Kills it, and waits for its end.
    pub async fn kill(&self) -> Exit {
        self.process.kill();
        self.wait().await
    }

    /// Waits for the answer to a command that `send` sends.
    ///
    /// # Errors
    /// [`MachineError::Ended`] if it has ended, or ends before it answers;
    /// [`MachineError::Command`] if it could not be told, or does not answer within 30 s.
    pub async fn ask<T>(
        &self,
        command: &'static str,
        send: impl FnOnce() -> io::Result<oneshot::Receiver<T>>,
    ) -> Result<T, MachineError> {
        if let Some(exit) = self.exit.borrow().clone() {
            return Err(MachineError::Ended(exit));
        }
        let failed = |source| MachineError::Command { command, source };
        let answer = match send() {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(MachineError::Ended(self.wait().await));
            }
            Err(source) => return Err(failed(source)),
        };
        match timeout(OBEDIENCE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            // Nobody is left to answer.
            Ok(Err(_)) => Err(MachineError::Ended(self.wait().await)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl Drop for MachineOwner {
    fn drop(&mut self) {
        self.process.kill();
        // Whoever drops a machine may end the next moment, and must not leave anything running: it
        // takes the kernel milliseconds to take a machine apart.
        let mut ended = [PollFd::new(&*self.process, PollFlags::IN)];
        let _ = poll(&mut ended, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }));
    }
}

impl fmt::Debug for MachineOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("MachineOwner");
        debug.field("id", &self.process.id).field("exit", &*self.exit.borrow()).finish()
    }
}
