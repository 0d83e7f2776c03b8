//! Where tests have a process die.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Lets so many changes to the disk happen, and then none any more.
#[derive(Debug)]
pub(crate) struct Fault(AtomicUsize);

impl Default for Fault {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Fault {
    pub(crate) fn after(&self, changes: usize) {
        self.0.store(changes, Ordering::SeqCst);
    }

    pub(crate) fn has_come(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }

    pub(crate) fn step(&self) -> io::Result<()> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            usize::MAX => Some(usize::MAX),
            left => left.checked_sub(1),
        });
        left.map(drop).map_err(|_| io::Error::other("the process is dead"))
    }
}
