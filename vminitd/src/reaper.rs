//! Reaps children: the agent's own, whose ends somebody waits for, and the orphans that every
//! PID 1 inherits.

use std::{
    collections::HashMap,
    io,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// It exited with this code, 0 to 255.
    Code(u32),
    /// This signal killed it.
    Signal(u32),
}

type Waiting = Mutex<HashMap<i32, oneshot::Sender<Ending>>>;

/// Who waits for which process. There is one of it, as there is one set of children: whoever reaps
/// may come upon any of them, and in tests there are many who do.
static WAITING: LazyLock<Waiting> = LazyLock::new(Waiting::default);

/// Knows who waits for which process.
#[derive(Clone, Debug)]
pub(crate) struct Reaper(());

impl Reaper {
    /// Starts reaping on the current executor, for as long as it runs.
    pub(crate) fn start() -> io::Result<Self> {
        let reaper = Self(());
        let mut children = signal(SignalKind::child())?;
        tokio::spawn(async move {
            loop {
                Self::reap_all();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    /// Spawns by `spawn`, which returns the new process's id, and registers it, so that it cannot
    /// be reaped in between as an orphan.
    pub(crate) fn spawn<E>(
        &self,
        spawn: impl FnOnce() -> Result<u32, E>,
    ) -> Result<(u32, oneshot::Receiver<Ending>), E> {
        let mut waiting = Self::lock();
        let pid = spawn()?;
        let (sender, receiver) = oneshot::channel();
        waiting.insert(pid.cast_signed(), sender);
        Ok((pid, receiver))
    }

    fn lock() -> MutexGuard<'static, HashMap<i32, oneshot::Sender<Ending>>> {
        WAITING.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reap_all() {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let waiter = Self::lock().remove(&pid.as_raw_pid());
            if let (Some(waiter), Some(ending)) = (waiter, ending(status)) {
                let _ = waiter.send(ending);
            }
        }
    }
}

fn ending(status: WaitStatus) -> Option<Ending> {
    if let Some(code) = status.exit_status() {
        return Some(Ending::Code(code.cast_unsigned()));
    }
    status.terminating_signal().map(|signal| Ending::Signal(signal.cast_unsigned()))
}
