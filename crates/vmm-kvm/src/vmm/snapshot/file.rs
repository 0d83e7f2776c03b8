//! The envelope of a state file: what it is, which version, and sums that tell damage.
//!
//! ```text
//!  0   "costrel kvm vm\0\n"   16 bytes
//!  16  version                u32, little-endian, as all
//!  20  length of the payload  u32
//!  24  CRC-32C of the payload u32
//!  28  CRC-32C of bytes 0–27  u32
//!  32  payload
//! ```

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::{MachineState, SavingError, SnapshotError};

const MAGIC: [u8; 16] = *b"costrel kvm vm\0\n";
const HEADER: usize = 32;
/// The form of the payload. SNAPSHOTS.md has the rule.
const VERSION: u32 = 1;
/// Some dozen KiB a vCPU is what there is to be.
const MOST_BYTES: usize = 16 << 20;

/// Why bytes are no state of a machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// It begins as something else.
    #[error("it is no state of a machine on KVM")]
    Magic,
    /// It ends too early.
    #[error("it has {given} bytes, and should have {wanted}")]
    Length {
        /// How many there are.
        given: usize,
        /// How many there should be.
        wanted: usize,
    },
    /// Its header is not as it was written.
    #[error("its header is damaged")]
    Header,
    /// It is of another version.
    #[error("it is of version {given}, and this program understands version 1")]
    Version {
        /// The version.
        given: u32,
    },
    /// Its payload is not as it was written.
    #[error("its content is damaged")]
    Sum,
    /// Its payload makes no sense, though it is as it was written.
    #[error("its content makes no sense: {reason}")]
    Content {
        /// What is wrong.
        reason: String,
    },
}

/// Puts a payload into an envelope.
#[must_use]
pub fn seal(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    // A longer one is refused by whoever opens the envelope.
    bytes.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend(crc32c::crc32c(payload).to_le_bytes());
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Takes a payload out of its envelope.
///
/// # Errors
/// [`FormatError`].
pub fn unseal(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let given = bytes.len();
    if !bytes.starts_with(&MAGIC) {
        return Err(FormatError::Magic);
    }
    let Some((header, payload)) = bytes.split_at_checked(HEADER) else {
        return Err(FormatError::Length { given, wanted: HEADER });
    };
    let word = |at: usize| {
        header[at..at + 4].iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte))
    };
    if crc32c::crc32c(&header[..28]) != word(28) {
        return Err(FormatError::Header);
    }
    if word(16) != VERSION {
        return Err(FormatError::Version { given: word(16) });
    }
    let wanted = HEADER.saturating_add(usize::try_from(word(20)).unwrap_or(usize::MAX));
    if given != wanted || given > MOST_BYTES {
        return Err(FormatError::Length { given, wanted });
    }
    if crc32c::crc32c(payload) != word(24) {
        return Err(FormatError::Sum);
    }
    Ok(payload)
}

impl MachineState {
    /// Takes a state out of a state file's bytes.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let content = |reason: String| FormatError::Content { reason };
        let payload = unseal(bytes)?;
        match postcard::take_from_bytes(payload) {
            Ok((state, [])) => Ok(state),
            Ok((_, rest)) => Err(content(format!("{} bytes are left over", rest.len()))),
            Err(error) => Err(content(error.to_string())),
        }
    }

    /// The bytes of a state file.
    ///
    /// # Errors
    /// None that a state could make.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let payload = postcard::to_stdvec(self).map_err(io::Error::other)?;
        Ok(seal(&payload))
    }
}

pub(crate) fn write_state(file: &File, state: &MachineState) -> Result<(), SavingError> {
    let bytes = state.encode().map_err(SavingError::host("describe the machine"))?;
    file.write_all_at(&bytes, 0).map_err(SavingError::host("write the machine's state"))
}

/// Reads without moving the file's position, which other machines' processes share.
pub(crate) fn read_state(file: &File) -> Result<MachineState, SnapshotError> {
    let length = file.metadata().map_err(SnapshotError::Unreadable)?.len();
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MOST_BYTES {
        return Err(FormatError::Length { given: length, wanted: MOST_BYTES }.into());
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).map_err(SnapshotError::Unreadable)?;
    Ok(MachineState::decode(&bytes)?)
}
