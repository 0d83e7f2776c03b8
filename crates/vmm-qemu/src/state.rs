//! The state file of a snapshot: what it was made by and for, and QEMU's own stream.
//!
//! `SNAPSHOTS.md` has the form.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use costrel_vmm::{DiskAccess, MachineSpec};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8] = b"costrel qemu state ";
const FIRST_LINE: &[u8] = b"costrel qemu state 1\n";
/// Where the description begins: behind the first line, its length and its checksum.
const DESCRIPTION_AT: usize = FIRST_LINE.len() + 8;
const MOST_DESCRIPTION: usize = 16 << 10;
/// QEMU writes some 100 KiB; the guest has no say in it.
pub(crate) const MOST_STREAM: usize = 64 << 20;

/// What stands before the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// The QEMU that wrote it: versions of the board `microvm` don't promise to read each other's.
    pub(crate) qemu: String,
    /// What QEMU does not compare by itself.
    pub(crate) machine: String,
    /// The rate of the guest's time stamp counter, which is the host's.
    pub(crate) tsc_khz: u64,
    stream_bytes: usize,
    stream_crc32c: u32,
}

/// Why a state is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("its state is not that of an emulated machine")]
    Foreign,
    #[error("its state is of a form that this version of Costrel does not know")]
    Form,
    #[error("its state is cut off, or something was added to it")]
    Length,
    #[error("its state is damaged: the checksum of {0} is not the one it was written with")]
    Damaged(&'static str),
    #[error("cannot read the state")]
    Read(#[source] io::Error),
}

impl Description {
    pub(crate) fn new(qemu: String, machine: String, tsc_khz: u64, stream: &[u8]) -> Self {
        let (stream_bytes, stream_crc32c) = (stream.len(), crc32c::crc32c(stream));
        Self { qemu, machine, tsc_khz, stream_bytes, stream_crc32c }
    }

    /// Writes a state into an empty file.
    pub(crate) fn write(&self, stream: &[u8], file: &File) -> io::Result<()> {
        let header = self.header()?;
        file.write_all_at(&header, 0)?;
        file.write_all_at(stream, header.len() as u64)
    }

    fn header(&self) -> io::Result<Vec<u8>> {
        let description = serde_json::to_vec(self)?;
        let length = u32::try_from(description.len()).map_err(io::Error::other)?;
        let mut header = FIRST_LINE.to_vec();
        header.extend(length.to_le_bytes());
        header.extend(crc32c::crc32c(&description).to_le_bytes());
        header.extend(description);
        Ok(header)
    }

    /// Reads a state: the description, and QEMU's stream.
    pub(crate) fn read(file: &File) -> Result<(Self, Vec<u8>), StateError> {
        let length = file.metadata().map_err(StateError::Read)?.len();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let most = DESCRIPTION_AT + MOST_DESCRIPTION + MOST_STREAM;
        let mut bytes = vec![0; length.min(most)];
        file.read_exact_at(&mut bytes, 0).map_err(StateError::Read)?;
        let (description, at) = Self::parse(&bytes)?;
        let stream = bytes.split_off(at);
        if length > most || stream.len() != description.stream_bytes {
            return Err(StateError::Length);
        }
        if crc32c::crc32c(&stream) != description.stream_crc32c {
            return Err(StateError::Damaged("QEMU's stream"));
        }
        Ok((description, stream))
    }

    /// Reads a header; tells where the stream begins.
    fn parse(bytes: &[u8]) -> Result<(Self, usize), StateError> {
        if !bytes.starts_with(MAGIC) {
            return Err(StateError::Foreign);
        }
        if !bytes.starts_with(FIRST_LINE) {
            return Err(StateError::Form);
        }
        let word = |at: usize| {
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            word.map(u32::from_le_bytes).ok_or(StateError::Length)
        };
        let (length, checksum) = (word(FIRST_LINE.len())?, word(FIRST_LINE.len() + 4)?);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MOST_DESCRIPTION {
            return Err(StateError::Length);
        }
        let end = DESCRIPTION_AT + length;
        let description = bytes.get(DESCRIPTION_AT..end).ok_or(StateError::Length)?;
        if crc32c::crc32c(description) != checksum {
            return Err(StateError::Damaged("its description"));
        }
        let description = serde_json::from_slice(description).map_err(|_| StateError::Form)?;
        Ok((description, end))
    }
}

/// What has to be the same in a machine that is restored, beside what QEMU looks at.
pub(crate) fn machine_text(spec: &MachineSpec) -> String {
    let mut text = format!("vcpus={} mib={}", spec.vcpus.get(), spec.memory.as_mib());
    for disk in &spec.disks {
        let access = match disk.access {
            DiskAccess::ReadOnly => "ro",
            DiskAccess::ReadWrite => "rw",
            DiskAccess::Scratch => "scratch",
        };
        text.push_str(&format!(" disk={}:{access}", disk.name.as_str()));
    }
    for port in &spec.ports {
        text.push_str(&format!(" port={port}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Should this fail, [`FIRST_LINE`] needs another number, and so does `compatibility`.
    const GOLDEN: &[u8] = include_bytes!("../tests/golden/state");

    fn description(stream: &[u8]) -> Description {
        let machine = "vcpus=1 mib=256 disk=init:ro disk=scratch:scratch port=1024".to_owned();
        Description::new("7.2.22 (Debian 1:7.2)".to_owned(), machine, 2_400_000, stream)
    }

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    #[test]
    fn the_form_is_the_golden_file_s() {
        let stream = b"QEVM and so on";
        let written = file(b"");
        description(stream).write(stream, &written).unwrap();
        let mut bytes = vec![0; usize::try_from(written.metadata().unwrap().len()).unwrap()];
        written.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == GOLDEN, "{}", String::from_utf8_lossy(&bytes));
        let (read, rest) = Description::read(&written).unwrap();
        assert_eq!((read, &*rest), (description(stream), &stream[..]));
    }

    #[test]
    fn no_bit_may_flip_and_no_byte_be_missing() {
        for at in 0..GOLDEN.len() {
            assert!(Description::read(&file(&GOLDEN[..at])).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bytes = GOLDEN.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(Description::read(&file(&bytes)).is_err(), "bit {bit} of {at}");
            }
        }
        assert!(matches!(
            Description::read(&file(&[GOLDEN, b"x"].concat())),
            Err(StateError::Length)
        ));
        assert!(matches!(Description::read(&file(b"costrel kvm")), Err(StateError::Foreign)));
        let later = file(b"costrel qemu state 2\nxxxxxxxx");
        assert!(matches!(Description::read(&later), Err(StateError::Form)));
    }
}
