//! A guest's memory as a file without a name: while its machine can be saved, and when many
//! machines map what one of them was.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt as _},
    sync::{Arc, Mutex, PoisonError},
};

use costrel_vmm::{Memory, for_each_extent};
use rustix::fs::{MemfdFlags, SealFlags};

/// What is behind a machine's memory.
#[derive(Clone, Debug)]
pub(crate) enum Backing {
    /// Memory of QEMU's own, which nobody else sees.
    Anonymous,
    /// A file that QEMU and its owner share, so that the latter can save it.
    Shared(Arc<File>),
    /// What was saved, mapped privately. The machine starts from it, and not from a kernel.
    Snapshot(Arc<SnapshotMemory>),
}

/// A copy of a snapshot's memory that nobody can change: for any number of machines.
///
/// A copy, since QEMU before 8.2 opens memory for writing or makes it the guest's ROM. A QEMU that
/// was taken over would have everybody's memory in its hands.
#[derive(Debug)]
pub(crate) struct SnapshotMemory {
    copy: File,
    is_filled: Mutex<bool>,
}

const PAGE: usize = 4096;
const ZEROS: [u8; PAGE] = [0; PAGE];
/// How much is read at a time: little enough for a processor's cache.
const CHUNK: usize = 256 << 10;

impl Backing {
    /// A file for a machine that will be saved. It can be neither shortened nor lengthened.
    pub(crate) fn shared(memory: Memory) -> io::Result<Self> {
        let file = without_name(memory.as_bytes())?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self::Shared(Arc::new(file)))
    }

    pub(crate) fn file(&self) -> Option<&File> {
        match self {
            Self::Anonymous => None,
            Self::Shared(file) => Some(file),
            Self::Snapshot(memory) => Some(&memory.copy),
        }
    }

    /// The most that a machine's process is charged for its memory.
    pub(crate) fn most(&self, memory: Memory) -> u64 {
        match self {
            Self::Anonymous | Self::Shared(_) => memory.as_bytes(),
            // Where the guest writes to what is a hole, the kernel fills the hole first, on the
            // account of whoever comes first, and then copies the page.
            Self::Snapshot(_) => 2 * memory.as_bytes(),
        }
    }
}

impl SnapshotMemory {
    /// Memory that is still to be filled.
    pub(crate) fn new(bytes: u64) -> io::Result<Self> {
        Ok(Self { copy: without_name(bytes)?, is_filled: Mutex::new(false) })
    }

    /// Fills and seals it, unless that is done; if somebody else is at it, waits for that.
    pub(crate) fn fill(&self, from: &File) -> io::Result<()> {
        let mut is_filled = self.is_filled.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_filled {
            return Ok(());
        }
        for_each_extent(from, |start, end| {
            let mut buffer = vec![0; CHUNK];
            let mut at = start;
            while at < end {
                let count = piece(&mut buffer, at, end);
                from.read_exact_at(count, at)?;
                self.copy.write_all_at(count, at)?;
                at += count.len() as u64;
            }
            Ok(())
        })?;
        // A mapping that is private may be written to all the same.
        let all = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&self.copy, all)?;
        *is_filled = true;
        Ok(())
    }
}

/// Copies a memory into an empty file, in which what is zero becomes a hole.
pub(crate) fn save(memory: &File, into: &File) -> io::Result<()> {
    into.set_len(memory.metadata()?.len())?;
    let mut buffer = vec![0; CHUNK];
    for_each_extent(memory, |start, end| {
        let mut at = start;
        while at < end {
            let bytes = piece(&mut buffer, at, end);
            memory.read_exact_at(bytes, at)?;
            for (offset, run) in runs(bytes) {
                into.write_all_at(run, at + offset as u64)?;
            }
            at += bytes.len() as u64;
        }
        Ok(())
    })
}

/// The parts that are not zero, in whole pages.
fn runs(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    // Compared as a whole, which is faster than byte by byte.
    let is_zero = |page: &[u8]| *page == ZEROS[..page.len()];
    let mut at = 0;
    std::iter::from_fn(move || {
        let pages = |from: usize| bytes[from..].chunks(PAGE);
        let start = at + pages(at).take_while(|page| is_zero(page)).count() * PAGE;
        if start >= bytes.len() {
            return None;
        }
        let length = pages(start).take_while(|page| !is_zero(page)).count() * PAGE;
        at = bytes.len().min(start + length);
        Some((start, &bytes[start..at]))
    })
}

fn piece(buffer: &mut [u8], at: u64, end: u64) -> &mut [u8] {
    let left = usize::try_from(end - at).unwrap_or(usize::MAX);
    let count = buffer.len().min(left);
    &mut buffer[..count]
}

fn without_name(bytes: u64) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create(c"memory", flags)?);
    file.set_len(bytes)?;
    Ok(file)
}

impl AsFd for SnapshotMemory {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.copy.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn runs_are_whole_pages_that_are_not_zero() {
        let mut bytes = vec![0; 6 * PAGE + 100];
        for at in [PAGE, 3 * PAGE - 1, 5 * PAGE, 6 * PAGE + 99] {
            bytes[at] = 1;
        }
        let found: Vec<_> = runs(&bytes).map(|(at, run)| (at / PAGE, run.len())).collect();
        assert_eq!(found, [(1, 2 * PAGE), (5, PAGE + 100)]);
        assert_eq!(runs(&vec![0; PAGE]).count(), 0);
        assert_eq!(runs(&[]).count(), 0);
    }

    #[test]
    fn what_is_saved_and_copied_is_the_same_and_sparse() {
        let memory = without_name(64 << 20).unwrap();
        memory.write_all_at(&[7; 3 * PAGE], 10 * PAGE as u64).unwrap();
        memory.write_all_at(&vec![0; 1 << 20], 20 << 20).unwrap();
        memory.write_all_at(b"end", (64 << 20) - 3).unwrap();
        let file = tempfile::tempfile().unwrap();
        save(&memory, &file).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);

        let copy = SnapshotMemory::new(64 << 20).unwrap();
        copy.fill(&file).unwrap();
        copy.fill(&file).unwrap();
        let [mut left, mut right] = [vec![0; 64 << 20], vec![0; 64 << 20]];
        memory.read_exact_at(&mut left, 0).unwrap();
        copy.copy.read_exact_at(&mut right, 0).unwrap();
        assert!(left == right);
        let refused = copy.copy.write_all_at(b"x", 0).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        assert!(copy.copy.set_len(0).is_err());
    }
}
