//! Files with holes.

use std::{fs::File, io};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

/// Calls `take` with the start and the end of each part of a file that is no hole, in order. The
/// file's position moves.
///
/// # Errors
/// What the system said, or `take` returned.
pub fn for_each_extent(
    file: &File,
    mut take: impl FnMut(u64, u64) -> io::Result<()>,
) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut at = 0;
    while at < length {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        take(start, at)?;
    }
    Ok(())
}
