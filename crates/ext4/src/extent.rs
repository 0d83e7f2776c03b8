//! Extents, and the trees that inodes hold them in.

use crate::{
    WriteError,
    checksum::Checksum,
    device::Device,
    fields::{put16, put32},
    geometry::{BLOCK_SIZE, Block},
};

const MAGIC: u16 = 0xf30a;
/// Entries in the 60 bytes of an inode.
const ROOT_ENTRIES: usize = 4;
/// Entries in a block: a header and a checksum take the room of one.
const BLOCK_ENTRIES: usize = (BLOCK_SIZE - 12 - 4) / 12;
/// The most blocks of an extent that is initialized.
pub(crate) const MAX_EXTENT: u32 = 1 << 15;

/// Consecutive blocks of a file that are consecutive in the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    /// The first block within the file.
    pub(crate) logical: u32,
    /// How many blocks.
    pub(crate) count: u32,
    /// The first block within the image.
    pub(crate) physical: u32,
}

/// A node below: its first block within the file, and where it is.
type Child = (u32, u32);

/// How many blocks the tree of so many extents needs besides the inode.
pub(crate) fn tree_blocks(extents: usize) -> u32 {
    let mut blocks = 0;
    let mut entries = extents;
    while entries > ROOT_ENTRIES {
        entries = entries.div_ceil(BLOCK_ENTRIES);
        blocks += entries;
    }
    // At most 2³²/339 blocks, since extents are counted in 32 bits.
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

fn header(bytes: &mut [u8], entries: usize, capacity: usize, depth: u16) {
    put16(bytes, 0, MAGIC);
    put16(bytes, 2, u16::try_from(entries).unwrap_or(u16::MAX));
    put16(bytes, 4, u16::try_from(capacity).unwrap_or(u16::MAX));
    put16(bytes, 6, depth);
}

fn leaf_entry(bytes: &mut [u8], extent: &Extent) {
    put32(bytes, 0, extent.logical);
    put16(bytes, 4, u16::try_from(extent.count).unwrap_or(u16::MAX));
    put32(bytes, 8, extent.physical);
}

fn index_entry(bytes: &mut [u8], (logical, physical): &Child) {
    put32(bytes, 0, *logical);
    put32(bytes, 4, *physical);
}

/// A node: a header, then 12 bytes an entry.
fn node<T>(
    bytes: &mut [u8],
    capacity: usize,
    depth: u16,
    entries: &[T],
    encode: impl Fn(&mut [u8], &T),
) {
    header(bytes, entries.len(), capacity, depth);
    for (slot, entry) in bytes[12..].chunks_mut(12).zip(entries) {
        encode(slot, entry);
    }
}

/// Writes one level of nodes and returns what points to them.
fn level<T>(
    entries: &[T],
    depth: u16,
    seed: Checksum,
    device: &mut Device<'_>,
    blocks: &mut impl Iterator<Item = u32>,
    encode: impl Fn(&mut [u8], &T) + Copy,
    first: impl Fn(&T) -> u32,
) -> Result<Vec<Child>, WriteError> {
    let mut children = Vec::with_capacity(entries.len().div_ceil(BLOCK_ENTRIES));
    for (part, block) in entries.chunks(BLOCK_ENTRIES).zip(blocks) {
        let mut bytes: Block = [0; BLOCK_SIZE];
        node(&mut bytes, BLOCK_ENTRIES, depth, part, encode);
        let tail = 12 + 12 * BLOCK_ENTRIES;
        let checksum = seed.with(&bytes[..tail]).get();
        put32(&mut bytes, tail, checksum);
        device.write(block, &bytes)?;
        children.push((first(&part[0]), block));
    }
    Ok(children)
}

/// Writes the tree's blocks, `tree_blocks` of `blocks`, and returns what the inode holds.
pub(crate) fn write_tree(
    extents: &[Extent],
    seed: Checksum,
    device: &mut Device<'_>,
    blocks: &mut impl Iterator<Item = u32>,
) -> Result<[u8; 60], WriteError> {
    let mut root = [0; 60];
    if extents.len() <= ROOT_ENTRIES {
        node(&mut root, ROOT_ENTRIES, 0, extents, leaf_entry);
        return Ok(root);
    }
    let first = |extent: &Extent| extent.logical;
    let mut children = level(extents, 0, seed, device, blocks, leaf_entry, first)?;
    let mut depth = 1;
    while children.len() > ROOT_ENTRIES {
        children = level(&children, depth, seed, device, blocks, index_entry, |child| child.0)?;
        depth += 1;
    }
    node(&mut root, ROOT_ENTRIES, depth, &children, index_entry);
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_tree_blocks() {
        assert_eq!(tree_blocks(4), 0);
        assert_eq!(tree_blocks(5), 1);
        assert_eq!(tree_blocks(340), 1);
        assert_eq!(tree_blocks(341), 2);
        assert_eq!(tree_blocks(4 * 340 + 1), 5 + 1);
    }
}
