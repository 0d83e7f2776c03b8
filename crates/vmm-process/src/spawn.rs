//! Starts a monitor.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::Path,
};

use costrel_vmm::{IsolationError, JailReport, Standing};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType},
    pipe::PipeFlags,
    process::{PidfdFlags, Resource},
};

use crate::{
    cgroup::{ControlGroup, NoGroup},
    child::{self, Arguments, Files, GO, IdMaps, Plan, Program, Step, User, WORD_BYTES, Word},
    clone::clone,
    landlocked::{self, Domain},
    namespaces,
    process::MonitorProcess,
    report::Findings,
    spec::{FileView, GroupSpec, MonitorSpec, ResourceLimits},
};

/// Why a monitor was not started. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The jail cannot be had as it was asked for.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// The program could not be executed.
    #[error("cannot execute the program")]
    Execute(#[source] io::Error),
    /// Something else failed.
    #[error("cannot {operation}")]
    Host {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Where ids begin that nobody uses: below are those that systemd gives to containers.
const FIRST_OWN_ID: u32 = 0x7000_0000;
/// 27 bits: that two of a thousand machines at a time have the same one is a matter of 1 in 270.
const OWN_IDS: u32 = 1 << 27;

/// Starts a monitor in its jail. Returns once its program runs.
///
/// It is killed when the calling *thread* ends, which is how the kernel understands a parent's
/// death.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(spec: &MonitorSpec<'_>) -> Result<MonitorProcess, SpawnError> {
    let is_root = rustix::process::geteuid().is_root();
    let own_id = is_root.then(|| own_id(spec)).transpose().map_err(host("get random bytes"))?;
    let (group, mut group_standing) = group(spec.jail.group.as_ref());
    let (available, mut refusals) = namespaces::available(is_root);
    let (stderr, their_stderr) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(host("make a pipe"))?;
    let (socket, their_socket) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(host("make a pair of sockets"))?;
    let (files, program, domain) = view(spec)?;
    let (landlock, landlock_standing) = match domain {
        Ok((ruleset, standing)) => (Some(ruleset), standing),
        Err(standing) => (None, standing),
    };
    let id = own_id.as_ref().and_then(|id| id.as_ref().ok().copied());
    let limits = spec.jail.limits;
    let mut plan = Plan {
        program,
        arguments: arguments(spec)?,
        inherited: spec.inherited.iter().map(|fd| fd.as_raw_fd()).collect(),
        null: open(Path::new("/dev/null"), OFlags::RDWR).map_err(host("open /dev/null"))?,
        stderr: their_stderr,
        socket: their_socket,
        parents_socket: socket.as_fd(),
        parent: rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(host("get a handle on this process"))?,
        proc: open(Path::new("/proc"), OFlags::PATH | OFlags::DIRECTORY).ok(),
        user: User {
            own_id: id,
            map: IdMaps::new(
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            own_map: IdMaps::new(id.unwrap_or(0), id.unwrap_or(0)),
        },
        files,
        landlock,
        limits: [
            (Resource::Core, 0),
            (Resource::Nofile, limits.open_files),
            (Resource::Fsize, limits.file_size),
        ],
        processes: None,
    };

    let mut wanted = available;
    let mut place = group.as_ref();
    let child = loop {
        let is_counted_apart = id.is_some() || wanted.has(libc::CLONE_NEWUSER) && counts_apart();
        plan.processes = is_counted_apart.then_some(limits.processes);
        let made = clone(wanted.flags(), place.map(ControlGroup::as_fd), |handlers| {
            child::run(&plan, wanted, handlers);
        });
        match made {
            Ok(child) => break child,
            Err(error) if place.is_some() => {
                // Whether it was the group's fault, the next turn shows.
                group_standing = Some(Standing::lacking(error.to_string()));
                place = None;
            }
            Err(error) if !wanted.is_empty() && namespaces::may_be_due(error) => {
                (wanted, refusals) = namespaces::narrow(wanted, error);
            }
            Err(error) => return Err(host("start a process")(error)),
        }
    };
    let is_counted = plan.processes.is_some();
    // Now the child alone has them.
    drop((plan.stderr, plan.socket));

    let is_born_there = child.is_in_group;
    let mut process = MonitorProcess::new(child, stderr, None);
    let faults = match hear(&socket)? {
        Some(Word::Armed(faults)) => faults,
        Some(Word::GaveUp(step, error)) => return Err(gave_up(step, error)),
        None => return Err(lost()),
    };
    if let Some(group) = &group
        && !is_born_there
    {
        group_standing = Some(match group.adopt(process.pid()) {
            Ok(()) => group_in_force(spec.jail.group.as_ref()),
            Err(error) => Standing::lacking(error.to_string()),
        });
    }
    let findings = Findings {
        namespaces: wanted,
        refusals: &refusals,
        faults: &faults,
        own_id,
        files,
        landlock: landlock_standing,
        limits: limits_text(limits, is_counted),
        group: group_standing,
    };
    let report: JailReport = findings.report();
    process.set_group(group);
    report.check(spec.strictness)?;
    process.set_isolation(report);
    rustix::io::write(&socket, &[GO]).map_err(host("tell a process to go on"))?;
    match hear(&socket)? {
        None => Ok(process),
        Some(Word::GaveUp(step, error)) => Err(gave_up(step, error)),
        Some(Word::Armed(_)) => Err(lost()),
    }
}

fn host<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> SpawnError {
    move |error| SpawnError::Host { operation, source: error.into() }
}

fn gave_up(step: Step, error: Errno) -> SpawnError {
    let operation = match step {
        Step::Exec => return SpawnError::Execute(error.into()),
        Step::Session => "make a session",
        Step::StandardStreams => "set up standard streams",
        Step::DeathSignal => "tie a process to this one",
        _ => "hand over descriptors",
    };
    SpawnError::Host { operation, source: error.into() }
}

/// It was killed on its way, or its program replaced it before it should have.
fn lost() -> SpawnError {
    host("start a process")(Errno::CHILD)
}

/// The child's next word; none once its program runs, or it has ended.
fn hear(socket: &OwnedFd) -> Result<Option<Word>, SpawnError> {
    let mut bytes = [0; WORD_BYTES];
    loop {
        match rustix::io::read(socket, &mut bytes) {
            Err(Errno::INTR) => {}
            // It ended without having read our answer.
            Ok(0) | Err(Errno::CONNRESET) => return Ok(None),
            Ok(_) => return Ok(Some(Word::parse(&bytes))),
            Err(error) => return Err(host("hear of a process")(error)),
        }
    }
}

fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// What it sees of the file system, and by what its program is found then.
fn view(spec: &MonitorSpec<'_>) -> Result<(Files, Program, Domain), SpawnError> {
    Ok(match &spec.jail.files {
        FileView::Empty => {
            let file = open(spec.program, OFlags::PATH)
                .map_err(|error| SpawnError::Execute(error.into()))?;
            let domain = landlocked::nothing_but(file.as_fd());
            (Files::Empty, Program::Descriptor(file), domain)
        }
        FileView::ReadOnlyPrograms { readable, reopened } => {
            let path = c_string(spec.program.as_os_str().as_bytes())?;
            let domain = landlocked::programs(spec.program, readable, reopened);
            (Files::ReadOnly, Program::Path(path), domain)
        }
    })
}

fn arguments(spec: &MonitorSpec<'_>) -> Result<Arguments, SpawnError> {
    let name = spec.program.as_os_str().as_bytes();
    let all = [name].into_iter().chain(spec.arguments.iter().map(String::as_bytes));
    Ok(Arguments::new(all.map(c_string).collect::<Result<_, _>>()?))
}

fn c_string(bytes: &[u8]) -> Result<CString, SpawnError> {
    CString::new(bytes).map_err(|error| SpawnError::Execute(error.into()))
}

/// A user id for a monitor of root's, or why it can have none.
fn own_id(spec: &MonitorSpec<'_>) -> io::Result<Result<u32, String>> {
    let by_path = matches!(spec.jail.files, FileView::ReadOnlyPrograms { .. });
    if !is_open_to_all(spec.program, by_path) {
        return Ok(Err(format!("nobody but this user can execute {}", spec.program.display())));
    }
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(Ok(FIRST_OWN_ID + u32::from_ne_bytes(bytes) % OWN_IDS))
}

/// Whether any user can execute this file, and reach it if it is to be found by its path.
fn is_open_to_all(program: &Path, by_path: bool) -> bool {
    let places = if by_path { usize::MAX } else { 1 };
    program.ancestors().take(places).all(|place| {
        place.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
    })
}

fn group(spec: Option<&GroupSpec<'_>>) -> (Option<ControlGroup>, Option<Standing>) {
    let Some(spec) = spec else { return (None, None) };
    match ControlGroup::create(spec) {
        Ok(group) => (Some(group), Some(group_in_force(Some(spec)))),
        Err(NoGroup::NotDelegated(reason)) => {
            let advice = "a service manager can delegate one: `systemd-run --user --scope -p \
                          Delegate=yes costrel …`";
            (None, Some(Standing::Waived { reason, advice: Some(advice.to_owned()) }))
        }
        Err(NoGroup::Failed(reason)) => (None, Some(Standing::lacking(reason))),
    }
}

fn group_in_force(spec: Option<&GroupSpec<'_>>) -> Standing {
    spec.map_or_else(Standing::in_force, |spec| {
        Standing::with_detail(format!("{} MiB, {} processes", spec.memory >> 20, spec.processes))
    })
}

fn limits_text(limits: ResourceLimits, is_counted: bool) -> String {
    let ResourceLimits { open_files, file_size, processes } = limits;
    let files = format!("{open_files} open files, files of {} MiB", file_size >> 20);
    if is_counted { format!("{files}, {processes} threads") } else { files }
}

/// Whether this kernel counts processes by user namespace.
fn counts_apart() -> bool {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(14))
}

impl IdMaps {
    fn new(user: u32, group: u32) -> Self {
        Self { user: format!("{user} {user} 1\n"), group: format!("{group} {group} 1\n") }
    }
}
