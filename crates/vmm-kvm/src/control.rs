//! What a backend and the process of one machine say to each other, over a socket: a line of JSON
//! each.
//!
//! ```text
//!  backend ── Request ──────────────────► costrel-vmm       its descriptors are inherited ones
//!          ◄── Event::Running | Refused ──                  the guest executes, or never will; one
//!                                                          from a snapshot, at the first Resume
//!          ── Command { id, verb } ─────►                   with two descriptors to save into
//!          ◄── Event::Answer { id, … } ──
//!          ◄── Event::Ended ─────────────                   the last word
//! ```
//!
//! When the backend's end is closed, the machine ends.

use std::os::fd::RawFd;

use costrel_vmm::{Exit, JailReport, KernelSegment, Strictness};
use serde::{Deserialize, Serialize};

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Run a machine.
    Boot(Order),
    /// Enter the jail, say what is in force of it ([`Event::Running`]), and end.
    Jail,
}

/// The machine to be built. All descriptors are the process's own from then on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// `/dev/kvm`.
    pub(crate) kvm: RawFd,
    pub(crate) vcpus: u8,
    pub(crate) memory_bytes: u64,
    pub(crate) huge_pages: HugePages,
    pub(crate) start: Start,
    pub(crate) disks: Vec<OrderedDisk>,
    /// A listening unix socket, which becomes the guest's vsock.
    pub(crate) vsock: RawFd,
    /// A file for the serial console's output.
    pub(crate) console: RawFd,
    /// The most bytes in it.
    pub(crate) console_limit: u64,
    /// What is done where a part of the jail cannot be had.
    pub(crate) strictness: Strictness,
}

/// What the guest begins with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Start {
    /// A kernel's first instruction.
    Kernel {
        image: RawFd,
        /// Where PVH enters it, a guest physical address.
        entry: u32,
        segments: Vec<KernelSegment>,
        /// The whole of the kernel's arguments but for those that name devices.
        arguments: String,
    },
    /// What comes after the last instruction of a saved guest.
    Snapshot { state: RawFd, memory: RawFd },
}

/// Whether a guest's memory is in huge pages where the host has them to give.
///
/// With them a guest that touches its memory makes a page fault for each 2 MiB instead of each
/// 4 KiB and misses fewer translations, and what it touches sparsely takes more of the host's
/// memory: after a boot about 34 MiB instead of 22.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HugePages {
    /// Asked for (`MADV_HUGEPAGE`).
    #[default]
    Transparent,
    /// Never (`MADV_NOHUGEPAGE`).
    Never,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderedDisk {
    /// The virtio serial number.
    pub(crate) name: String,
    pub(crate) image: RawFd,
    pub(crate) access: OrderedAccess,
}

/// Whether the guest may write, and what a flush is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OrderedAccess {
    ReadOnly,
    /// Flushes do nothing.
    Scratch,
    /// Flushes reach the host's disk.
    ReadWrite,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) id: u64,
    pub(crate) verb: Verb,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verb {
    /// Stop all vCPUs and devices.
    Pause,
    /// Let them go on.
    Resume,
    /// Tell the console's last lines.
    Console,
    /// Write state and memory into the two files that come along.
    Save,
}

/// What came of a command.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    /// What was asked for.
    Text(String),
    /// A machine that runs cannot be saved.
    NotPaused,
    /// Why it was not carried out, for people.
    Failed(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The guest executes.
    Running {
        /// What of the jail the process has entered itself.
        jail: JailReport,
    },
    /// The machine could not be built, and the process ends.
    Refused {
        /// Why, for people.
        reason: String,
        whose: Fault,
    },
    /// What came of a command.
    Answer { id: u64, answer: Answer },
    /// The machine has ended, and the process ends.
    Ended {
        exit: Exit,
        /// The console's last lines.
        console: String,
    },
}

/// Whose fault it is that a machine could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// The order's, or the host's.
    Machine,
    /// The snapshot's.
    Snapshot,
}
