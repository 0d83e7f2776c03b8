//! Notices an image that was cut short, emptied or overwritten since it was made.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use crate::{
    checksum::Checksum,
    geometry::{BLOCK_BYTES, BLOCK_SIZE, BLOCKS_PER_GROUP, DESCRIPTOR_SIZE},
};

/// Whether the file is as long as the file system in it, and superblock, group descriptors and
/// bitmaps have the checksums that they should have. That is quick: a few KiB for each 128 MiB.
/// (The rest has checksums too, which the guest's kernel verifies as it reads; file contents have
/// none.)
///
/// # Errors
/// What the system says when the file cannot be read.
pub fn is_intact(file: &File) -> io::Result<bool> {
    let length = file.metadata()?.len();
    if length < BLOCK_BYTES {
        return Ok(false);
    }
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, 1024)?;
    let checksum = Checksum::new().with(&superblock[..0x3fc]).get();
    let blocks = word(&superblock, 0x04);
    if superblock[0x38..0x3a] != [0x53, 0xef]
        || word(&superblock, 0x3fc) != checksum
        || u64::from(blocks) * BLOCK_BYTES > length
        || blocks == 0
    {
        return Ok(false);
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&superblock[0x68..0x78]);
    let seed = Checksum::seed(&uuid);
    let inode_bytes = word(&superblock, 0x28).div_ceil(8) as usize;
    for group in 0..blocks.div_ceil(BLOCKS_PER_GROUP) {
        let mut descriptor = [0; DESCRIPTOR_SIZE];
        let offset = BLOCK_BYTES + u64::from(group) * DESCRIPTOR_SIZE as u64;
        file.read_exact_at(&mut descriptor, offset)?;
        if !group_is_intact(file, group, &descriptor, seed, inode_bytes)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn group_is_intact(
    file: &File,
    group: u32,
    descriptor: &[u8; DESCRIPTOR_SIZE],
    seed: Checksum,
    inode_bytes: usize,
) -> io::Result<bool> {
    let half = |at: usize| u16::from_le_bytes([descriptor[at], descriptor[at + 1]]);
    let mut blank = *descriptor;
    blank[0x1e..0x20].fill(0);
    if seed.with(&group.to_le_bytes()).with(&blank).low() != half(0x1e) {
        return Ok(false);
    }
    // (flag of a bitmap that is not written, where it is, its length, halves of its checksum)
    for (unwritten, at, length, low, high) in
        [(2, 0x00, BLOCK_SIZE, 0x18, 0x38), (1, 0x04, inode_bytes, 0x1a, 0x3a)]
    {
        if half(0x12) & unwritten != 0 {
            continue;
        }
        let mut bitmap = [0; BLOCK_SIZE];
        let bitmap = &mut bitmap[..length.min(BLOCK_SIZE)];
        file.read_exact_at(bitmap, u64::from(word(descriptor, at)) * BLOCK_BYTES)?;
        let checksum = seed.with(bitmap);
        if (checksum.low(), checksum.high()) != (half(low), half(high)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, ImageSpec};

    #[test]
    fn notices_damage() {
        let file = tempfile::tempfile().unwrap();
        let spec = ImageSpec { uuid: [1; 16], label: "x", created: 0 };
        let size = Image::create(&file, spec).unwrap().finish().unwrap().size;
        assert!(is_intact(&file).unwrap());
        for offset in [1024 + 0x38, 1024 + 0x70, 4096, 4096 + 30] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
            assert!(!is_intact(&file).unwrap(), "{offset}");
            file.write_all_at(&byte, offset).unwrap();
        }
        assert!(is_intact(&file).unwrap());
        file.set_len(size - 1).unwrap();
        assert!(!is_intact(&file).unwrap());
        file.set_len(0).unwrap();
        assert!(!is_intact(&file).unwrap());
    }
}
