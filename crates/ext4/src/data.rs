//! File contents on their way into the image: each byte is placed as it comes.

use crate::{
    WriteError,
    allocator::Allocator,
    device::{Device, is_zero},
    extent::{Extent, MAX_EXTENT},
    geometry::{BLOCK_BYTES, BLOCK_SIZE, Block},
};

/// So many zero blocks in a row get no blocks in the image; fewer do, lest an extent be split for
/// little. (The image file has holes in their place in either case.)
const HOLE: u32 = 16;
/// The largest file: block numbers within it have 32 bits, and the last one is not used.
pub(crate) const MAX_FILE: u64 = (u32::MAX as u64) * BLOCK_BYTES;

/// The content of a file, in its place in the image. It becomes a file by
/// [`Content::File`](crate::Content::File).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileData {
    pub(crate) size: u64,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Where file contents go.
#[derive(Debug)]
pub(crate) struct DataArea<'f> {
    pub(crate) device: Device<'f>,
    pub(crate) allocator: Allocator,
    pub(crate) extents: Vec<Extent>,
}

/// Takes the content of one file, from its beginning to its end.
#[derive(Debug)]
pub struct FileWriter<'i, 'f> {
    area: &'i mut DataArea<'f>,
    /// Extents of the image before this file's.
    first: usize,
    partial: Box<Block>,
    filled: usize,
    /// The block of the file that comes next.
    logical: u64,
    /// How many blocks before it are zero and not placed yet.
    zeros: u64,
}

impl FileData {
    /// A file without content.
    pub const EMPTY: Self = Self { size: 0, first: 0, count: 0 };

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl DataArea<'_> {
    /// Allocates `count` blocks as the next ones of the file whose extents start at `first`.
    pub(crate) fn extend(
        &mut self,
        first: usize,
        mut logical: u32,
        mut count: u32,
    ) -> Result<u32, WriteError> {
        let mut start = None;
        while count > 0 {
            let run = self.allocator.run(count.min(MAX_EXTENT))?;
            start.get_or_insert(run.start);
            let follows = |last: &&mut Extent| {
                last.logical + last.count == logical
                    && last.physical + last.count == run.start
                    && last.count + run.count <= MAX_EXTENT
            };
            match self.extents[first..].last_mut().filter(follows) {
                Some(last) => last.count += run.count,
                None => {
                    self.extents.push(Extent { logical, count: run.count, physical: run.start });
                }
            }
            logical += run.count;
            count -= run.count;
        }
        Ok(start.unwrap_or_default())
    }

    /// The handle for extents from `first` on.
    pub(crate) fn data(&self, first: usize, size: u64) -> Result<FileData, WriteError> {
        let number = |count| u32::try_from(count).map_err(|_| WriteError::TooManyEntries);
        Ok(FileData { size, first: number(first)?, count: number(self.extents.len() - first)? })
    }

    /// The extents behind a handle.
    pub(crate) fn extents(&self, data: FileData) -> &[Extent] {
        &self.extents[data.first as usize..(data.first + data.count) as usize]
    }
}

impl<'i, 'f> FileWriter<'i, 'f> {
    pub(crate) fn new(area: &'i mut DataArea<'f>) -> Self {
        let first = area.extents.len();
        Self { area, first, partial: Box::new([0; BLOCK_SIZE]), filled: 0, logical: 0, zeros: 0 }
    }

    /// Bytes so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.logical * BLOCK_BYTES + self.filled as u64
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`WriteError`]; the image is then of no use.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        if self.filled > 0 {
            let taken = bytes.len().min(BLOCK_SIZE - self.filled);
            self.partial[self.filled..][..taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < BLOCK_SIZE {
                return Ok(());
            }
            self.filled = 0;
            let block = *self.partial;
            self.block(&block)?;
        }
        let (blocks, rest) = bytes.as_chunks();
        for block in blocks {
            self.block(block)?;
        }
        self.partial[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
        Ok(())
    }

    /// Adds zero bytes, as many as you like at no cost.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub fn skip(&mut self, mut count: u64) -> Result<(), WriteError> {
        const ZEROS: Block = [0; BLOCK_SIZE];
        if count > MAX_FILE - self.size().min(MAX_FILE) {
            return Err(WriteError::FileTooLarge { limit: MAX_FILE });
        }
        if self.filled > 0 {
            let to_boundary = (BLOCK_SIZE - self.filled) as u64;
            let part = count.min(to_boundary);
            // At most a block.
            self.write(&ZEROS[..usize::try_from(part).unwrap_or(BLOCK_SIZE)])?;
            count -= part;
        }
        self.zeros += count / BLOCK_BYTES;
        self.logical += count / BLOCK_BYTES;
        self.write(&ZEROS[..usize::try_from(count % BLOCK_BYTES).unwrap_or(0)])
    }

    fn block(&mut self, block: &Block) -> Result<(), WriteError> {
        let logical = u32::try_from(self.logical)
            .ok()
            .filter(|logical| *logical < u32::MAX)
            .ok_or(WriteError::FileTooLarge { limit: MAX_FILE })?;
        self.logical += 1;
        if is_zero(block) {
            self.zeros += 1;
            return Ok(());
        }
        // Less than 2³² by the check above.
        let zeros = u32::try_from(self.zeros).unwrap_or(u32::MAX);
        self.zeros = 0;
        if zeros < HOLE {
            self.area.extend(self.first, logical - zeros, zeros)?;
        }
        let place = self.area.extend(self.first, logical, 1)?;
        self.area.device.write(place, block)
    }

    /// The file is complete.
    ///
    /// # Errors
    /// As [`FileWriter::write`].
    pub fn finish(mut self) -> Result<FileData, WriteError> {
        let size = self.size();
        if self.filled > 0 {
            let filled = self.filled;
            self.partial[filled..].fill(0);
            self.filled = 0;
            let block = *self.partial;
            self.block(&block)?;
        }
        self.area.data(self.first, size)
    }
}
