//! From blocks to entries.

use std::io::{self, BufRead};

use costrel_ext4::{Device, Metadata, Timestamp};
use tar::Header;

use super::{
    number::{decimal, header_number, pax_time},
    pax::Records,
    sparse::SparseMap,
};

const BLOCK: usize = 512;
/// The most that a long name or an extended header may have, as in Go's reader, which all of
/// Docker's world uses.
const MAX_EXTENSION: u64 = 1 << 20;
/// The most segments of a sparse file.
const MAX_SEGMENTS: usize = 1 << 20;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive, or its compression, cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// A header that is none: its checksum is wrong.
    #[error("the archive is damaged: a header's checksum does not match (after {after:?})")]
    Checksum {
        /// The entry before, if any.
        after: String,
    },
    /// A field of an entry cannot be read.
    #[error("the archive is damaged: the {field} of {entry:?} cannot be read")]
    Field {
        /// What cannot be read.
        field: &'static str,
        /// The entry.
        entry: String,
    },
    /// A kind of entry that we do not know.
    #[error("{entry:?} is of type {kind:?}, which is not supported")]
    Kind {
        /// The letter in its header.
        kind: char,
        /// The entry.
        entry: String,
    },
}

/// An entry's header and all that came before it to describe it.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its path as it stands in the archive.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) metadata: Metadata,
}

/// What an entry is.
#[derive(Debug)]
pub(crate) enum EntryKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    /// A further name of the file at that path.
    HardLink(Vec<u8>),
    CharacterDevice(Device),
    BlockDevice(Device),
    Fifo,
}

/// A part of a file's content.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    Data(&'a [u8]),
    /// So many zeros.
    Hole(u64),
}

/// Reads the entries of an archive one after the other.
pub(crate) struct TarReader<R> {
    source: R,
    global: Records,
    /// What is left of the current entry's content, and the padding behind it.
    remaining: u64,
    padding: u64,
    map: Option<SparseMap>,
    last: String,
}

/// A name for messages.
pub(crate) fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(source: R) -> Self {
        let last = String::new();
        Self { source, global: Records::default(), remaining: 0, padding: 0, map: None, last }
    }

    /// The next entry, after what is left of the current one; none at the archive's end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let (mut records, mut long_path, mut long_link) = (Records::default(), None, None);
        loop {
            self.skip(self.remaining)?;
            self.skip(self.padding)?;
            (self.remaining, self.padding, self.map) = (0, 0, None);
            let Some(block) = self.header()? else { return Ok(None) };
            let header = Header::from_byte_slice(&block);
            self.check_sum(header)?;
            let name = display(&header.path_bytes());
            let size = number("size", &header.as_old().size, &name)?;
            let size = u64::try_from(size).map_err(|_| damaged("size", &name))?;
            self.expect(size);
            match header.as_old().linkflag[0] {
                b'x' => {
                    let content = self.extension(&name)?;
                    records.add(&content).ok_or_else(|| damaged("extended header", &name))?;
                }
                b'g' => {
                    let content = self.extension(&name)?;
                    self.global.add(&content).ok_or_else(|| damaged("global header", &name))?;
                }
                b'L' => long_path = Some(until_zero(self.extension(&name)?)),
                b'K' => long_link = Some(until_zero(self.extension(&name)?)),
                // A volume's label says nothing about the content.
                b'V' => {}
                _ => {
                    let records = self.global.overridden_by(records);
                    return self.entry(header, &records, long_path, long_link).map(Some);
                }
            }
        }
    }

    /// The content of the current entry, to its end.
    pub(crate) fn content<E: From<TarError>>(
        &mut self,
        mut take: impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(map) = self.map.take() else {
            return self.data(self.remaining, &mut take);
        };
        let mut position = 0;
        for (offset, length) in map.data {
            if offset > position {
                take(Piece::Hole(offset - position))?;
            }
            self.data(length, &mut take)?;
            position = offset + length;
        }
        if map.size > position {
            take(Piece::Hole(map.size - position))?;
        }
        Ok(())
    }

    /// What follows the archive in its stream is read too: it counts for the digest.
    pub(crate) fn drain(&mut self) -> Result<(), TarError> {
        loop {
            let available = self.source.fill_buf().map_err(TarError::Read)?.len();
            if available == 0 {
                return Ok(());
            }
            self.source.consume(available);
        }
    }

    /// What it read from.
    pub(crate) fn into_source(self) -> R {
        self.source
    }

    fn data<E: From<TarError>>(
        &mut self,
        mut length: u64,
        take: &mut impl FnMut(Piece<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while length > 0 {
            let available = self.source.fill_buf().map_err(TarError::Read)?;
            if available.is_empty() {
                return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()).into());
            }
            let part = available.len().min(usize::try_from(length).unwrap_or(usize::MAX));
            take(Piece::Data(&available[..part]))?;
            self.source.consume(part);
            length -= part as u64;
            self.remaining -= part as u64;
        }
        Ok(())
    }

    fn expect(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip(&mut self, mut count: u64) -> Result<(), TarError> {
        while count > 0 {
            let available = self.source.fill_buf().map_err(TarError::Read)?.len();
            if available == 0 {
                return Err(TarError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            let part = available.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.source.consume(part);
            count -= part as u64;
        }
        Ok(())
    }

    /// The next block that is not all zero. Two zero blocks end the archive, or its file's end
    /// does; a single zero block is passed over, as GNU tar does.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut zeros = 0;
        while zeros < 2 {
            let mut block = [0; BLOCK];
            if self.source.fill_buf().map_err(TarError::Read)?.is_empty() {
                return Ok(None);
            }
            self.source.read_exact(&mut block).map_err(TarError::Read)?;
            if block != [0; BLOCK] {
                return Ok(Some(block));
            }
            zeros += 1;
        }
        Ok(None)
    }

    fn check_sum(&self, header: &Header) -> Result<(), TarError> {
        let (before, rest) = header.as_bytes().split_at(148);
        let bytes = before.iter().chain(&rest[8..]);
        let spaces = 8 * i64::from(b' ');
        let unsigned: i64 = bytes.clone().map(|byte| i64::from(*byte)).sum();
        // Some old programs added signed bytes.
        let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
        let stored = header_number(&header.as_old().cksum);
        if stored != Some(unsigned + spaces) && stored != Some(signed + spaces) {
            return Err(TarError::Checksum { after: self.last.clone() });
        }
        Ok(())
    }

    /// The content of an entry that describes the next one.
    fn extension(&mut self, name: &str) -> Result<Vec<u8>, TarError> {
        if self.remaining > MAX_EXTENSION {
            return Err(damaged("extended header", name));
        }
        let mut content = Vec::new();
        self.data(self.remaining, &mut |piece| -> Result<(), TarError> {
            if let Piece::Data(bytes) = piece {
                content.extend_from_slice(bytes);
            }
            Ok(())
        })?;
        Ok(content)
    }

    fn entry(
        &mut self,
        header: &Header,
        records: &Records,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let named = records.get("GNU.sparse.name").or_else(|| records.get("path"));
        let path = named
            .map(<[u8]>::to_vec)
            .or(long_path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            records
                .get("linkpath")
                .map(<[u8]>::to_vec)
                .or(long_link)
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default()
        };
        let name = display(&path);
        self.last.clone_from(&name);
        let kind = match header.as_old().linkflag[0] {
            // Before there was a type for directories, a slash at the end meant one.
            0 | b'0' if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' => EntryKind::CharacterDevice(device(header, &name)?),
            b'4' => EntryKind::BlockDevice(device(header, &name)?),
            // `D` is GNU's directory with a list of what was in it.
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            kind => return Err(TarError::Kind { kind: char::from(kind), entry: name }),
        };
        if let Some(size) = records.get("size") {
            self.expect(decimal(size).ok_or_else(|| damaged("size", &name))?);
        }
        match kind {
            EntryKind::File => {
                self.map = self
                    .sparse_map(header, records)?
                    .ok_or_else(|| damaged("map of holes", &name))?;
            }
            // GNU's list of what was in a directory.
            EntryKind::Directory if header.as_old().linkflag[0] == b'D' => {}
            // Some programs note the size of a link's target, but there is no content.
            _ => self.expect(0),
        }
        let metadata = metadata(header, records, &name)?;
        Ok(Entry { path, kind, metadata })
    }

    /// The inner `None` if the file is not sparse, the outer one if its map is damaged.
    #[expect(clippy::option_option, reason = "the two say different things")]
    fn sparse_map(
        &mut self,
        header: &Header,
        records: &Records,
    ) -> Result<Option<Option<SparseMap>>, TarError> {
        if header.as_old().linkflag[0] == b'S' {
            return Ok(self.gnu_map(header)?.map(Some));
        }
        if records.get("GNU.sparse.major") == Some(b"1") {
            let size = records.get("GNU.sparse.realsize").and_then(decimal);
            let Some(segments) = self.map_in_data()? else { return Ok(None) };
            let map = size.and_then(|size| SparseMap::new(segments, size, self.remaining));
            return Ok(map.map(Some));
        }
        if records.get("GNU.sparse.map").is_some() || records.get("GNU.sparse.size").is_some() {
            return Ok(SparseMap::of_records(records, self.remaining).map(Some));
        }
        Ok(Some(None))
    }

    /// GNU's own format: a few segments in the header, more in blocks that follow it.
    fn gnu_map(&mut self, header: &Header) -> Result<Option<SparseMap>, TarError> {
        const SEGMENT: usize = 24;
        let Some(gnu) = header.as_gnu() else { return Ok(None) };
        let segment = |offset: &[u8], length: &[u8]| -> Option<(u64, u64)> {
            let number = |field| header_number(field).and_then(|number| number.try_into().ok());
            Some((number(offset)?, number(length)?))
        };
        let Some(size) = header_number(&gnu.realsize).and_then(|size| u64::try_from(size).ok())
        else {
            return Ok(None);
        };
        let mut segments = Vec::new();
        for part in gnu.sparse.iter().filter(|part| part.offset[0] != 0 || part.numbytes[0] != 0) {
            let Some(segment) = segment(&part.offset, &part.numbytes) else { return Ok(None) };
            segments.push(segment);
        }
        let mut more = gnu.is_extended();
        while more {
            let mut block = [0; BLOCK];
            self.source.read_exact(&mut block).map_err(TarError::Read)?;
            for part in block[..21 * SEGMENT].chunks(SEGMENT).filter(|part| part[0] != 0) {
                let Some(segment) = segment(&part[..12], &part[12..]) else { return Ok(None) };
                segments.push(segment);
            }
            if segments.len() > MAX_SEGMENTS {
                return Ok(None);
            }
            more = block[21 * SEGMENT] != 0;
        }
        Ok(SparseMap::new(segments, size, self.remaining))
    }

    /// PAX format 1.0: lines of decimal numbers before the data, padded to a block.
    fn map_in_data(&mut self) -> Result<Option<Vec<(u64, u64)>>, TarError> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut digits = Vec::new();
        loop {
            if self.remaining < BLOCK as u64 {
                return Ok(None);
            }
            let mut block = [0; BLOCK];
            self.source.read_exact(&mut block).map_err(TarError::Read)?;
            self.remaining -= BLOCK as u64;
            for byte in block {
                // The first number says how many pairs follow.
                let expected = numbers.first().map_or(1, |pairs| pairs.saturating_mul(2) + 1);
                if numbers.len() as u64 == expected {
                    break;
                }
                if byte != b'\n' {
                    digits.push(byte);
                    if digits.len() > 20 {
                        return Ok(None);
                    }
                    continue;
                }
                let Some(number) = decimal(&digits) else { return Ok(None) };
                if numbers.is_empty() && number > MAX_SEGMENTS as u64 {
                    return Ok(None);
                }
                digits.clear();
                numbers.push(number);
            }
            if let [pairs, rest @ ..] = numbers.as_slice()
                && rest.len() as u64 == 2 * pairs
            {
                let (pairs, _) = rest.as_chunks();
                return Ok(Some(pairs.iter().map(|[at, length]| (*at, *length)).collect()));
            }
        }
    }
}

fn damaged(field: &'static str, entry: &str) -> TarError {
    TarError::Field { field, entry: entry.to_owned() }
}

fn number(field: &'static str, bytes: &[u8], entry: &str) -> Result<i64, TarError> {
    header_number(bytes).ok_or_else(|| damaged(field, entry))
}

fn until_zero(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

fn device(header: &Header, name: &str) -> Result<Device, TarError> {
    let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => (&ustar.dev_major, &ustar.dev_minor),
        (_, Some(gnu)) => (&gnu.dev_major, &gnu.dev_minor),
        _ => return Err(damaged("device number", name)),
    };
    let field = |bytes, limit: u32| {
        header_number(bytes)
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| *number < limit)
            .ok_or_else(|| damaged("device number", name))
    };
    Ok(Device { major: field(major, 1 << 12)?, minor: field(minor, 1 << 20)? })
}

fn metadata(header: &Header, records: &Records, name: &str) -> Result<Metadata, TarError> {
    let old = header.as_old();
    let owner = |field: &'static str, bytes: &[u8]| {
        let number = match records.get(field) {
            Some(text) => decimal(text).and_then(|number| i64::try_from(number).ok()),
            None => header_number(bytes),
        };
        number.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| damaged(field, name))
    };
    let time = |key: &'static str| match records.get(key) {
        Some(text) => pax_time(text).map(Some).ok_or_else(|| damaged(key, name)),
        None => Ok(None),
    };
    let modified = match time("mtime")? {
        Some(time) => time,
        None => Timestamp { seconds: number("mtime", &old.mtime, name)?, nanoseconds: 0 },
    };
    let mode = number("mode", &old.mode, name)? & 0o7777;
    Ok(Metadata {
        mode: u16::try_from(mode).unwrap_or(0),
        user: owner("uid", &old.uid)?,
        group: owner("gid", &old.gid)?,
        modified,
        accessed: time("atime")?,
        changed: time("ctime")?,
        attributes: records.attributes(),
    })
}
