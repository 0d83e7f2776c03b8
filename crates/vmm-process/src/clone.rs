//! `clone3`, and `clone` where a container's filter pretends that the kernel doesn't know it.

#![expect(unsafe_code, reason = "no library clones a process into namespaces with a handle on it")]

use std::{
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{io::Errno, process::Pid};

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Whether `clone3` was found to be refused.
static IS_OLD: AtomicBool = AtomicBool::new(false);

/// Linux' `struct clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A child as its parent has it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) handle: OwnedFd,
    /// Whether it was born into the control group.
    pub(crate) is_in_group: bool,
}

/// Clones this process: the child has `namespaces` of its own (`CLONE_NEW…`) and runs `body`.
///
/// `body` gets to know whether signal handlers are to be reset. It starts with all signals
/// blocked, and must not return, allocate or take locks.
pub(crate) fn clone(
    namespaces: u64,
    group: Option<BorrowedFd<'_>>,
    body: impl FnOnce(Handlers),
) -> Result<Child, Errno> {
    let blocked = BlockedSignals::new();
    let child = match clone3(namespaces, group) {
        Err(Errno::NOSYS) => {
            IS_OLD.store(true, Ordering::Relaxed);
            old_clone(namespaces).map(|child| (child, Handlers::Inherited))
        }
        other => other.map(|child| (child, Handlers::Default)),
    };
    match child {
        Ok((Some(child), _)) => {
            drop(blocked);
            Ok(child)
        }
        Ok((None, handlers)) => {
            body(handlers);
            exit()
        }
        Err(error) => Err(error),
    }
}

/// What signal handlers a child starts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Handlers {
    /// None.
    Default,
    /// Its parent's, which must not run in it.
    Inherited,
}

/// Ends a child that has not called `exec`, without a trace.
pub(crate) fn exit() -> ! {
    // SAFETY: ends this process; it was cloned without a thread but the calling one.
    unsafe { libc::_exit(127) }
}

fn clone3(namespaces: u64, group: Option<BorrowedFd<'_>>) -> Result<Option<Child>, Errno> {
    if IS_OLD.load(Ordering::Relaxed) {
        return Err(Errno::NOSYS);
    }
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArguments {
        flags: namespaces | CLONE_CLEAR_SIGHAND | flag(libc::CLONE_PIDFD),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD.unsigned_abs().into(),
        ..CloneArguments::default()
    };
    if let Some(group) = group {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(group.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without `CLONE_VM` the child has a copy of all memory, the stack included; the
    // arguments are of the size given, and `pidfd` outlives the call. The C library's own notes
    // on threads and forks are stale in the child, which calls nothing that reads them.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<CloneArguments>()) };
    child(pid, pidfd, group.is_some())
}

fn old_clone(namespaces: u64) -> Result<Option<Child>, Errno> {
    let mut pidfd: RawFd = -1;
    let flags = namespaces | flag(libc::CLONE_PIDFD) | u64::from(libc::SIGCHLD.unsigned_abs());
    // SAFETY: as above; a null stack is the parent's own, copied, and the third argument is where
    // the handle goes.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    child(pid, pidfd, false)
}

fn child(pid: libc::c_long, pidfd: RawFd, is_in_group: bool) -> Result<Option<Child>, Errno> {
    if pid < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    // SAFETY: the kernel has just opened it for us.
    let handle = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Some(Child { pid, handle, is_in_group }))
}

/// A flag of the C library as the kernel's word.
pub(crate) fn flag(flag: libc::c_int) -> u64 {
    u64::from(flag.cast_unsigned())
}

/// All signals of this thread are blocked while this lives: a handler of ours must not run in a
/// child that has a copy of it.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are plain memory, filled before they are read.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that `new` got.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}
