//! The inode that owns the blocks into which the group descriptors may grow.
//!
//! Its double indirect block points to the reserved blocks behind the first copy of the
//! descriptors; each of those points to its counterparts behind the other copies.

use crate::{
    WriteError,
    device::Device,
    fields::put32,
    geometry::{
        BLOCK_BYTES, BLOCK_SIZE, BLOCKS_PER_GROUP, Block, descriptor_blocks, has_superblock,
    },
    superblock::Superblock,
};

const POINTERS: u64 = BLOCK_BYTES / 4;
/// The slot of the double indirect block in an inode.
const DOUBLE_INDIRECT: usize = 13;
const DIRECT: u64 = 12;

/// The resize inode's content.
#[derive(Debug)]
pub(crate) struct ResizeInode {
    double_indirect: u32,
    descriptors: u32,
    reserved: u32,
    /// The first blocks of the groups with copies, without the first one.
    copies: Vec<u32>,
}

impl ResizeInode {
    /// Its size: all that direct, indirect and double indirect blocks reach.
    pub(crate) const SIZE: u64 = (POINTERS * POINTERS + POINTERS + DIRECT) * BLOCK_BYTES;

    /// The content for this file system, its double indirect block in the given place.
    pub(crate) fn new(superblock: &Superblock, double_indirect: u32) -> Self {
        Self {
            double_indirect,
            descriptors: descriptor_blocks(superblock.groups()),
            reserved: u32::from(superblock.reserved_descriptor_blocks),
            copies: (1..superblock.groups())
                .filter(|group| has_superblock(*group))
                .map(|group| group * BLOCKS_PER_GROUP)
                .collect(),
        }
    }

    /// What the inode holds.
    pub(crate) fn content(&self) -> [u8; 60] {
        let mut content = [0; 60];
        put32(&mut content, 4 * DOUBLE_INDIRECT, self.double_indirect);
        content
    }

    /// How many blocks it occupies.
    pub(crate) fn blocks(&self) -> u64 {
        1 + u64::from(self.reserved) * (1 + self.copies.len() as u64)
    }

    /// Writes the double indirect block and those that it points to.
    pub(crate) fn write(&self, device: &mut Device<'_>) -> Result<(), WriteError> {
        let mut double_indirect: Block = [0; BLOCK_SIZE];
        for index in self.descriptors..self.descriptors + self.reserved {
            let place = 1 + index;
            put32(&mut double_indirect, 4 * index as usize, place);
            let mut block: Block = [0; BLOCK_SIZE];
            for (slot, copy) in self.copies.iter().enumerate() {
                put32(&mut block, 4 * slot, copy + place);
            }
            device.write(place, &block)?;
        }
        device.write(self.double_indirect, &double_indirect)
    }
}
