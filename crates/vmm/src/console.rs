//! The guest's serial console as a bounded log: its beginning and its end are kept.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
};

use crate::Console;

/// What a guest printed, however much that is: the first half of the limit goes to the file as it
/// comes, the rest into a ring of the other half, which [`ConsoleLog::finish`] appends.
#[derive(Debug)]
pub struct ConsoleLog {
    file: File,
    head_left: usize,
    tail: VecDeque<u8>,
    tail_limit: usize,
    dropped: u64,
}

impl ConsoleLog {
    /// Creates the log file, or empties it.
    ///
    /// # Errors
    /// What the system said.
    pub fn create(console: &Console) -> io::Result<Self> {
        Ok(Self::new(File::create(&console.path)?, console.limit))
    }

    /// A log in an open file, which is empty, of at most `limit` bytes.
    #[must_use]
    pub fn new(file: File, limit: u64) -> Self {
        let half = usize::try_from(limit / 2).unwrap_or(usize::MAX);
        Self { file, head_left: half, tail: VecDeque::new(), tail_limit: half, dropped: 0 }
    }

    /// Takes what the guest printed.
    ///
    /// # Errors
    /// What the system said of the file; the ring is kept in any case.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (head, rest) = bytes.split_at(bytes.len().min(self.head_left));
        self.head_left -= head.len();
        let overflow = (self.tail.len() + rest.len()).saturating_sub(self.tail_limit);
        self.dropped += overflow as u64;
        let from_ring = overflow.min(self.tail.len());
        self.tail.drain(..from_ring);
        self.tail.extend(&rest[overflow - from_ring..]);
        self.file.write_all(head)
    }

    /// Appends the ring to the file.
    ///
    /// # Errors
    /// What the system said.
    pub fn finish(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::End(0))?;
        if self.dropped > 0 {
            write!(self.file, "\n[{} bytes left out]\n", self.dropped)?;
            self.dropped = 0;
        }
        let (a, b) = self.tail.as_slices();
        self.file.write_all(a)?;
        self.file.write_all(b)?;
        self.tail.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(limit: u64, writes: &[&str]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console");
        let mut log = ConsoleLog::create(&Console { path: path.clone(), limit }).unwrap();
        for bytes in writes {
            log.write(bytes.as_bytes()).unwrap();
        }
        log.finish().unwrap();
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn keeps_all_below_the_limit() {
        assert_eq!(log_of(16, &["hello ", "world"]), "hello world");
    }

    #[test]
    fn keeps_both_ends_above_it() {
        assert_eq!(
            log_of(8, &["abcdef", "ghijklmnopqrst", "uvwxyz"]),
            "abcd\n[18 bytes left out]\nwxyz"
        );
        assert_eq!(log_of(8, &["abcdefghijklmnopqrstuvwxyz"]), "abcd\n[18 bytes left out]\nwxyz");
    }
}
