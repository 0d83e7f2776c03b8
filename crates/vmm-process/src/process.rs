//! A monitor that was started, as its owner holds it.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt as _,
    },
    path::Path,
    process::ExitStatus,
};

use costrel_vmm::JailReport;
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus},
};

use crate::{cgroup::ControlGroup, leftover};

/// A child process that runs a machine. Dropping it kills it, and returns when it is gone.
#[derive(Debug)]
pub struct MonitorProcess {
    pid: Pid,
    handle: OwnedFd,
    stderr: Option<OwnedFd>,
    isolation: JailReport,
    status: Option<ExitStatus>,
    group: Option<ControlGroup>,
    ran_out_of_memory: bool,
}

impl MonitorProcess {
    pub(crate) fn new(
        child: crate::clone::Child,
        stderr: OwnedFd,
        group: Option<ControlGroup>,
    ) -> Self {
        Self {
            pid: child.pid,
            handle: child.handle,
            stderr: Some(stderr),
            isolation: JailReport::default(),
            status: None,
            group,
            ran_out_of_memory: false,
        }
    }

    pub(crate) fn set_isolation(&mut self, isolation: JailReport) {
        self.isolation = isolation;
    }

    pub(crate) fn set_group(&mut self, group: Option<ControlGroup>) {
        self.group = group;
    }

    /// Its id, as this process sees it.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Another handle on it (a pidfd): readable once it has ended, and never another process's.
    ///
    /// # Errors
    /// What the system said.
    pub fn handle(&self) -> io::Result<OwnedFd> {
        self.handle.try_clone()
    }

    /// What it writes to its standard error. None the second time.
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// What of its jail is in force.
    #[must_use]
    pub fn isolation(&self) -> &JailReport {
        &self.isolation
    }

    /// Leaves a note of it in the machine's directory, by which [`crate::end_leftover`] finds it.
    ///
    /// # Errors
    /// What the system said.
    pub fn record(&self, directory: &Path) -> io::Result<()> {
        leftover::write_record(directory, self.pid, self.group.as_ref().map(ControlGroup::path))
    }

    /// Kills it.
    pub fn kill(&self) {
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Waits for its end. What has become of it stays known.
    ///
    /// # Errors
    /// What the system said.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let answer = loop {
            let id = WaitId::PidFd(self.handle.as_fd());
            match rustix::process::waitid(id, WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                other => break other?,
            }
        };
        let status = answer.as_ref().map(exit_status).unwrap_or_default();
        self.status = Some(status);
        // Empty now, hence removable.
        if let Some(group) = self.group.take() {
            let was_killed = status.signal() == Some(Signal::KILL.as_raw());
            self.ran_out_of_memory = was_killed && group.has_run_out_of_memory();
        }
        Ok(status)
    }

    /// Whether the kernel has killed it, since it needed more memory than [`GroupSpec::memory`].
    /// Known once [`MonitorProcess::wait`] has returned.
    ///
    /// [`GroupSpec::memory`]: crate::GroupSpec::memory
    #[must_use]
    pub fn ran_out_of_memory(&self) -> bool {
        self.ran_out_of_memory
    }
}

impl AsFd for MonitorProcess {
    /// The handle.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl Drop for MonitorProcess {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
            let _ = self.wait();
        }
    }
}

/// As `wait` has it, which is how the standard library takes it.
fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    const CORE: i32 = 0x80;
    ExitStatus::from_raw(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code & 0xff) << 8,
        (None, Some(signal)) if status.dumped() => signal | CORE,
        (None, Some(signal)) => signal,
        (None, None) => 0,
    })
}
