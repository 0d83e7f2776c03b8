//! One request, as the driver lays it out (virtio 1.2, 5.2.6).

use crate::{ChainBuffers, ChainError, GuestMemory};

pub(super) const SECTOR: u64 = 512;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// What the driver wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// To read from this sector on, as much as it has given room for.
    Read { sector: u64 },
    /// To write what it has given, from this sector on.
    Write { sector: u64 },
    /// What was written to be safe.
    Flush,
    /// The disk's name.
    Identify,
    /// Not to need these sectors any more. What they read as then is undefined.
    Discard,
    /// These sectors to read as zeroes.
    WriteZeroes,
    /// Something that there is no such thing as.
    Unknown,
}

/// Sectors for [`Request::Discard`] and [`Request::WriteZeroes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) sector: u64,
    pub(super) sectors: u64,
    /// Whether the space may be given back; other flags there are none.
    pub(super) unmap: bool,
    pub(super) reserved: bool,
}

impl Request {
    /// Takes the header off a chain.
    pub(super) fn take(
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Result<Self, ChainError> {
        let header: [u8; 16] = buffers.take(memory)?;
        let (kind, sector) = (u32_at(&header, 0), u64_at(&header, 8));
        Ok(match kind {
            IN => Self::Read { sector },
            OUT => Self::Write { sector },
            FLUSH => Self::Flush,
            GET_ID => Self::Identify,
            DISCARD => Self::Discard,
            WRITE_ZEROES => Self::WriteZeroes,
            _ => Self::Unknown,
        })
    }
}

impl Range {
    pub(super) const BYTES: usize = 16;

    /// Takes one range off a chain.
    pub(super) fn take(
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Result<Self, ChainError> {
        let bytes: [u8; Self::BYTES] = buffers.take(memory)?;
        let flags = u32_at(&bytes, 12);
        Ok(Self {
            sector: u64_at(&bytes, 0),
            sectors: u64::from(u32_at(&bytes, 8)),
            unmap: flags & 1 != 0,
            reserved: flags & !1 != 0,
        })
    }
}

fn u32_at(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; 16], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
