//! What a child does between `clone` and `exec`: system calls only.
//!
//! Invariant: nothing here allocates, takes a lock, panics or calls a function of the C library
//! that does. All that needs memory is in the [`Plan`], made beforehand.

#![expect(unsafe_code, reason = "exec, and system calls for which there is no safe wrapper")]

use std::{
    ffi::{CStr, CString, c_char},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    event::{PollFd, PollFlags},
    fs::{Mode, OFlags},
    io::{Errno, FdFlags},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
    process::{DumpableBehavior, Resource, Rlimit, Signal},
    thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets},
};

use crate::{clone::Handlers, namespaces::Namespaces};

/// The steps that can fail. What of them is no reason to give up is reported as a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Step {
    /// A session of its own.
    Session,
    /// Standard input, output and error.
    StandardStreams,
    /// Its other descriptors.
    Descriptors,
    /// The death with its parent.
    DeathSignal,
    /// The program.
    Exec,
    // From here on: no reason to give up.
    /// Limits.
    Limits,
    /// The ids of a user namespace made by the clone.
    UserMap,
    /// Its view of the file system.
    Files,
    /// A `/proc` of its PID namespace.
    Proc,
    /// A user id of its own.
    OwnUserId,
    /// A user namespace for that.
    OwnUserNamespace,
    /// No capabilities.
    Capabilities,
    /// An empty bounding set, and root without a special meaning.
    BoundingSet,
    /// No new privileges.
    NoNewPrivileges,
    /// Landlock.
    Landlock,
}

const STEPS: usize = Step::Landlock as usize + 1;

/// The error numbers of the steps that failed, 0 for the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults([i32; STEPS]);

/// What a child says: before `exec` that it is armed, with its faults; or why it gave up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Word {
    Armed(Faults),
    GaveUp(Step, Errno),
}

/// The bytes of a [`Word`].
pub(crate) const WORD_BYTES: usize = 4 * (STEPS + 1);
/// What a parent answers to [`Word::Armed`].
pub(crate) const GO: u8 = 1;

/// All that a child needs.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) program: Program,
    pub(crate) arguments: Arguments,
    pub(crate) inherited: Vec<RawFd>,
    pub(crate) null: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// Its end of the pair of sockets; the parent's own is closed.
    pub(crate) socket: OwnedFd,
    pub(crate) parents_socket: BorrowedFd<'a>,
    /// A handle on the parent's process.
    pub(crate) parent: OwnedFd,
    /// `/proc` as the parent sees it, where it can be seen.
    pub(crate) proc: Option<OwnedFd>,
    pub(crate) user: User,
    pub(crate) files: Files,
    pub(crate) landlock: Option<OwnedFd>,
    pub(crate) limits: [(Resource, u64); 3],
    /// Applied only where these are counted apart.
    pub(crate) processes: Option<u64>,
}

/// What to execute.
#[derive(Debug)]
pub(crate) enum Program {
    /// A path, after whatever the mounts look like.
    Path(CString),
    /// A file that was opened before.
    Descriptor(OwnedFd),
}

/// An `argv`.
#[derive(Debug)]
pub(crate) struct Arguments {
    pointers: Vec<*const c_char>,
    // What the pointers point into.
    _strings: Vec<CString>,
}

impl Arguments {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { pointers, _strings: strings }
    }
}

/// Whose rights it has.
#[derive(Debug)]
pub(crate) struct User {
    /// The id to become, as user and group; none where it stays the owner's.
    pub(crate) own_id: Option<u32>,
    /// For `uid_map` and `gid_map` of the ids that it has at the clone.
    pub(crate) map: IdMaps,
    /// The same of `own_id`.
    pub(crate) own_map: IdMaps,
}

/// Lines that map one id to itself.
#[derive(Debug)]
pub(crate) struct IdMaps {
    pub(crate) user: String,
    pub(crate) group: String,
}

/// What it sees of the file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Files {
    /// Nothing.
    Empty,
    /// All, read-only.
    ReadOnly,
}

impl Faults {
    /// What a step failed with.
    pub(crate) fn of(&self, step: Step) -> Option<Errno> {
        let number = self.0[step as usize];
        (number != 0).then(|| Errno::from_raw_os_error(number))
    }

    fn note(&mut self, step: Step, result: Result<(), Errno>) {
        if let Err(error) = result {
            self.0[step as usize] = error.raw_os_error();
        }
    }
}

impl Word {
    pub(crate) fn parse(bytes: &[u8; WORD_BYTES]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let mut faults = Faults([0; STEPS]);
        for (fault, word) in faults.0.iter_mut().zip(&words[1..]) {
            *fault = i32::from_ne_bytes(*word);
        }
        if i32::from_ne_bytes(words[0]) == 0 {
            return Self::Armed(faults);
        }
        let fatal = [
            Step::Session,
            Step::StandardStreams,
            Step::Descriptors,
            Step::DeathSignal,
            Step::Exec,
        ];
        let step = fatal.into_iter().find(|&step| faults.of(step).is_some());
        let step = step.unwrap_or(Step::Exec);
        Self::GaveUp(step, faults.of(step).unwrap_or(Errno::IO))
    }

    fn bytes(&self) -> [u8; WORD_BYTES] {
        let mut bytes = [0; WORD_BYTES];
        let (kind, faults) = match *self {
            Self::Armed(faults) => (0_i32, faults),
            Self::GaveUp(step, error) => {
                let mut faults = Faults([0; STEPS]);
                faults.note(step, Err(error));
                (1, faults)
            }
        };
        let (words, _) = bytes.as_chunks_mut::<4>();
        words[0] = kind.to_ne_bytes();
        for (word, fault) in words[1..].iter_mut().zip(&faults.0) {
            *word = fault.to_ne_bytes();
        }
        bytes
    }
}

/// The child's way to `exec`. Returns only where it fails, having said why.
pub(crate) fn run(plan: &Plan<'_>, namespaces: Namespaces, handlers: Handlers) {
    let (Err((step, error)) | Ok((step, error))) =
        attempt(plan, namespaces, handlers).map(|error| (Step::Exec, error));
    // Nobody is left to hear it, if this fails.
    let _ = rustix::io::write(&plan.socket, &Word::GaveUp(step, error).bytes());
}

fn attempt(
    plan: &Plan<'_>,
    namespaces: Namespaces,
    handlers: Handlers,
) -> Result<Errno, (Step, Errno)> {
    let fatal = |step| move |error| (step, error);
    let mut faults = Faults([0; STEPS]);
    reset_signals(handlers);
    close(plan.parents_socket.as_raw_fd());
    rustix::process::setsid().map_err(fatal(Step::Session))?;
    standard_streams(plan).map_err(fatal(Step::StandardStreams))?;
    descriptors(plan).map_err(fatal(Step::Descriptors))?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    faults.note(Step::Limits, limits(plan));

    if namespaces.has(libc::CLONE_NEWUSER) {
        faults.note(Step::UserMap, write_maps(plan, &plan.user.map));
    }
    if namespaces.has(libc::CLONE_NEWNS) {
        faults.note(Step::Files, files(plan.files));
        if plan.files == Files::ReadOnly && namespaces.has(libc::CLONE_NEWPID) {
            faults.note(Step::Proc, mount_proc());
        }
    }
    if let Some(id) = plan.user.own_id {
        // Lost with the user id, where there is no namespace to have them in.
        faults.note(Step::BoundingSet, empty_bounding_set());
        faults.note(Step::OwnUserId, become_user(id));
        let maps =
            if faults.of(Step::OwnUserId).is_none() { &plan.user.own_map } else { &plan.user.map };
        let made = own_user_namespace(plan, maps);
        if made.is_ok() {
            faults.note(Step::BoundingSet, empty_bounding_set());
        }
        faults.note(Step::OwnUserNamespace, made);
    } else {
        faults.note(Step::BoundingSet, empty_bounding_set());
    }
    faults.note(Step::Capabilities, shed_capabilities());
    faults.note(Step::NoNewPrivileges, rustix::thread::set_no_new_privs(true));
    if let Some(ruleset) = &plan.landlock {
        faults.note(Step::Landlock, enter_landlock(ruleset.as_fd()));
    }
    // After the last change of credentials, which clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(fatal(Step::DeathSignal))?;
    await_word(plan, &Word::Armed(faults)).map_err(fatal(Step::DeathSignal))?;
    Ok(exec(plan))
}

/// Tells the parent how far it is, and returns once told to go on.
///
/// Had the parent died before the death signal was set, its death would go unnoticed: a parent
/// that answers lived afterwards. `getppid` tells nothing in a PID namespace.
fn await_word(plan: &Plan<'_>, word: &Word) -> Result<(), Errno> {
    rustix::io::write(&plan.socket, &word.bytes())?;
    loop {
        // The socket alone would not do: a sibling, cloned at the same time, may hold a copy of
        // the parent's end and wait for the same.
        let mut sources =
            [PollFd::new(&plan.socket, PollFlags::IN), PollFd::new(&plan.parent, PollFlags::IN)];
        match rustix::event::poll(&mut sources, None) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
            Ok(_) if sources[0].revents().is_empty() => return Err(Errno::SRCH),
            Ok(_) => {
                let mut answer = [0];
                return match rustix::io::read(&plan.socket, &mut answer) {
                    Ok(1) if answer[0] == GO => Ok(()),
                    Ok(_) => Err(Errno::SRCH),
                    Err(error) => Err(error),
                };
            }
        }
    }
}

fn exec(plan: &Plan<'_>) -> Errno {
    let environment: [*const c_char; 1] = [std::ptr::null()];
    let arguments = plan.arguments.pointers.as_ptr();
    // SAFETY: both arrays end with a null, and what they point to lives in the plan.
    unsafe {
        match &plan.program {
            Program::Path(path) => {
                libc::execve(path.as_ptr(), arguments, environment.as_ptr());
            }
            Program::Descriptor(file) => {
                libc::syscall(
                    libc::SYS_execveat,
                    file.as_raw_fd(),
                    c"".as_ptr(),
                    arguments,
                    environment.as_ptr(),
                    libc::AT_EMPTY_PATH,
                );
            }
        }
    }
    last_error()
}

fn reset_signals(handlers: Handlers) {
    // SAFETY: these change the child's own dispositions and mask; the set is filled by the call
    // before it is read.
    unsafe {
        if handlers == Handlers::Inherited {
            for signal in 1..=64 {
                libc::signal(signal, libc::SIG_DFL);
            }
        }
        // Rust's runtime ignores it, and what is ignored stays so across `exec`.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn close(fd: RawFd) {
    // SAFETY: the child's copy of it, which nobody uses.
    unsafe { libc::close(fd) };
}

fn standard_streams(plan: &Plan<'_>) -> Result<(), Errno> {
    for (from, to) in [(&plan.null, 0), (&plan.null, 1), (&plan.stderr, 2)] {
        // SAFETY: of the child's own table. `dup2` leaves the new one open across `exec`.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(last_error());
        }
    }
    Ok(())
}

fn descriptors(plan: &Plan<'_>) -> Result<(), Errno> {
    // What this process has inherited itself may be open across `exec`. A kernel older than 5.11
    // refuses, and such descriptors stay: no harm that would be worth a failure.
    // SAFETY: the call changes flags of descriptors in the child only.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    for &fd in &plan.inherited {
        // SAFETY: whoever spawns holds these open meanwhile, and this is the child's copy.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(())
}

fn limits(plan: &Plan<'_>) -> Result<(), Errno> {
    let processes = plan.processes.map(|most| (Resource::Nproc, most));
    for (resource, most) in plan.limits.into_iter().chain(processes) {
        let now = rustix::process::getrlimit(resource);
        let most = Some(now.maximum.map_or(most, |maximum| maximum.min(most)));
        rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}

fn write_maps(plan: &Plan<'_>, maps: &IdMaps) -> Result<(), Errno> {
    let proc = plan.proc.as_ref().ok_or(Errno::NOENT)?;
    let write = |path: &CStr, text: &str| {
        let file = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes()).map(|_| ())
    };
    write(c"self/uid_map", &maps.user)?;
    // Without it an unprivileged process may not map a group.
    write(c"self/setgroups", "deny")?;
    write(c"self/gid_map", &maps.group)
}

fn files(files: Files) -> Result<(), Errno> {
    match files {
        Files::Empty => {
            make_private()?;
            empty_root()
        }
        Files::ReadOnly => make_read_only(),
    }
}

/// Linux' `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const AT_RECURSIVE: libc::c_int = 0x8000;

/// Each mount becomes read-only, and what happens to it concerns nobody else.
fn make_read_only() -> Result<(), Errno> {
    let attributes = MountAttributes {
        set: MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    // SAFETY: the structure is of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn make_private() -> Result<(), Errno> {
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// The root becomes an empty file system, and all others are out of reach.
fn empty_root() -> Result<(), Errno> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Any directory will do, and these are everywhere.
    let place = match rustix::mount::mount(c"costrel", c"/proc", c"tmpfs", flags, c"mode=555") {
        Ok(()) => c"/proc",
        Err(Errno::NOENT) => {
            rustix::mount::mount(c"costrel", c"/tmp", c"tmpfs", flags, c"mode=555")?;
            c"/tmp"
        }
        Err(error) => return Err(error),
    };
    rustix::process::chdir(place)?;
    // The old root ends up on top of the new one, from where it can be taken off.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

fn mount_proc() -> Result<(), Errno> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(c"proc", c"/proc", c"proc", flags, None::<&CStr>)
}

/// Of this thread only, which is the only one.
fn become_user(id: u32) -> Result<(), Errno> {
    use rustix::thread::{Gid, Uid};
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

fn own_user_namespace(plan: &Plan<'_>, maps: &IdMaps) -> Result<(), Errno> {
    // A process that has changed its user is not its own master in /proc.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    // SAFETY: the flag leaves memory and descriptors as they are.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
        return Err(last_error());
    }
    write_maps(plan, maps)
}

/// No program that is executed gains a capability, not even as user 0.
fn empty_bounding_set() -> Result<(), Errno> {
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits)?;
    for capability in 0..64_u64 {
        // SAFETY: changes the calling thread's own bounding set.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            match last_error() {
                // One more than there are.
                Errno::INVAL => break,
                error => return Err(error),
            }
        }
    }
    Ok(())
}

fn shed_capabilities() -> Result<(), Errno> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)
}

fn enter_landlock(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call takes a descriptor and flags.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

fn last_error() -> Errno {
    // Reads `errno`, nothing more.
    let number = std::io::Error::last_os_error().raw_os_error();
    Errno::from_raw_os_error(number.unwrap_or(libc::EIO))
}
