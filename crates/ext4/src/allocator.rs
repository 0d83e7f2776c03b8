//! Hands out blocks from the front of the image, around the places of the superblock's copies.

use crate::{
    WriteError,
    geometry::{BLOCK_BYTES, BLOCK_SIZE, BLOCKS_PER_GROUP, Block, has_superblock},
};

/// A run of blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// The first block.
    pub(crate) start: u32,
    /// How many.
    pub(crate) count: u32,
}

/// Hands out blocks in ascending order.
///
/// How many groups the image has is known only when everything else is written, so in each group
/// that would hold a copy of superblock and descriptors, room is left for the most there can be.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    next: u32,
    reserved: u32,
    limit: u32,
}

impl Allocator {
    /// An allocator that leaves `reserved` blocks free where a copy of the superblock may go, and
    /// stops at `limit`.
    pub(crate) fn new(reserved: u32, limit: u32) -> Self {
        Self { next: 0, reserved, limit }
    }

    /// Blocks that are left at the start of a group that has a copy of the superblock.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserved
    }

    /// The first block that was not handed out.
    pub(crate) fn end(&self) -> u32 {
        self.next
    }

    /// Skips a copy's place, if the next block lies in one; returns how many blocks follow
    /// up to the next such place.
    fn skip_reserved(&mut self) -> u32 {
        let mut group = self.next / BLOCKS_PER_GROUP;
        let start = group * BLOCKS_PER_GROUP;
        if has_superblock(group) {
            self.next = self.next.max(start + self.reserved);
        }
        group += 1;
        while group < self.limit / BLOCKS_PER_GROUP && !has_superblock(group) {
            group += 1;
        }
        (group * BLOCKS_PER_GROUP).min(self.limit).saturating_sub(self.next)
    }

    /// The longest run of at most `wanted` blocks that is next.
    pub(crate) fn run(&mut self, wanted: u32) -> Result<Run, WriteError> {
        let count = self.skip_reserved().min(wanted);
        if count == 0 && wanted > 0 {
            return Err(WriteError::ImageTooLarge { limit: u64::from(self.limit) * BLOCK_BYTES });
        }
        let run = Run { start: self.next, count };
        self.next += count;
        Ok(run)
    }

    /// One block.
    pub(crate) fn block(&mut self) -> Result<u32, WriteError> {
        Ok(self.run(1)?.start)
    }

    /// A run of exactly `count` blocks, at most what lies between two copies' places.
    pub(crate) fn contiguous(&mut self, count: u32) -> Result<Run, WriteError> {
        loop {
            let run = self.run(count)?;
            if run.count == count {
                return Ok(run);
            }
        }
    }
}

/// Which blocks are in use.
#[derive(Debug, Default)]
pub(crate) struct BlockMap {
    bits: Vec<u8>,
}

impl BlockMap {
    /// Marks a run as used.
    pub(crate) fn mark(&mut self, run: Run) {
        let (start, end) = (run.start as usize, run.start as usize + run.count as usize);
        if self.bits.len() < end.div_ceil(8) {
            self.bits.resize(end.div_ceil(8), 0);
        }
        let mut bit = start;
        while bit < end {
            if bit.is_multiple_of(8) && end - bit >= 8 {
                self.bits[bit / 8] = 0xff;
                bit += 8;
            } else {
                self.bits[bit / 8] |= 1 << (bit % 8);
                bit += 1;
            }
        }
    }

    /// The bitmap block of a group, with the bits beyond the file system's end set, and how many
    /// blocks of the group are free.
    pub(crate) fn group(&self, group: u32, blocks: u32) -> (Box<Block>, u32) {
        let mut bitmap = Box::new([0; BLOCK_SIZE]);
        let from = (group as usize * BLOCK_SIZE).min(self.bits.len());
        let part = &self.bits[from..self.bits.len().min(from + BLOCK_SIZE)];
        bitmap[..part.len()].copy_from_slice(part);
        let size = (blocks - group * BLOCKS_PER_GROUP).min(BLOCKS_PER_GROUP);
        set_from(&mut bitmap, size);
        let free = bitmap.iter().map(|byte| byte.count_zeros()).sum();
        (bitmap, free)
    }

    /// The runs of unused blocks below `end`.
    pub(crate) fn unused(&self, end: u32) -> impl Iterator<Item = Run> {
        let is_used = |block: u32| {
            self.bits.get(block as usize / 8).is_some_and(|byte| byte >> (block % 8) & 1 == 1)
        };
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = (next..end).find(|block| !is_used(*block))?;
            next = (start..end).find(|block| is_used(*block)).unwrap_or(end);
            Some(Run { start, count: next - start })
        })
    }
}

/// Sets all bits of a bitmap from this one on.
fn set_from(bitmap: &mut Block, bit: u32) {
    let byte = bit as usize / 8;
    if byte < BLOCK_SIZE {
        bitmap[byte] |= 0xff << (bit % 8);
        bitmap[byte + 1..].fill(0xff);
    }
}

/// The bitmap of a group whose first `used` inodes are in use.
pub(crate) fn inode_bitmap(used: u32, inodes: u32) -> Block {
    let mut bitmap: Block = [0; BLOCK_SIZE];
    set_from(&mut bitmap, 0);
    for bit in used..inodes {
        bitmap[bit as usize / 8] &= !(1 << (bit % 8));
    }
    bitmap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_room_for_copies() {
        let mut allocator = Allocator::new(65, 10 * BLOCKS_PER_GROUP);
        assert_eq!(allocator.block().unwrap(), 65);
        let run = allocator.run(100_000).unwrap();
        assert_eq!(run, Run { start: 66, count: BLOCKS_PER_GROUP - 66 });
        // Group 1 has a copy, group 2 does not, group 3 does.
        let run = allocator.run(100_000).unwrap();
        assert_eq!(run.start, BLOCKS_PER_GROUP + 65);
        assert_eq!(run.start + run.count, 3 * BLOCKS_PER_GROUP);
    }

    #[test]
    fn stops_at_its_limit() {
        let mut allocator = Allocator::new(65, BLOCKS_PER_GROUP);
        assert!(allocator.contiguous(BLOCKS_PER_GROUP).is_err());
    }

    #[test]
    fn maps_runs() {
        let mut map = BlockMap::default();
        map.mark(Run { start: 3, count: 20 });
        map.mark(Run { start: 30, count: 1 });
        let unused: Vec<Run> = map.unused(40).collect();
        let run = |start, count| Run { start, count };
        assert_eq!(unused, [run(0, 3), run(23, 7), run(31, 9)]);
        let (bitmap, free) = map.group(0, 40);
        assert_eq!(free, 19);
        assert_eq!(bitmap[..5], [0xf8, 0xff, 0x7f, 0x40, 0]);
        assert_eq!(bitmap[5], 0xff);
    }
}
