//! The record of a running monitor, by which a later process ends it should it ever be left behind.
//!
//! ```text
//! monitor.pid    its number and start time
//! cgroup         the path of its control group, where it has one
//! ```

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};

use crate::cgroup;

/// What [`end_leftover`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leftover {
    /// No record of a machine, or one of a machine that no longer runs.
    None,
    /// A machine that still ran: it has been killed.
    Ended,
}

/// Ends the monitor whose machine had this directory, if it still runs: the process that owned it is
/// known to be dead, and the kernel's own way of ending it, the parent death signal, did not work.
///
/// The process is known by its number and its start time, hence never mistaken. Blocks until it
/// is gone, which after a `SIGKILL` takes milliseconds. Its control group is removed.
///
/// # Errors
/// What the system said of the record or of the signal; [`io::ErrorKind::TimedOut`] if the process
/// did not end within five seconds.
pub fn end_leftover(directory: &Path) -> io::Result<Leftover> {
    let leftover = end_process(directory)?;
    match fs::read(directory.join(GROUP)) {
        Ok(path) => {
            // At worst an empty group stays, which costs nothing.
            let _ = cgroup::remove_leftover(Path::new(OsStr::from_bytes(&path)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(leftover)
}

fn end_process(directory: &Path) -> io::Result<Leftover> {
    let record = match fs::read_to_string(record_path(directory)) {
        Ok(record) => record,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Leftover::None),
        Err(error) => return Err(error),
    };
    let Some((pid, started)) = parse_record(&record) else { return Ok(Leftover::None) };
    // The handle first: it stays with this process, whatever becomes of the number.
    let process = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(Leftover::None),
        Err(error) => return Err(error.into()),
    };
    // A zombie is only a number that its new parent has not yet given back.
    if stat(pid).ok() != Some(Stat { zombie: false, started }) {
        return Ok(Leftover::None);
    }
    match rustix::process::pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) => {}
        Err(rustix::io::Errno::SRCH) => return Ok(Leftover::None),
        Err(error) => return Err(error.into()),
    }
    let deadline = Timespec { tv_sec: 5, tv_nsec: 0 };
    match rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&deadline))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(Leftover::Ended),
    }
}

/// Writes the record of a child that was not reaped yet.
pub(crate) fn write_record(directory: &Path, pid: Pid, group: Option<&Path>) -> io::Result<()> {
    let Stat { started, .. } = stat(pid)?;
    if let Some(group) = group {
        fs::write(directory.join(GROUP), group.as_os_str().as_bytes())?;
    }
    let draft = directory.join("monitor.pid.new");
    fs::write(&draft, format!("{} {started}\n", pid.as_raw_nonzero()))?;
    fs::rename(draft, record_path(directory))
}

/// Removes the record of a monitor that has ended.
pub fn remove_record(directory: &Path) {
    // Without consequence if it stays: its process is gone.
    let _ = fs::remove_file(record_path(directory));
    let _ = fs::remove_file(directory.join(GROUP));
}

fn record_path(directory: &Path) -> PathBuf {
    directory.join("monitor.pid")
}

const GROUP: &str = "cgroup";

fn parse_record(record: &str) -> Option<(Pid, u64)> {
    let (pid, started) = record.trim_end().split_once(' ')?;
    let pid = pid.parse().ok().filter(|&pid: &i32| pid > 0)?;
    Some((Pid::from_raw(pid)?, started.parse().ok()?))
}

/// What is asked of `/proc/PID/stat`: fields 3 and 22 of it.
#[derive(PartialEq, Eq)]
struct Stat {
    zombie: bool,
    /// In clock ticks since the boot.
    started: u64,
}

fn stat(pid: Pid) -> io::Result<Stat> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    parse_stat(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_stat(stat: &str) -> Option<Stat> {
    // Field 2, the name, may contain anything, even `)`.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    Some(Stat { zombie: matches!(state, "Z" | "X"), started: fields.nth(18)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&child);
        (child, pid)
    }

    #[test]
    fn ends_what_is_on_record() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(end_leftover(directory.path()).unwrap(), Leftover::None);
        let (mut child, pid) = sleeper();
        write_record(directory.path(), pid, None).unwrap();
        assert_eq!(end_leftover(directory.path()).unwrap(), Leftover::Ended);
        assert_eq!(end_leftover(directory.path()).unwrap(), Leftover::None, "it is a zombie");
        assert!(!child.wait().unwrap().success());
        assert_eq!(end_leftover(directory.path()).unwrap(), Leftover::None);
        remove_record(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn spares_a_process_that_got_the_number_later() {
        let directory = tempfile::tempdir().unwrap();
        let (mut child, pid) = sleeper();
        let earlier = stat(pid).unwrap().started - 1;
        let record = format!("{} {earlier}\n", pid.as_raw_nonzero());
        fs::write(record_path(directory.path()), record).unwrap();
        assert_eq!(end_leftover(directory.path()).unwrap(), Leftover::None);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_crafted_record_names_nobody() {
        for record in ["", "1", "0 5", "-1 5", "-9 5\n", "x y", "1 2 3"] {
            assert_eq!(parse_record(record), None, "{record:?}");
        }
    }
}
