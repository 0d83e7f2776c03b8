//! Copies of files with holes.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use costrel_vmm::for_each_extent;
use rustix::{
    fs::{copy_file_range, ioctl_ficlone},
    io::Errno,
};

const CHUNK: usize = 1 << 20;

/// Makes `to`, an empty file, a copy of `from`, holes included: by sharing the blocks where the file
/// system can do that, else by copying what is no hole.
///
/// # Errors
/// What the system said; `to` is of no use then.
pub fn copy_sparse(from: &File, to: &File) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    for_each_extent(from, |start, end| copy_extent(from, to, start, end))
}

fn copy_extent(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    let (mut input, mut output) = (start, start);
    while input < end {
        let left = usize::try_from(end - input).unwrap_or(usize::MAX);
        match copy_file_range(from, Some(&mut input), to, Some(&mut output), left) {
            // The file was cut short meanwhile.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(from, to, input, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Between file systems that cannot do it themselves.
fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        from.read_exact_at(&mut buffer[..count], at)?;
        to.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn holes_stay_holes() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(64 << 20).unwrap();
        for (at, text) in [(0, &b"begin"[..]), (9 << 20, &[7; 3 << 20]), ((64 << 20) - 3, b"end")] {
            from.write_all_at(text, at).unwrap();
        }
        let to = tempfile::tempfile().unwrap();
        copy_sparse(&from, &to).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 64 << 20);
        assert!(to.metadata().unwrap().blocks() * 512 < 5 << 20);
        let read = |file: &File| {
            let mut all = vec![0; 64 << 20];
            file.read_exact_at(&mut all, 0).unwrap();
            all
        };
        assert!(read(&from) == read(&to));

        let by_hand = tempfile::tempfile().unwrap();
        by_hand.set_len(64 << 20).unwrap();
        for_each_extent(&from, |at, end| copy_by_hand(&from, &by_hand, at, end)).unwrap();
        assert!(read(&from) == read(&by_hand));
    }

    #[test]
    fn a_hole_alone_is_copied() {
        let from = tempfile::tempfile().unwrap();
        from.set_len(1 << 20).unwrap();
        let to = tempfile::tempfile().unwrap();
        copy_sparse(&from, &to).unwrap();
        let metadata = to.metadata().unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (1 << 20, 0));
    }
}
