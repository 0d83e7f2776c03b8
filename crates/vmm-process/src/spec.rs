//! What to start, and in what jail.

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use costrel_vmm::Strictness;

/// A monitor to start.
#[derive(Clone, Debug)]
pub struct MonitorSpec<'a> {
    /// The program. Static, under [`FileView::Empty`].
    pub program: &'a Path,
    /// Its arguments, without its name.
    pub arguments: &'a [String],
    /// The descriptors that it shall have, under the numbers that they have here, from 3 on.
    pub inherited: &'a [BorrowedFd<'a>],
    /// What it is confined by.
    pub jail: JailSpec<'a>,
    /// What is done where the jail cannot be had as described.
    pub strictness: Strictness,
}

/// What a monitor is confined by, besides what all of them are.
#[derive(Clone, Debug)]
pub struct JailSpec<'a> {
    /// What it sees of the file system.
    pub files: FileView<'a>,
    /// What it may use as a process.
    pub limits: ResourceLimits,
    /// What it may use as a control group, where one can be had.
    pub group: Option<GroupSpec<'a>>,
}

/// What a monitor sees of the file system.
#[derive(Clone, Debug)]
pub enum FileView<'a> {
    /// Nothing: the root is an empty, read-only file system before `exec`. For a static program
    /// that has all it needs by descriptor. Such a program is to call [`crate::restrict_self`]
    /// once it has set itself up; a report of its own completes that of [`crate::spawn`].
    Empty,
    /// All mounts, read-only, and a Landlock domain in which nothing can be opened but programs
    /// and libraries for reading: what is below `/usr`, `/lib`, `/lib64` and `/bin`, the
    /// dynamic linker's cache, the program itself and what is named here.
    ReadOnlyPrograms {
        /// More files and directories that it may read; those that do not exist are passed over.
        readable: &'a [PathBuf],
        /// Inherited files that it opens anew for reading, by `/proc/self/fd/N`.
        reopened: &'a [BorrowedFd<'a>],
    },
}

/// Limits of a process itself. Core files are never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResourceLimits {
    /// The most descriptors that it can open.
    pub open_files: u64,
    /// The size in bytes up to which it can write a file.
    pub file_size: u64,
    /// The most processes and threads. Held to where they are counted apart from the owner's other
    /// ones: with a user id of the monitor's own, or a user namespace since Linux 5.14.
    pub processes: u64,
}

/// Limits of a control group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupSpec<'a> {
    /// What tells the group from its siblings: letters, digits and `-`. It is named
    /// `costrel-<id>`.
    pub id: &'a str,
    /// The most memory, in bytes. There is no swap.
    pub memory: u64,
    /// The most processes and threads.
    pub processes: u64,
}
