//! Starts one process of the workload, with its account, working directory and cgroup.
#![expect(unsafe_code, reason = "what happens between fork and exec can only be said in pre_exec")]

use std::{
    io,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Command, Stdio},
    sync::Arc,
};

use costrel_agent_proto::v1::ProcessSpec;
use rustix::{
    process::{Gid, Uid},
    thread::{set_thread_gid, set_thread_groups, set_thread_uid},
};

use crate::accounts::Identity;

/// The three pipes of a process that was started, and its id.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: u32,
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Whether a process gets a pipe for its standard input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stdin {
    Null,
    Piped,
}

/// Starts `arguments` (not empty) with the environment, directory and `identity` given, in the
/// cgroup whose `cgroup.procs` is open as `cgroup`.
pub(crate) fn spawn(
    arguments: &[String],
    spec: &ProcessSpec,
    identity: &Identity,
    stdin: Stdin,
    cgroup: Option<Arc<OwnedFd>>,
) -> io::Result<Spawned> {
    let (program, rest) = arguments.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command
        .args(rest)
        .env_clear()
        .envs(spec.environment.iter().map(|variable| (&variable.name, &variable.value)))
        .current_dir(if spec.working_directory.is_empty() { "/" } else { &spec.working_directory })
        .stdin(match stdin {
            Stdin::Null => Stdio::null(),
            Stdin::Piped => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let identity = identity.clone();
    // SAFETY: between fork and exec the closure makes system calls only, on values that were
    // made before; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            if let Some(cgroup) = &cgroup {
                rustix::io::write(&**cgroup, b"0")?;
            }
            rustix::process::setsid()?;
            become_identity(&identity)?;
            Ok(())
        });
    }
    let mut child = command.spawn()?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("no pipes"));
    };
    Ok(Spawned {
        pid: child.id(),
        stdin: child.stdin.take().map(OwnedFd::from),
        stdout: stdout.into(),
        stderr: stderr.into(),
    })
}

/// Groups first: without root's powers they could not be set any more.
fn become_identity(identity: &Identity) -> rustix::io::Result<()> {
    set_thread_groups(&identity.groups)?;
    // Real, effective and saved: in the child there is only this thread.
    set_thread_gid(Gid::from_raw(identity.gid))?;
    set_thread_uid(Uid::from_raw(identity.uid))
}
