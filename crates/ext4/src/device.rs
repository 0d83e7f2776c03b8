//! Writes blocks to the image file, many at a time, and none that are all zero.

use std::{fs::File, os::unix::fs::FileExt as _};

use crate::{
    WriteError,
    allocator::Run,
    geometry::{BLOCK_BYTES, BLOCK_SIZE, Block},
};

/// Blocks that are gathered before they are written.
const GATHERED: usize = 256;

/// The image file. What is never written to it stays a hole.
#[derive(Debug)]
pub(crate) struct Device<'f> {
    file: &'f File,
    gathered: Vec<u8>,
    start: u32,
}

fn failed(operation: &'static str) -> impl FnOnce(std::io::Error) -> WriteError {
    move |source| WriteError::Io { operation, source }
}

impl<'f> Device<'f> {
    /// Empties the file.
    pub(crate) fn new(file: &'f File) -> Result<Self, WriteError> {
        file.set_len(0).map_err(failed("empty"))?;
        Ok(Self { file, gathered: Vec::with_capacity(GATHERED * BLOCK_SIZE), start: 0 })
    }

    /// Writes a block, unless it is all zero. No block is written twice.
    pub(crate) fn write(&mut self, block: u32, content: &Block) -> Result<(), WriteError> {
        if is_zero(content) {
            return Ok(());
        }
        let next = self.start as usize + self.gathered.len() / BLOCK_SIZE;
        if next != block as usize || self.gathered.len() >= GATHERED * BLOCK_SIZE {
            self.flush()?;
            self.start = block;
        }
        self.gathered.extend_from_slice(content);
        Ok(())
    }

    /// Writes bytes that begin with a block's, the rest of the last block as zeros.
    pub(crate) fn write_all(&mut self, start: u32, content: &[u8]) -> Result<(), WriteError> {
        for (block, bytes) in (start..).zip(content.chunks(BLOCK_SIZE)) {
            match bytes.try_into() {
                Ok(whole) => self.write(block, whole)?,
                Err(_) => {
                    let mut whole = [0; BLOCK_SIZE];
                    whole[..bytes.len()].copy_from_slice(bytes);
                    self.write(block, &whole)?;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        if !self.gathered.is_empty() {
            let offset = u64::from(self.start) * BLOCK_BYTES;
            self.file.write_all_at(&self.gathered, offset).map_err(failed("write"))?;
            self.gathered.clear();
        }
        Ok(())
    }

    /// Makes a hole of blocks that were written and are not used after all.
    pub(crate) fn discard(&mut self, run: Run) -> Result<(), WriteError> {
        self.flush()?;
        let offset = u64::from(run.start) * BLOCK_BYTES;
        let length = u64::from(run.count) * BLOCK_BYTES;
        if punch(self.file, offset, length) {
            return Ok(());
        }
        let zeros = [0; 16 * BLOCK_SIZE];
        let mut done = 0;
        while done < length {
            let part = zeros.len().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            self.file.write_all_at(&zeros[..part], offset + done).map_err(failed("write"))?;
            done += part as u64;
        }
        Ok(())
    }

    /// Writes what is gathered and gives the file its length.
    pub(crate) fn finish(&mut self, length: u64) -> Result<(), WriteError> {
        self.flush()?;
        self.file.set_len(length).map_err(failed("extend"))
    }
}

/// Whether the bytes are all zero.
pub(crate) fn is_zero(block: &Block) -> bool {
    // Most blocks differ from zero at once; the rest compares in wide words.
    block[0] == 0 && block[1..8] == [0; 7] && block.iter().fold(0, |any, byte| any | byte) == 0
}

/// Whether the file system under the image could make a hole. Not every system has the call.
#[cfg(target_os = "linux")]
fn punch(file: &File, offset: u64, length: u64) -> bool {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Beyond the end there is nothing, and nothing is an error there either.
    fallocate(file, flags, offset, length).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn punch(_file: &File, _offset: u64, _length: u64) -> bool {
    false
}
