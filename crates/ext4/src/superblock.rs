//! The superblock and the group descriptors, and where their copies are.

use crate::{
    WriteError,
    checksum::Checksum,
    device::Device,
    fields::{high16, low16, low32, put16, put32},
    geometry::{
        BLOCK_SIZE, BLOCKS_PER_GROUP, Block, DESCRIPTOR_LENGTH, DESCRIPTOR_SIZE, FIRST_INODE,
        INODE_EXTRA, INODE_LENGTH, JOURNAL_INODE, descriptor_blocks, has_superblock,
    },
};

const HAS_JOURNAL: u32 = 0x4;
const EXT_ATTR: u32 = 0x8;
const RESIZE_INODE: u32 = 0x10;
const DIR_INDEX: u32 = 0x20;
const FILETYPE: u32 = 0x2;
const EXTENTS: u32 = 0x40;
const SIXTY_FOUR_BIT: u32 = 0x80;
const FLEX_BG: u32 = 0x200;
const EA_INODE: u32 = 0x400;
const SPARSE_SUPER: u32 = 0x1;
const LARGE_FILE: u32 = 0x2;
const HUGE_FILE: u32 = 0x8;
const DIR_NLINK: u32 = 0x20;
const EXTRA_ISIZE: u32 = 0x40;
const METADATA_CSUM: u32 = 0x400;

/// Names are hashed as unsigned bytes.
const UNSIGNED_HASH: u32 = 0x2;
const HALF_MD4: u8 = 1;
const CRC32C: u8 = 1;
/// 16 groups each, mke2fs's choice; it only guides later allocations.
const LOG_GROUPS_PER_FLEX: u8 = 4;

/// The group's inodes are all unused and their bitmap is not written.
pub(crate) const INODE_UNINIT: u16 = 1;
/// The group's block bitmap is not written: only its own metadata is in use.
pub(crate) const BLOCK_UNINIT: u16 = 2;
/// The group's inode table needs no zeroing by the kernel.
pub(crate) const INODE_ZEROED: u16 = 4;

/// What the superblock says.
#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub(crate) uuid: [u8; 16],
    pub(crate) hash_seed: [u32; 4],
    pub(crate) label: [u8; 16],
    /// When the file system was made, in seconds since 1970.
    pub(crate) created: u32,
    pub(crate) blocks: u32,
    pub(crate) free_blocks: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) free_inodes: u32,
    /// Blocks into which the descriptors may grow, behind them.
    pub(crate) reserved_descriptor_blocks: u16,
    pub(crate) journal: Option<JournalBackup>,
    /// Whether values of attributes have inodes of their own.
    pub(crate) value_inodes: bool,
}

/// The superblock's copy of where the journal is.
#[derive(Clone, Debug)]
pub(crate) struct JournalBackup {
    pub(crate) content: [u8; 60],
    pub(crate) size: u32,
}

/// What a group descriptor says.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Group {
    pub(crate) block_bitmap: u32,
    pub(crate) inode_bitmap: u32,
    pub(crate) inode_table: u32,
    pub(crate) free_blocks: u32,
    pub(crate) free_inodes: u32,
    pub(crate) unused_inodes: u32,
    pub(crate) directories: u32,
    pub(crate) flags: u16,
    pub(crate) block_bitmap_checksum: u32,
    pub(crate) inode_bitmap_checksum: u32,
}

impl Superblock {
    /// How many groups there are.
    pub(crate) fn groups(&self) -> u32 {
        self.blocks.div_ceil(BLOCKS_PER_GROUP)
    }

    fn encode(&self, group: u32) -> [u8; 1024] {
        let mut compatible = EXT_ATTR | DIR_INDEX;
        if self.journal.is_some() {
            compatible |= HAS_JOURNAL;
        }
        if self.reserved_descriptor_blocks > 0 {
            compatible |= RESIZE_INODE;
        }
        let mut incompatible = FILETYPE | EXTENTS | SIXTY_FOUR_BIT | FLEX_BG;
        if self.value_inodes {
            incompatible |= EA_INODE;
        }
        let read_only =
            SPARSE_SUPER | LARGE_FILE | HUGE_FILE | DIR_NLINK | EXTRA_ISIZE | METADATA_CSUM;

        let mut bytes = [0; 1024];
        put32(&mut bytes, 0x00, self.groups() * self.inodes_per_group);
        put32(&mut bytes, 0x04, self.blocks);
        put32(&mut bytes, 0x0c, self.free_blocks);
        put32(&mut bytes, 0x10, self.free_inodes);
        let log_block_size = BLOCK_SIZE.ilog2() - 10;
        put32(&mut bytes, 0x18, log_block_size);
        put32(&mut bytes, 0x1c, log_block_size);
        put32(&mut bytes, 0x20, BLOCKS_PER_GROUP);
        put32(&mut bytes, 0x24, BLOCKS_PER_GROUP);
        put32(&mut bytes, 0x28, self.inodes_per_group);
        put32(&mut bytes, 0x30, self.created);
        put16(&mut bytes, 0x36, u16::MAX);
        put16(&mut bytes, 0x38, 0xef53);
        // Clean; on errors, carry on.
        put16(&mut bytes, 0x3a, 1);
        put16(&mut bytes, 0x3c, 1);
        put32(&mut bytes, 0x40, self.created);
        put32(&mut bytes, 0x4c, 1);
        put32(&mut bytes, 0x54, FIRST_INODE);
        put16(&mut bytes, 0x58, INODE_LENGTH);
        put16(&mut bytes, 0x5a, low16(group));
        put32(&mut bytes, 0x5c, compatible);
        put32(&mut bytes, 0x60, incompatible);
        put32(&mut bytes, 0x64, read_only);
        bytes[0x68..0x78].copy_from_slice(&self.uuid);
        bytes[0x78..0x88].copy_from_slice(&self.label);
        put16(&mut bytes, 0xce, self.reserved_descriptor_blocks);
        for (index, word) in self.hash_seed.iter().enumerate() {
            put32(&mut bytes, 0xec + 4 * index, *word);
        }
        bytes[0xfc] = HALF_MD4;
        put16(&mut bytes, 0xfe, DESCRIPTOR_LENGTH);
        // Default mount options: user_xattr and acl.
        put32(&mut bytes, 0x100, 0x4 | 0x8);
        put32(&mut bytes, 0x108, self.created);
        if let Some(journal) = &self.journal {
            put32(&mut bytes, 0xe0, JOURNAL_INODE);
            bytes[0xfd] = 1;
            bytes[0x10c..0x10c + 60].copy_from_slice(&journal.content);
            put32(&mut bytes, 0x10c + 64, journal.size);
        }
        put16(&mut bytes, 0x15c, INODE_EXTRA);
        put16(&mut bytes, 0x15e, INODE_EXTRA);
        put32(&mut bytes, 0x160, UNSIGNED_HASH);
        bytes[0x174] = LOG_GROUPS_PER_FLEX;
        bytes[0x175] = CRC32C;
        let checksum = Checksum::new().with(&bytes[..0x3fc]).get();
        put32(&mut bytes, 0x3fc, checksum);
        bytes
    }

    /// Writes the superblock, the descriptors and their copies.
    pub(crate) fn write(
        &self,
        groups: &[Group],
        device: &mut Device<'_>,
    ) -> Result<(), WriteError> {
        let seed = Checksum::seed(&self.uuid);
        let mut table = Vec::with_capacity(groups.len() * DESCRIPTOR_SIZE);
        for (number, group) in (0..).zip(groups) {
            table.extend_from_slice(&group.encode(number, seed));
        }
        for group in (0..self.groups()).filter(|group| has_superblock(*group)) {
            let start = group * BLOCKS_PER_GROUP;
            // Only the first one is behind the boot sector.
            let offset = if group == 0 { 1024 } else { 0 };
            let mut block: Block = [0; BLOCK_SIZE];
            block[offset..offset + 1024].copy_from_slice(&self.encode(group));
            device.write(start, &block)?;
            device.write_all(start + 1, &table)?;
        }
        Ok(())
    }

    /// The superblock and descriptor blocks at the start of a group that has a copy of them.
    pub(crate) fn copy_blocks(&self) -> u32 {
        1 + descriptor_blocks(self.groups()) + u32::from(self.reserved_descriptor_blocks)
    }
}

impl Group {
    fn encode(&self, number: u32, seed: Checksum) -> [u8; DESCRIPTOR_SIZE] {
        let mut bytes = [0; DESCRIPTOR_SIZE];
        put32(&mut bytes, 0x00, self.block_bitmap);
        put32(&mut bytes, 0x04, self.inode_bitmap);
        put32(&mut bytes, 0x08, self.inode_table);
        // The upper halves matter only for groups of more than 65535 blocks.
        for (low, high, value) in [
            (0x0c, 0x2c, self.free_blocks),
            (0x0e, 0x2e, self.free_inodes),
            (0x10, 0x30, self.directories),
            (0x1c, 0x32, self.unused_inodes),
            (0x18, 0x38, self.block_bitmap_checksum),
            (0x1a, 0x3a, self.inode_bitmap_checksum),
        ] {
            put16(&mut bytes, low, low16(value));
            put16(&mut bytes, high, high16(value));
        }
        put16(&mut bytes, 0x12, self.flags);
        let checksum = seed.with(&number.to_le_bytes()).with(&bytes).low();
        put16(&mut bytes, 0x1e, checksum);
        bytes
    }
}

/// The hash seed that goes with a UUID: any will do, but not a random one.
pub(crate) fn hash_seed(uuid: &[u8; 16]) -> [u32; 4] {
    let mut seed = [0; 4];
    for (word, part) in seed.iter_mut().zip(uuid.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*part);
    }
    seed
}

/// A label of at most 16 bytes; longer ones are cut.
pub(crate) fn label(text: &str) -> [u8; 16] {
    let mut label = [0; 16];
    for (to, from) in label.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    label
}

/// The creation time as the superblock holds it: seconds from 1970 to 2106.
pub(crate) fn creation_time(seconds: i64) -> u32 {
    low32(seconds.clamp(0, i64::from(u32::MAX)).unsigned_abs())
}
