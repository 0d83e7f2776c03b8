//! The 256 bytes of an inode.

use crate::{
    Timestamp,
    checksum::Checksum,
    fields::{high16, high32, low16, low32, put16, put32},
    geometry::{INODE_EXTRA, INODE_SIZE},
};

/// Bytes of an inode that have names; attributes follow.
pub(crate) const INODE_FIELDS: usize = 128 + INODE_EXTRA as usize;
/// The content is found through extents.
pub(crate) const EXTENTS: u32 = 0x8_0000;
/// The directory has an index.
pub(crate) const INDEXED: u32 = 0x1000;
/// The content is the value of an extended attribute.
pub(crate) const ATTRIBUTE_VALUE: u32 = 0x20_0000;

/// An inode's fields.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) mode: u16,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) size: u64,
    pub(crate) accessed: Timestamp,
    pub(crate) changed: Timestamp,
    pub(crate) modified: Timestamp,
    pub(crate) links: u16,
    /// Blocks of the file system that it occupies.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    /// The version; a reference count where the inode holds an attribute's value.
    pub(crate) version: u32,
    /// Extents, a short symbolic link's target or a device's number.
    pub(crate) content: [u8; 60],
    pub(crate) attribute_block: u32,
}

impl Inode {
    /// The inode as it is on disk, without its checksum.
    pub(crate) fn encode(&self) -> [u8; INODE_SIZE] {
        // In units of 512 bytes, of which there are at most 2³⁵.
        let sectors = self.blocks * 8;
        let mut bytes = [0; INODE_SIZE];
        put16(&mut bytes, 0x00, self.mode);
        put16(&mut bytes, 0x02, low16(self.user));
        put32(&mut bytes, 0x04, low32(self.size));
        put16(&mut bytes, 0x18, low16(self.group));
        put16(&mut bytes, 0x1a, self.links);
        put32(&mut bytes, 0x1c, low32(sectors));
        put32(&mut bytes, 0x20, self.flags);
        put32(&mut bytes, 0x24, self.version);
        bytes[0x28..0x64].copy_from_slice(&self.content);
        put32(&mut bytes, 0x68, self.attribute_block);
        put32(&mut bytes, 0x6c, high32(self.size));
        put16(&mut bytes, 0x74, low16(high32(sectors)));
        put16(&mut bytes, 0x78, high16(self.user));
        put16(&mut bytes, 0x7a, high16(self.group));
        put16(&mut bytes, 0x80, INODE_EXTRA);
        for (low, high, time) in [
            (0x08, 0x8c, self.accessed),
            (0x0c, 0x84, self.changed),
            (0x10, 0x88, self.modified),
            (0x90, 0x94, self.modified),
        ] {
            let (seconds, extra) = encode_time(time);
            put32(&mut bytes, low, seconds);
            put32(&mut bytes, high, extra);
        }
        bytes
    }
}

/// Gives an encoded inode its checksum.
pub(crate) fn seal(bytes: &mut [u8; INODE_SIZE], number: u32, seed: Checksum) {
    let checksum = seed.inode(number).with(bytes);
    put16(bytes, 0x7c, checksum.low());
    put16(bytes, 0x82, checksum.high());
}

/// The lower 32 bits of the seconds, and two more bits of them below the nanoseconds.
fn encode_time(time: Timestamp) -> (u32, u32) {
    const EARLIEST: i64 = -(1 << 31);
    const LATEST: i64 = (1 << 34) + EARLIEST - 1;
    let seconds = time.seconds.clamp(EARLIEST, LATEST);
    // How often 2³² must be added to the lower bits, taken as a signed number.
    let since = (seconds - EARLIEST).unsigned_abs();
    let epoch = high32(since);
    let nanoseconds = time.nanoseconds.min(999_999_999);
    (low32(seconds.cast_unsigned()), nanoseconds << 2 | epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_times() {
        let time = |seconds| encode_time(Timestamp { seconds, nanoseconds: 1 });
        assert_eq!(time(0), (0, 4));
        assert_eq!(time(-1), (0xffff_ffff, 4));
        assert_eq!(time(0x7fff_ffff), (0x7fff_ffff, 4));
        assert_eq!(time(0x8000_0000), (0x8000_0000, 5));
        assert_eq!(time(0x1_8000_0000), (0x8000_0000, 6));
        assert_eq!(time(i64::MAX), (0x7fff_ffff, 7));
        assert_eq!(time(i64::MIN), (0x8000_0000, 4));
    }
}
