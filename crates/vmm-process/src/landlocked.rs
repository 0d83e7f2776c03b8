//! Landlock: what may be opened, whatever the mounts say.

#![expect(unsafe_code, reason = "the kernel is asked for its version of Landlock")]

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
};

use costrel_vmm::{JailReport, MeasureName, Standing};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::{fs::FileType, io::Errno};

use crate::advice;

/// The newest version of which this code knows what it denies.
const KNOWN: ABI = ABI::V7;

/// Programs and libraries, wherever Linux distributions have them.
const PROGRAMS: [&str; 11] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
];

/// A domain to enter, or why there is none.
pub(crate) type Domain = Result<(OwnedFd, Standing), Standing>;

/// Denies the calling thread, and all that it starts from then on, whatever Landlock can deny: to
/// open any file, to bind or connect TCP ports, to reach abstract sockets of processes outside or
/// to signal them. What is open stays open.
///
/// For a monitor that was started under [`crate::FileView::Empty`], before it starts its threads.
/// The report has [`MeasureName::Landlock`] and [`MeasureName::NoNewPrivileges`]; merged into that
/// of [`crate::spawn`] it is what is in force.
#[must_use]
pub fn restrict_self() -> JailReport {
    let mut report = JailReport::default();
    let standing = match version() {
        Err(error) => lacking(error),
        Ok(abi) => match all_denied().and_then(RulesetCreated::restrict_self) {
            Ok(status) if status.ruleset != RulesetStatus::NotEnforced => {
                if status.no_new_privs {
                    report.set(MeasureName::NoNewPrivileges, Standing::in_force());
                }
                Standing::with_detail(format!("ABI {abi}"))
            }
            Ok(_) => Standing::lacking("the kernel does not enforce it"),
            Err(error) => Standing::lacking(error.to_string()),
        },
    };
    report.set(MeasureName::Landlock, standing);
    report
}

/// A domain in which nothing but programs, and these files, can be opened, and only for reading.
pub(crate) fn programs(
    program: &std::path::Path,
    readable: &[PathBuf],
    reopened: &[BorrowedFd<'_>],
) -> Domain {
    let places = PROGRAMS.iter().map(PathBuf::from);
    let places = places.chain([program.to_owned()]).chain(readable.iter().cloned());
    domain(|mut ruleset| {
        for place in places {
            // Not every host has all of them.
            let Ok(file) = PathFd::new(&place) else { continue };
            let access = readable_as(&file);
            ruleset = ruleset.add_rule(PathBeneath::new(file, access))?;
        }
        // What is written there goes nowhere.
        if let Ok(file) = PathFd::new("/dev/null") {
            let access = AccessFs::ReadFile | AccessFs::WriteFile;
            ruleset = ruleset.add_rule(PathBeneath::new(file, access))?;
        }
        for file in reopened {
            ruleset = ruleset.add_rule(PathBeneath::new(file, AccessFs::ReadFile))?;
        }
        Ok(ruleset)
    })
}

/// A domain in which nothing can be opened and one file be executed.
pub(crate) fn nothing_but(program: BorrowedFd<'_>) -> Domain {
    domain(|ruleset| {
        ruleset.add_rule(PathBeneath::new(program, AccessFs::Execute | AccessFs::ReadFile))
    })
}

fn domain(rules: impl FnOnce(RulesetCreated) -> Result<RulesetCreated, RulesetError>) -> Domain {
    let abi = version().map_err(lacking)?;
    let ruleset =
        all_denied().and_then(rules).map_err(|error| Standing::lacking(error.to_string()))?;
    let ruleset: Option<OwnedFd> = ruleset.into();
    let ruleset = ruleset.ok_or_else(|| Standing::lacking("the kernel does not enforce it"))?;
    Ok((ruleset, Standing::with_detail(format!("ABI {abi}"))))
}

/// As much as the kernel can deny of what is known here.
fn all_denied() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()
}

fn readable_as(file: &PathFd) -> landlock::BitFlags<AccessFs> {
    let is_directory = rustix::fs::fstat(file)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    if is_directory { AccessFs::from_read(KNOWN) } else { AccessFs::Execute | AccessFs::ReadFile }
}

/// The kernel's version of Landlock.
fn version() -> Result<i64, Errno> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_int = 1;
    // SAFETY: with this flag, the call takes no structure.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    if version >= 1 {
        return Ok(version);
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOSYS))
}

/// An error of [`version`], or of entering a domain.
pub(crate) fn lacking(error: Errno) -> Standing {
    let reason = match error {
        Errno::NOSYS => "the kernel does not have it".to_owned(),
        Errno::OPNOTSUPP => "it is switched off".to_owned(),
        other => other.to_string(),
    };
    Standing::Lacking { reason, advice: advice::landlock(error) }
}
