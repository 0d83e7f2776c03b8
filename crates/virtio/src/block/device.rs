//! The disk itself.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use rustix::fs::{FallocateFlags, fallocate};

use super::{
    request::{Range, Request, SECTOR},
    state::BlockState,
};
use crate::{
    ActiveQueues, ChainBuffers, ChainError, Device, DeviceKind, Fault, GuestMemory, Identity,
    Poller,
};

const FEATURE_SEGMENTS: u64 = 1 << 2;
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_BLOCK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_TOPOLOGY: u64 = 1 << 10;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

const STATUS_OK: u8 = 0;
const STATUS_ERROR: u8 = 1;
const STATUS_UNSUPPORTED: u8 = 2;

const QUEUE_SIZE: u16 = 256;
/// With header and status, a full queue's worth of buffers.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// The most ranges in a request to discard or to zero, and the most sectors in each.
const RANGES: u32 = 16;
const RANGE_SECTORS: u32 = 1 << 22;
const NAME_BYTES: usize = 20;

/// Whether, and how, the guest may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writing {
    /// Not at all.
    Never,
    /// To this disk alone.
    Allowed(Flush),
}

/// What a flush is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// `fdatasync`.
    Synced,
    /// Nothing: the disk does not outlive its machine.
    Ignored,
}

/// A disk to be.
#[derive(Debug)]
pub struct BlockSettings {
    /// The image, open for what `writing` says.
    pub image: File,
    /// Whether the guest may write.
    pub writing: Writing,
    /// The virtio serial number: 1 to 20 bytes of ASCII.
    pub name: String,
}

/// Why an image cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its size could not be found out.
    #[error("cannot tell the image's size")]
    Size(#[source] io::Error),
    /// It is empty or no whole number of sectors.
    #[error(
        "an image of {bytes} bytes is not a whole number of sectors of 512 bytes; it may be truncated"
    )]
    Truncated {
        /// Its size in bytes.
        bytes: u64,
    },
}

/// The device.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    buffers: ChainBuffers,
}

#[derive(Debug)]
struct Disk {
    image: File,
    writing: Writing,
    name: [u8; NAME_BYTES],
    sectors: u64,
}

impl Block {
    /// A disk of an image.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn new(settings: BlockSettings) -> Result<Self, OpenError> {
        let BlockSettings { image, writing, name } = settings;
        let bytes = image.metadata().map_err(OpenError::Size)?.len();
        if bytes == 0 || bytes % SECTOR != 0 {
            return Err(OpenError::Truncated { bytes });
        }
        let mut padded = [0; NAME_BYTES];
        let length = name.len().min(NAME_BYTES);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        let disk = Disk { image, writing, name: padded, sectors: bytes / SECTOR };
        Ok(Self { disk, buffers: ChainBuffers::default() })
    }
}

impl Device for Block {
    type State = BlockState;

    fn identity(&self) -> Identity {
        let features = match self.disk.writing {
            Writing::Never => FEATURE_READ_ONLY,
            Writing::Allowed(_) => FEATURE_FLUSH | FEATURE_DISCARD | FEATURE_WRITE_ZEROES,
        };
        Identity {
            kind: DeviceKind::Block,
            features: features | FEATURE_SEGMENTS | FEATURE_BLOCK_SIZE | FEATURE_TOPOLOGY,
            queue_sizes: &[QUEUE_SIZE],
            config: config(self.disk.sectors),
        }
    }

    fn queue_kicked(
        &mut self,
        queue: usize,
        active: &mut ActiveQueues,
        _poller: &Poller,
    ) -> Result<(), Fault> {
        let disk = &self.disk;
        active.serve(queue, &mut self.buffers, |memory, buffers| {
            disk.serve(memory, buffers).map_err(|source| Fault::Chain { queue, source })
        })
    }

    fn state(&self) -> BlockState {
        let writable = self.disk.writing != Writing::Never;
        BlockState { sectors: self.disk.sectors, writable }
    }
}

/// `struct virtio_blk_config` (5.2.4).
fn config(sectors: u64) -> Vec<u8> {
    let mut config = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(12, &SEGMENTS.to_le_bytes());
    put(20, &512u32.to_le_bytes());
    // The file system's blocks: eight sectors (the exponent of two), aligned.
    put(24, &[3, 0]);
    for at in [36, 48] {
        put(at, &RANGE_SECTORS.to_le_bytes());
        put(at + 4, &RANGES.to_le_bytes());
    }
    // The space is discarded in blocks of the file system's.
    put(44, &8u32.to_le_bytes());
    // Zeroed space is given back.
    put(56, &[1]);
    config.to_vec()
}

/// How a request went that was one.
type Outcome = Result<usize, Refusal>;

enum Refusal {
    /// It breaks the device's bounds, or the host failed.
    Error,
    Unsupported,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Error
    }
}

impl From<ChainError> for Refusal {
    fn from(_: ChainError) -> Self {
        Self::Error
    }
}

impl Disk {
    /// Carries out a request, and says how many bytes of its buffers were written.
    fn serve(&self, memory: &GuestMemory, buffers: &mut ChainBuffers) -> Result<u32, ChainError> {
        let request = Request::take(memory, buffers)?;
        let status = buffers.take_status(memory)?;
        let room = buffers.writable_length();
        let (code, written) = match self.carry_out(request, memory, buffers) {
            Ok(written) => (STATUS_OK, written),
            // Some of it may have been written; the status is what counts.
            Err(Refusal::Error) => (STATUS_ERROR, room),
            Err(Refusal::Unsupported) => (STATUS_UNSUPPORTED, 0),
        };
        status.set(memory, code);
        Ok(u32::try_from(written + 1).unwrap_or(u32::MAX))
    }

    fn carry_out(
        &self,
        request: Request,
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Outcome {
        match request {
            Request::Read { sector } => {
                let length = buffers.writable_length();
                let offset = self.offset(sector, length as u64)?;
                buffers.read_from(memory, self.file(), offset)?;
                Ok(length)
            }
            Request::Write { sector } => {
                self.writable()?;
                let offset = self.offset(sector, buffers.readable_length() as u64)?;
                buffers.write_to(memory, self.file(), offset)?;
                Ok(0)
            }
            Request::Flush => {
                if self.writing == Writing::Allowed(Flush::Synced) {
                    self.image.sync_data()?;
                }
                Ok(0)
            }
            Request::Identify => {
                let length = buffers.writable_length().min(NAME_BYTES);
                buffers.put(memory, &self.name[..length])?;
                Ok(length)
            }
            Request::Discard | Request::WriteZeroes => {
                self.writable()?;
                let count = buffers.readable_length() / Range::BYTES;
                let whole = buffers.readable_length().is_multiple_of(Range::BYTES);
                if !whole || count == 0 || count > RANGES as usize {
                    return Err(Refusal::Error);
                }
                for _ in 0..count {
                    let range = Range::take(memory, buffers)?;
                    self.clear(request, range)?;
                }
                Ok(0)
            }
            Request::Unknown => Err(Refusal::Unsupported),
        }
    }

    fn clear(&self, request: Request, range: Range) -> Result<(), Refusal> {
        let discard = request == Request::Discard;
        // To discard has no flags (5.2.6.2).
        if range.reserved || discard && range.unmap {
            return Err(Refusal::Unsupported);
        }
        if range.sectors > u64::from(RANGE_SECTORS) {
            return Err(Refusal::Error);
        }
        let length = range.sectors * SECTOR;
        let offset = self.offset(range.sector, length)?;
        if length == 0 {
            return Ok(());
        }
        let how = if discard || range.unmap {
            FallocateFlags::PUNCH_HOLE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match fallocate(self.file(), how | FallocateFlags::KEEP_SIZE, offset, length) {
            Ok(()) => Ok(()),
            // Discarding is a hint. For zeroes the driver writes them when told so.
            Err(rustix::io::Errno::OPNOTSUPP) if discard => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => Err(Refusal::Unsupported),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    fn writable(&self) -> Result<(), Refusal> {
        if self.writing == Writing::Never { Err(Refusal::Error) } else { Ok(()) }
    }

    /// Where in the image a transfer begins, if all of it is in the image and of whole sectors.
    fn offset(&self, sector: u64, length: u64) -> Result<u64, Refusal> {
        byte_offset(self.sectors, sector, length).ok_or(Refusal::Error)
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.image.as_fd()
    }
}

/// The offset of a transfer of `length` bytes at `sector` of a disk of `sectors`, if it fits.
pub(super) fn byte_offset(sectors: u64, sector: u64, length: u64) -> Option<u64> {
    let end = sector.checked_add(length / SECTOR)?;
    // Computed only for what fits: elsewhere the product overflows.
    (length.is_multiple_of(SECTOR) && end <= sectors).then(|| sector * SECTOR)
}
