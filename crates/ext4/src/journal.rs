//! The superblock of an empty journal (jbd2).

use crate::geometry::{BLOCK_SIZE, Block};

/// How long the journal of a file system of so many blocks is: 4 MiB below 1 GiB, else 16 MiB.
pub(crate) fn blocks(file_system: u32) -> u32 {
    if file_system < 1 << 18 { 1024 } else { 4096 }
}

/// The journal's first block; the others are zero. Its fields are big-endian.
pub(crate) fn superblock(uuid: &[u8; 16], blocks: u32) -> Block {
    const MAGIC: u32 = 0xc03b_3998;
    const SUPERBLOCK_V2: u32 = 4;
    let mut block = [0; BLOCK_SIZE];
    for (offset, value) in [
        (0x00, MAGIC),
        (0x04, SUPERBLOCK_V2),
        (0x0c, 1 << BLOCK_SIZE.ilog2()),
        (0x10, blocks),
        // The first block of the log, and the first sequence number in it.
        (0x14, 1),
        (0x18, 1),
        // How many file systems use it.
        (0x40, 1),
    ] {
        let value: u32 = value;
        block[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    }
    block[0x30..0x40].copy_from_slice(uuid);
    block
}
