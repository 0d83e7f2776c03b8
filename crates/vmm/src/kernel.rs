//! Checks that a file is a kernel that can be entered: an ELF64 x86-64 image with a PVH note.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use serde::{Deserialize, Serialize};

/// Why a kernel cannot be booted.
#[derive(Debug)]
pub(crate) enum KernelFault {
    /// It cannot be read.
    Read(io::Error),
    /// It is something else.
    Unfit(&'static str),
}

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
/// Linux has five or so; the bound keeps a crafted file from making us read on and on.
const MOST_PROGRAM_HEADERS: u16 = 64;
/// Linux's notes are some hundred bytes.
const MOST_NOTE_BYTES: u64 = 1 << 20;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// xen/include/public/elfnote.h: the 32-bit entry point of the PVH boot protocol.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Where a kernel's pieces go, and where it is entered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelLayout {
    /// The guest physical address at which the PVH boot protocol enters it.
    pub entry: u32,
    /// Its pieces, in the order of the file. Nothing says that they do not overlap.
    pub segments: Vec<KernelSegment>,
}

/// A piece of a kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelSegment {
    /// Where it is in the file, which has all of it.
    pub offset: u64,
    /// Its length in the file, in bytes.
    pub file_length: u64,
    /// Where it goes, a guest physical address.
    pub address: u64,
    /// Its length in memory, in bytes, no less than that in the file; the rest is zeroes.
    pub memory_length: u64,
}

impl KernelLayout {
    /// The guest physical address behind all of it.
    #[must_use]
    pub fn end(&self) -> u64 {
        let ends = self.segments.iter().map(|s| s.address.saturating_add(s.memory_length));
        ends.max().unwrap_or(0)
    }
}

/// Checks the file, reading its headers and notes only.
pub(crate) fn check(file: &File) -> Result<KernelLayout, KernelFault> {
    let length = file.metadata().map_err(KernelFault::Read)?.len();
    let mut header = [0; HEADER_SIZE];
    read(file, &mut header, 0, length)?;
    if &header[..4] != b"\x7fELF" {
        return Err(KernelFault::Unfit(if header[..2] == *b"\x1f\x8b" || bzimage(file, length) {
            "it is compressed or a bzImage; an uncompressed ELF vmlinux is needed"
        } else {
            "it is not an ELF file"
        }));
    }
    if header[4] != 2 || header[5] != 1 {
        return Err(KernelFault::Unfit("it is not a 64-bit little-endian ELF file"));
    }
    if u16_at(&header, 18) != 62 {
        return Err(KernelFault::Unfit("it is for another architecture than x86-64"));
    }
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_SIZE {
        return Err(KernelFault::Unfit("its ELF program headers are malformed"));
    }
    let table = u64_at(&header, 32);
    let count = u16_at(&header, 56);
    if count > MOST_PROGRAM_HEADERS {
        return Err(KernelFault::Unfit("it has too many ELF program headers"));
    }
    let (mut segments, mut entry_point) = (Vec::new(), None);
    for index in 0..u64::from(count) {
        let mut entry = [0; PROGRAM_HEADER_SIZE];
        let Some(at) = table.checked_add(index * PROGRAM_HEADER_SIZE as u64) else {
            return Err(TRUNCATED);
        };
        read(file, &mut entry, at, length)?;
        match u32_at(&entry, 0) {
            PT_LOAD => {
                let segment = KernelSegment {
                    offset: u64_at(&entry, 8),
                    file_length: u64_at(&entry, 32),
                    address: u64_at(&entry, 24),
                    memory_length: u64_at(&entry, 40).max(u64_at(&entry, 32)),
                };
                let end = segment.offset.checked_add(segment.file_length);
                if end.is_none_or(|end| end > length) {
                    return Err(TRUNCATED);
                }
                segments.push(segment);
            }
            PT_NOTE => entry_point = pvh_entry(file, &entry, length)?.or(entry_point),
            _ => {}
        }
    }
    match entry_point {
        Some(entry) => Ok(KernelLayout { entry, segments }),
        None => Err(KernelFault::Unfit("it has no PVH entry point (build it with CONFIG_PVH)")),
    }
}

const TRUNCATED: KernelFault = KernelFault::Unfit("it is truncated");

fn pvh_entry(file: &File, entry: &[u8], length: u64) -> Result<Option<u32>, KernelFault> {
    let (offset, size) = (u64_at(entry, 8), u64_at(entry, 32));
    if size > MOST_NOTE_BYTES {
        return Err(KernelFault::Unfit("its ELF notes are too large"));
    }
    let mut notes = vec![0; usize::try_from(size).map_err(|_| TRUNCATED)?];
    read(file, &mut notes, offset, length)?;
    let mut notes = Notes(&notes);
    let note = notes.find(|note| {
        note.kind == XEN_ELFNOTE_PHYS32_ENTRY
            && note.name == b"Xen\0"
            && note.description.len() >= 4
    });
    Ok(note.map(|note| u32_at(note.description, 0)))
}

/// Iterates over ELF notes; stops where they are malformed.
struct Notes<'a>(&'a [u8]);

struct Note<'a> {
    name: &'a [u8],
    description: &'a [u8],
    kind: u32,
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let (head, rest) = self.0.split_at_checked(12)?;
        let name_size = u32_at(head, 0) as usize;
        let description_size = u32_at(head, 4) as usize;
        let name = rest.get(..name_size)?;
        let rest = rest.get(name_size.checked_next_multiple_of(4)?..)?;
        self.0 = rest.get(description_size.checked_next_multiple_of(4)?..).unwrap_or_default();
        let description = rest.get(..description_size)?;
        Some(Note { name, description, kind: u32_at(head, 8) })
    }
}

fn bzimage(file: &File, length: u64) -> bool {
    let mut magic = [0; 4];
    read(file, &mut magic, 0x202, length).is_ok() && &magic == b"HdrS"
}

fn read(file: &File, buffer: &mut [u8], at: u64, length: u64) -> Result<(), KernelFault> {
    // Asked beforehand, since an offset above i64::MAX would be the system's error, not the file's.
    if at.checked_add(buffer.len() as u64).is_none_or(|end| end > length) {
        return Err(TRUNCATED);
    }
    file.read_exact_at(buffer, at).map_err(KernelFault::Read)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn check_bytes(bytes: &[u8]) -> Result<KernelLayout, KernelFault> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&file)
    }

    fn reason(bytes: &[u8]) -> &'static str {
        match check_bytes(bytes) {
            Err(KernelFault::Unfit(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// The least file that passes: header, one program header, one note.
    fn kernel() -> Vec<u8> {
        let mut bytes = vec![0; HEADER_SIZE + PROGRAM_HEADER_SIZE];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18] = 62;
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 4;
        bytes[64 + 8] = 120;
        bytes[64 + 32] = 40;
        // A note of somebody else's first.
        bytes.extend([4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]);
        bytes.extend(b"GNU\0");
        bytes.extend([0; 4]);
        bytes.extend([4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        bytes.extend(b"Xen\0");
        bytes.extend([0, 0, 0, 1]);
        bytes[64 + 32] = 20 + 20;
        bytes
    }

    #[test]
    fn accepts_a_pvh_kernel() {
        let layout = check_bytes(&kernel()).unwrap();
        assert_eq!(layout, KernelLayout { entry: 0x100_0000, segments: Vec::new() });
    }

    #[test]
    fn names_what_is_wrong() {
        let with = |at: usize, value: u8| {
            let mut bytes = kernel();
            bytes[at] = value;
            bytes
        };
        assert_eq!(reason(b""), "it is truncated");
        assert_eq!(reason(&[b'x'; 200]), "it is not an ELF file");
        assert!(reason(&with(4, 1)).contains("64-bit"));
        assert!(reason(&with(18, 183)).contains("architecture"));
        assert!(reason(&with(54, 32)).contains("malformed"));
        assert!(reason(&with(57, 1)).contains("too many"));
        assert!(reason(&with(32 + 7, 0xff)).contains("truncated"));
        assert!(reason(&with(64 + 32 + 7, 0xff)).contains("too large"));
        assert!(reason(&with(64, 1)).contains("CONFIG_PVH"));
        assert!(reason(&with(120 + 20 + 8, 17)).contains("CONFIG_PVH"));
        assert!(reason(&kernel()[..150]).contains("truncated"));
        let mut bzimage = vec![0; 0x210];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(reason(&bzimage).contains("bzImage"));
    }

    proptest! {
        #[test]
        fn never_panics(flips in proptest::collection::vec((0_usize..160, any::<u8>()), 0..8)) {
            let mut bytes = kernel();
            for (at, value) in flips {
                bytes[at] = value;
            }
            let _ = check_bytes(&bytes);
        }
    }
}
