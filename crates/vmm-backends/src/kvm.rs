//! Whether this machine's KVM can run a stock kernel.

mod cache;
mod guest_code;
mod micro_guest;

use std::{
    fmt,
    fs::{self, File, Metadata, OpenOptions},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

const DEVICE: &str = "/dev/kvm";
/// The guest takes a millisecond or so, on a host that is very busy a hundred, and seconds on one
/// that is itself emulated and starved.
const TRIAL_LIMIT: Duration = Duration::from_secs(20);

/// What is to be said of this machine's KVM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KvmVerdict {
    /// It runs what a stock kernel consists of.
    Works,
    /// There is no `/dev/kvm`.
    Missing,
    /// This user may not open it.
    Forbidden {
        /// The group that may, if one does.
        group: Option<String>,
    },
    /// It cannot be opened for another reason.
    Unopenable {
        /// What the system said.
        reason: String,
    },
    /// It opens, but a stock kernel would not run.
    Fails(KvmFailure),
    /// The trial itself failed, which says nothing of the next one.
    Untried {
        /// What the system said.
        reason: String,
    },
}

/// How the trial guest failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KvmFailure {
    /// What the guest was about to do.
    pub step: GuestStep,
    /// What happened instead.
    pub stop: GuestStop,
}

/// What the trial guest does, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GuestStep {
    /// Starts, in 64-bit mode.
    Start,
    /// Reads what it wrote through another page.
    Paging,
    /// Exchanges 16 bytes atomically, as every kernel's allocator does.
    CompareExchange,
    /// Takes the breakpoint exception, by which kernels patch themselves.
    Breakpoint,
    /// Saves and restores the vector registers, as every task switch does.
    ExtendedState,
    /// Says that it is done.
    Finish,
}

/// Why the trial guest came no further.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum GuestStop {
    /// `KVM_EXIT_INTERNAL_ERROR`; 1 is an instruction that KVM cannot emulate.
    InternalError {
        /// Its kind.
        suberror: u32,
    },
    /// `KVM_EXIT_FAIL_ENTRY`.
    FailedEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// A triple fault.
    Shutdown,
    /// The instruction did something else than it should.
    WrongResult,
    /// An exit that the step has no reason for.
    StrayExit,
}

impl KvmVerdict {
    /// Tries it out, or recalls how the trial went since the last boot.
    pub(crate) fn of_this_machine(cache: Option<&Path>) -> Self {
        Self::of(Path::new(DEVICE), cache)
    }

    fn of(device: &Path, cache: Option<&Path>) -> Self {
        let file = match OpenOptions::new().read(true).write(true).open(device) {
            Ok(file) => file,
            Err(error) => return Self::unopened(device, &error),
        };
        let key = file.metadata().ok().and_then(|metadata| trial_key(&metadata));
        let cache = cache.and_then(|directory| Some(cache::TrialCache::new(directory, key?)));
        if let Some(trial) = cache.as_ref().and_then(cache::TrialCache::recall) {
            return trial.into();
        }
        match try_out(file) {
            Ok(trial) => {
                if let Some(cache) = cache {
                    cache.keep(&trial);
                }
                trial.into()
            }
            Err(reason) => Self::Untried { reason },
        }
    }

    fn unopened(device: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => {
                Self::Forbidden { group: fs::metadata(device).ok().and_then(|m| group_of(&m)) }
            }
            _ => Self::Unopenable { reason: error.to_string() },
        }
    }

    /// What could be done about it.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Works => None,
            Self::Missing => Some(
                "enable virtualization in the firmware and load kvm_intel or kvm_amd; inside a \
                 virtual machine, enable nested virtualization for it"
                    .to_owned(),
            ),
            Self::Forbidden { group: Some(group) } => Some(format!(
                "join the group {group}: `sudo usermod -aG {group} $USER`, then log in again"
            )),
            Self::Forbidden { group: None } => {
                Some("give a group access: `sudo chgrp kvm /dev/kvm; sudo chmod g+rw /dev/kvm`, and join it".to_owned())
            }
            Self::Fails(_) => {
                Some("enable nested virtualization for this virtual machine".to_owned())
            }
            Self::Unopenable { .. } | Self::Untried { .. } => None,
        }
    }
}

/// How a trial ended, if it did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Trial {
    Works,
    Fails(KvmFailure),
}

impl From<Trial> for KvmVerdict {
    fn from(trial: Trial) -> Self {
        match trial {
            Trial::Works => Self::Works,
            Trial::Fails(failure) => Self::Fails(failure),
        }
    }
}

fn try_out(device: File) -> Result<Trial, String> {
    micro_guest::run(device, TRIAL_LIMIT)
}

/// What a trial's outcome holds for: this boot, this device (a reloaded module makes a new one),
/// this guest.
fn trial_key(device: &Metadata) -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!(
        "{} {} {} {}.{} {}",
        boot.trim(),
        device.rdev(),
        device.ino(),
        device.mtime(),
        device.mtime_nsec(),
        guest_code::VERSION
    ))
}

/// The group that may open the device, unless its mode lets none.
fn group_of(device: &Metadata) -> Option<String> {
    const GROUP_MAY_READ_AND_WRITE: u32 = 0o060;
    if device.mode() & GROUP_MAY_READ_AND_WRITE != GROUP_MAY_READ_AND_WRITE {
        return None;
    }
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    group_name(&groups, device.gid()).or_else(|| Some(device.gid().to_string()))
}

fn group_name(groups: &str, gid: u32) -> Option<String> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

impl fmt::Display for KvmVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("works"),
            Self::Missing => write!(f, "there is no {DEVICE}"),
            Self::Forbidden { group: Some(group) } => {
                write!(f, "{DEVICE} is for members of the group {group}, which you are not")
            }
            Self::Forbidden { group: None } => write!(f, "{DEVICE} is for its owner only"),
            Self::Unopenable { reason } => write!(f, "{DEVICE} cannot be opened: {reason}"),
            Self::Fails(failure @ KvmFailure { stop: GuestStop::InternalError { .. }, .. }) => {
                write!(
                    f,
                    "{DEVICE} opens but only emulates, and cannot run a stock kernel: {failure}"
                )
            }
            Self::Fails(failure) => {
                write!(f, "{DEVICE} opens but cannot run a stock kernel: {failure}")
            }
            Self::Untried { reason } => {
                write!(f, "{DEVICE} opens but could not be tried: {reason}")
            }
        }
    }
}

impl fmt::Display for KvmFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a trial guest failed at {}: {}", self.step, self.stop)
    }
}

impl fmt::Display for GuestStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "its start in 64-bit mode",
            Self::Paging => "paging",
            Self::CompareExchange => "`lock cmpxchg16b`",
            Self::Breakpoint => "`int3`",
            Self::ExtendedState => "`xsave` and `xrstor`",
            Self::Finish => "its end",
        })
    }
}

impl fmt::Display for GuestStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InternalError { suberror: 1 } => {
                f.write_str("internal error, suberror 1 (an instruction that it cannot emulate)")
            }
            Self::InternalError { suberror } => write!(f, "internal error, suberror {suberror}"),
            Self::FailedEntry { reason } => write!(f, "failed entry, reason {reason:#x}"),
            Self::Shutdown => f.write_str("shutdown (a triple fault)"),
            Self::WrongResult => f.write_str("wrong result"),
            Self::StrayExit => f.write_str("unexpected exit"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(KvmVerdict::of(&directory.path().join("kvm"), None), KvmVerdict::Missing);
    }

    #[test]
    fn another_file_is_no_device() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(KvmVerdict::of(file.path(), None), KvmVerdict::Untried { .. }));
    }

    #[test]
    fn finds_the_group() {
        let groups = "root:x:0:\nbroken\nkvm:x:106:someone,other\n";
        assert_eq!(group_name(groups, 106).as_deref(), Some("kvm"));
        assert_eq!(group_name(groups, 7), None);
    }

    #[test]
    fn this_machine_gets_the_same_verdict_twice() {
        let cache = tempfile::tempdir().unwrap();
        let first = KvmVerdict::of_this_machine(Some(cache.path()));
        let second = KvmVerdict::of_this_machine(Some(cache.path()));
        // A trial that a busy machine has no time for may go well the next time.
        if !matches!(first, KvmVerdict::Untried { .. }) {
            assert_eq!(first, second);
        }
    }
}
