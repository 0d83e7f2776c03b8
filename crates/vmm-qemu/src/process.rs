//! Starts QEMU so that nothing but what is meant to reaches it, and so that it dies with us.

#![expect(unsafe_code, reason = "Command::pre_exec runs between fork and exec")]

use std::{
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    io::FdFlags,
    process::{Resource, Rlimit, Signal},
};

/// Starts the program: no environment, no standard input or output, standard error in a pipe, and
/// of our descriptors the named ones only.
///
/// It is killed when the calling *thread* ends, which is how the kernel understands a parent's
/// death, and is in a process group of its own, so that Ctrl-C on the terminal reaches only us.
pub(crate) fn spawn(
    program: &Path,
    arguments: &[String],
    inherited: &[BorrowedFd<'_>],
) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let inherited: Vec<RawFd> = inherited.iter().map(|fd| fd.as_raw_fd()).collect();
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // Had the parent died before the line above, its death would go unnoticed.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
        }
        // The guest's memory doesn't belong into a core file.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        rustix::process::setrlimit(Resource::Core, none)?;
        // What this process has inherited itself may be open across `exec`. A kernel older than
        // 5.11 refuses, and such descriptors stay: no harm that would be worth a failure.
        // SAFETY: the call changes flags of descriptors in the child only.
        unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
        for &fd in &inherited {
            // SAFETY: the caller holds these descriptors open while `spawn` runs, and this is the
            // child's copy of them.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only; it neither allocates nor takes locks, which
    // another thread of the parent may have held at the fork.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::fd::AsFd as _};

    use rustix::pipe::{PipeFlags, pipe_with};

    use super::*;

    #[test]
    fn only_the_named_descriptors_and_no_environment_arrive() {
        let (pipe, _) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        // Numbers that the shell does not use itself.
        let named = rustix::io::fcntl_dupfd_cloexec(&pipe, 500).unwrap();
        let unnamed = rustix::io::fcntl_dupfd_cloexec(&pipe, 600).unwrap();
        // As if whoever started this process had left it open.
        rustix::io::fcntl_setfd(&unnamed, FdFlags::empty()).unwrap();
        let script = "for fd in /proc/self/fd/*; do echo \"${fd##*/}\" >&2; done; export -p >&2";
        let arguments = ["-c".to_owned(), script.to_owned()];
        let mut child = spawn(Path::new("/bin/sh"), &arguments, &[named.as_fd()]).unwrap();
        let mut heard = String::new();
        child.stderr.take().unwrap().read_to_string(&mut heard).unwrap();
        assert!(child.wait().unwrap().success());
        let has = |fd: RawFd| heard.lines().any(|line| line == fd.to_string());
        assert!(has(named.as_raw_fd()) && !has(unnamed.as_raw_fd()), "{heard}");
        assert!(!heard.contains("HOME"), "{heard}");
    }
}
