//! The checksum of a file with holes.
//!
//! It covers the file's length and, of what is not zero, where it is and what it is, in pieces of
//! 4 KiB: so it is the same whether zeroes are stored or left out, and reading costs what is stored.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use costrel_vmm::for_each_extent;

const PIECE: usize = 4096;
const CHUNK: usize = 256 * PIECE;

/// Reads all of a file: CRC32C.
pub(crate) fn of(file: &File) -> io::Result<u32> {
    let length = file.metadata()?.len();
    let mut sum = crc32c::crc32c(&length.to_le_bytes());
    let mut buffer = vec![0; CHUNK];
    // Where the next piece begins that was not looked at yet.
    let mut done = 0;
    for_each_extent(file, |start, end| {
        let piece = PIECE as u64;
        let mut at = (start / piece * piece).max(done);
        let end = end.next_multiple_of(piece).min(length);
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            file.read_exact_at(&mut buffer[..count], at)?;
            for (index, content) in buffer[..count].chunks(PIECE).enumerate() {
                if content.iter().any(|&byte| byte != 0) {
                    let position = at + (index * PIECE) as u64;
                    sum = crc32c::crc32c_append(sum, &position.to_le_bytes());
                    sum = crc32c::crc32c_append(sum, content);
                }
            }
            at += count as u64;
        }
        done = at.max(done);
        Ok(())
    })?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: u64, pieces: &[(u64, &[u8])]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    #[test]
    fn stored_zeroes_count_as_holes() {
        let sparse = file(5 << 20, &[(1 << 20, b"x")]);
        let dense = file(5 << 20, &[(0, &vec![0; 5 << 20]), (1 << 20, b"x")]);
        assert_eq!(of(&sparse).unwrap(), of(&dense).unwrap());
    }

    #[test]
    fn every_change_shows() {
        let length = (3 << 20) + 5;
        let original = of(&file(length, &[(4096, b"abc"), (length - 1, b"z")])).unwrap();
        for other in [
            file(length, &[(4096, b"abd"), (length - 1, b"z")]),
            file(length, &[(8192, b"abc"), (length - 1, b"z")]),
            file(length, &[(4096, b"abc")]),
            file(length, &[(4096, b"abc"), (length - 2, b"z")]),
            file(length + 1, &[(4096, b"abc"), (length - 1, b"z")]),
            file(length, &[(0, b"\x01"), (4096, b"abc"), (length - 1, b"z")]),
        ] {
            assert_ne!(of(&other).unwrap(), original);
        }
        assert_ne!(of(&file(0, &[])).unwrap(), of(&file(4096, &[])).unwrap());
    }
}
