//! The record of a running QEMU, by which a later process ends it should it ever be left behind.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};

/// What [`end_leftover`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leftover {
    /// No record of a machine, or one of a machine that no longer runs.
    None,
    /// A machine that still ran: it has been killed.
    Ended,
}

/// Ends the QEMU whose machine had this directory, if it still runs: the process that owned it is
/// known to be dead, and the kernel's own way of ending it, the parent death signal, did not work.
///
/// The process is known by its number and its start time, hence never mistaken. Blocks until it
/// is gone, which after a `SIGKILL` takes milliseconds.
///
/// # Errors
/// What the system said of the record or of the signal; [`io::ErrorKind::TimedOut`] if the process
/// did not end within five seconds.
pub fn end_leftover(directory: &Path) -> io::Result<Leftover> {
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
    if start_time(pid).ok() != Some(started) {
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
pub(crate) fn write_record(directory: &Path, pid: Pid) -> io::Result<()> {
    let started = start_time(pid)?;
    let draft = directory.join("qemu.pid.new");
    fs::write(&draft, format!("{} {started}\n", pid.as_raw_nonzero()))?;
    fs::rename(draft, record_path(directory))
}

/// Removes it.
pub(crate) fn remove_record(directory: &Path) {
    // Without consequence if it stays: its process is gone.
    let _ = fs::remove_file(record_path(directory));
}

fn record_path(directory: &Path) -> PathBuf {
    directory.join("qemu.pid")
}

fn parse_record(record: &str) -> Option<(Pid, u64)> {
    let (pid, started) = record.trim_end().split_once(' ')?;
    let pid = pid.parse().ok().filter(|&pid: &i32| pid > 0)?;
    Some((Pid::from_raw(pid)?, started.parse().ok()?))
}

/// When a process started, in clock ticks since the boot: field 22 of `/proc/PID/stat`.
fn start_time(pid: Pid) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    // Field 2, the name, may contain anything, even `)`.
    stat.rsplit_once(") ")
        .and_then(|(_, fields)| fields.split(' ').nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
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
        write_record(directory.path(), pid).unwrap();
        assert_eq!(end_leftover(directory.path()).unwrap(), Leftover::Ended);
        assert!(!child.wait().unwrap().success());
        assert_eq!(end_leftover(directory.path()).unwrap(), Leftover::None);
        remove_record(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn spares_a_process_that_got_the_number_later() {
        let directory = tempfile::tempdir().unwrap();
        let (mut child, pid) = sleeper();
        let earlier = start_time(pid).unwrap() - 1;
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
