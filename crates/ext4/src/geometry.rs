//! Sizes that all our file systems share, and which groups hold backups.

const BLOCK: u16 = 4096;
/// Bytes in a block.
pub(crate) const BLOCK_SIZE: usize = BLOCK as usize;
/// The same, for arithmetic on file offsets.
pub(crate) const BLOCK_BYTES: u64 = BLOCK as u64;
/// The same, for record lengths in directories.
pub(crate) const BLOCK_LENGTH: u16 = BLOCK;
/// As many blocks as one block's bitmap describes.
pub(crate) const BLOCKS_PER_GROUP: u32 = 8 * BLOCK as u32;
/// As many inodes as one block's bitmap describes.
pub(crate) const MAX_INODES_PER_GROUP: u32 = BLOCKS_PER_GROUP;
/// Bytes in an inode, as the superblock has them.
pub(crate) const INODE_LENGTH: u16 = 256;
/// Bytes in an inode.
pub(crate) const INODE_SIZE: usize = INODE_LENGTH as usize;
/// Bytes of an inode beyond the 128 of its first version that have names.
pub(crate) const INODE_EXTRA: u16 = 32;
/// Inodes in a block.
pub(crate) const INODES_PER_BLOCK: u32 = (BLOCK / INODE_LENGTH) as u32;
/// Bytes in a group descriptor, as the superblock has them: with the `64bit` feature, 64.
pub(crate) const DESCRIPTOR_LENGTH: u16 = 64;
/// Bytes in a group descriptor.
pub(crate) const DESCRIPTOR_SIZE: usize = DESCRIPTOR_LENGTH as usize;
/// Group descriptors in a block.
pub(crate) const DESCRIPTORS_PER_BLOCK: u32 = (BLOCK / DESCRIPTOR_LENGTH) as u32;
/// The root directory's inode.
pub(crate) const ROOT_INODE: u32 = 2;
/// The inode that owns the blocks into which the group descriptors may grow.
pub(crate) const RESIZE_INODE: u32 = 7;
/// The journal's inode.
pub(crate) const JOURNAL_INODE: u32 = 8;
/// The first inode that is not reserved.
pub(crate) const FIRST_INODE: u32 = 11;

/// One block's bytes.
pub(crate) type Block = [u8; BLOCK_SIZE];

/// Whether the group starts with a copy of the superblock and the group descriptors: the
/// `sparse_super` rule, groups 0, 1 and the powers of 3, 5 and 7.
pub(crate) fn has_superblock(group: u32) -> bool {
    let power_of = |base: u32| {
        let mut power = base;
        while power < group {
            match power.checked_mul(base) {
                Some(next) => power = next,
                None => return false,
            }
        }
        power == group
    };
    group <= 1 || power_of(3) || power_of(5) || power_of(7)
}

/// Blocks that the descriptors of so many groups fill.
pub(crate) fn descriptor_blocks(groups: u32) -> u32 {
    groups.div_ceil(DESCRIPTORS_PER_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_are_sparse() {
        let groups: Vec<u32> = (0..130).filter(|group| has_superblock(*group)).collect();
        assert_eq!(groups, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
        assert!(!has_superblock(u32::MAX));
    }
}
