//! Code in a zip file.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
};

use costrel_ext4::{Content, Metadata, Timestamp};
use costrel_store::Hasher;
use zip::{DateTime, ExtraField, ZipArchive, result::ZipError};

use super::{Budget, Target, text};
use crate::{CodeError, path::EntryError};

const TYPE_MASK: u32 = 0o170_000;
const SYMLINK: u32 = 0o120_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
/// A symbolic link's target has at most so many bytes, and one more is too many.
const MAX_TARGET: u64 = 4096;

/// Puts the archive's entries into the image. What its headers say of sizes is not relied upon.
pub(crate) fn unpack(
    mut file: &File,
    target: &mut Target<'_, '_>,
    budget: &mut Budget,
) -> Result<(), CodeError> {
    file.rewind().map_err(CodeError::Read)?;
    let mut archive =
        ZipArchive::new(BufReader::with_capacity(64 << 10, file)).map_err(CodeError::Zip)?;
    if archive.has_duplicate_names() {
        let start = archive.central_directory_start();
        let name = twice(archive.into_inner(), start).map_err(CodeError::Read)?;
        return Err(CodeError::Entry { name: text(&name), source: EntryError::Duplicate });
    }
    // The same path may also be written in two ways.
    let mut names = HashSet::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_data(index).map_err(CodeError::Zip)?;
        let name = entry.name_raw().to_vec();
        let refused = |source| CodeError::Entry { name: text(&name), source };
        if entry.encrypted() {
            return Err(refused(EntryError::Encrypted));
        }
        let path = components(&name).map_err(refused)?;
        if !names.insert(path.join(&b'/')) {
            return Err(refused(EntryError::Duplicate));
        }
        unpack_entry(&mut archive, index, &name, &path, target, budget)?;
    }
    Ok(())
}

fn unpack_entry(
    archive: &mut ZipArchive<BufReader<&File>>,
    index: usize,
    name: &[u8],
    path: &[&[u8]],
    target: &mut Target<'_, '_>,
    budget: &mut Budget,
) -> Result<(), CodeError> {
    let failed = |source: ZipError| CodeError::Unpack { name: text(name), source };
    let refused = |source| CodeError::Entry { name: text(name), source };
    let mut entry = archive.by_index(index).map_err(failed)?;
    let mode = entry.unix_mode();
    let kind = mode.map_or(0, |mode| mode & TYPE_MASK);
    let permissions = mode.map(|mode| u16::try_from(mode & 0o777).unwrap_or(0o777));
    let modified = entry
        .extra_data_fields()
        .find_map(|field| match field {
            ExtraField::ExtendedTimestamp(times) => times.mod_time(),
            _ => None,
        })
        .map(i64::from)
        .or_else(|| entry.last_modified().map(seconds))
        .unwrap_or(0);
    let metadata = |default: u16| Metadata {
        mode: permissions.unwrap_or(default),
        modified: Timestamp { seconds: modified, nanoseconds: 0 },
        ..Metadata::default()
    };
    if kind == DIRECTORY || name.ends_with(b"/") {
        return target.add(path, Content::Directory, &metadata(0o755)).map_err(refused);
    }
    if path.is_empty() {
        return Err(refused(EntryError::Root));
    }
    match kind {
        SYMLINK => {
            let mut link = Vec::new();
            (&mut entry)
                .take(MAX_TARGET)
                .read_to_end(&mut link)
                .map_err(|source| CodeError::ReadEntry { name: text(name), source })?;
            target.add(path, Content::Symlink(&link), &metadata(0o777)).map_err(refused)
        }
        0 | REGULAR => {
            let data = target.content(&mut entry, name, budget, &mut Hasher::new())?;
            target.add(path, Content::File(data), &metadata(0o644)).map_err(refused)
        }
        _ => Err(refused(EntryError::Special)),
    }
}

/// Takes a name apart. Unlike in a tar archive, nothing may point upwards or to the root.
fn components(name: &[u8]) -> Result<Vec<&[u8]>, EntryError> {
    if name.starts_with(b"/") || name.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err(EntryError::Escapes);
    }
    crate::path::components(name)
}

/// The name that the central directory has twice; nothing if it is damaged besides. The archive's
/// reader keeps only the last entry of a name.
fn twice(mut source: impl Read + Seek, start: u64) -> io::Result<Vec<u8>> {
    const HEADER: usize = 46;
    let mut names = HashSet::new();
    source.seek(SeekFrom::Start(start))?;
    loop {
        let mut header = [0; HEADER];
        source.read_exact(&mut header)?;
        if header[..4] != *b"PK\x01\x02" {
            return Ok(Vec::new());
        }
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let mut name = vec![0; usize::from(field(28))];
        source.read_exact(&mut name)?;
        source.seek_relative(i64::from(field(30)) + i64::from(field(32)))?;
        if !names.insert(name.clone()) {
            return Ok(name);
        }
    }
}

/// A zip file's time has no zone: taken as UTC.
fn seconds(time: DateTime) -> i64 {
    let (year, month, day) =
        (i64::from(time.year()), i64::from(time.month()), i64::from(time.day()));
    // Days since 1970, with years that begin in March so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let clock = 3600 * i64::from(time.hour()) + 60 * i64::from(time.minute());
    86_400 * days + clock + i64::from(time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_seconds() {
        let time = |year, month, day| {
            seconds(DateTime::from_date_and_time(year, month, day, 1, 2, 4).unwrap())
        };
        assert_eq!(time(1980, 1, 1), 315_536_524);
        assert_eq!(time(2024, 2, 29), 1_709_168_524);
    }
}
