//! Extended attributes as inodes and attribute blocks hold them.

use crate::{
    TreeError, WriteError,
    checksum::Checksum,
    fields::{put16, put32},
    geometry::{BLOCK_SIZE, Block, INODE_SIZE},
    inode::INODE_FIELDS,
};

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 32;
const ENTRY_HEADER: usize = 16;
/// The most inodes that may share an attribute block.
pub(crate) const MAX_SHARED: u32 = 1024;
/// Linux's limit, `XATTR_SIZE_MAX`.
const MAX_VALUE: usize = 65536;
/// The room in an inode.
pub(crate) const INODE_ROOM: usize = INODE_SIZE - INODE_FIELDS;

/// One attribute, its name's prefix as ext4 numbers it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Attribute {
    index: u8,
    name: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
}

/// The attributes of a node, in the order in which a block has them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct AttributeSet(pub(crate) Vec<Attribute>);

/// A value that is stored in an inode of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ValueInode {
    /// Its number.
    pub(crate) number: u32,
    /// The checksum of the value.
    pub(crate) hash: u32,
}

const PREFIXES: [(&[u8], u8); 7] = [
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
    (b"system.richacl", 8),
    (b"system.", 7),
];

impl AttributeSet {
    /// Takes names with their prefixes (`user.`, `security.`, …) and values as the system calls
    /// have them. Names with other prefixes mean nothing to Linux and are left out.
    pub(crate) fn new(attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<Self, TreeError> {
        let mut set: Vec<Attribute> = Vec::with_capacity(attributes.len());
        for (name, value) in attributes {
            let text = || String::from_utf8_lossy(name).into_owned();
            let Some((prefix, index)) =
                PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))
            else {
                continue;
            };
            if name.len() > 255 || value.len() > MAX_VALUE {
                return Err(TreeError::AttributeTooLong(text()));
            }
            let value = match index {
                2 | 3 => access_control_list(value)
                    .ok_or_else(|| TreeError::AccessControlList(text()))?,
                _ => value.clone().into(),
            };
            let attribute = Attribute { index: *index, name: name[prefix.len()..].into(), value };
            match set.iter_mut().find(|old| old.order() == attribute.order()) {
                Some(old) => *old = attribute,
                None => set.push(attribute),
            }
        }
        set.sort_by(|a, b| a.order().cmp(&b.order()));
        Ok(Self(set))
    }

    /// Whether all fits in the inode.
    pub(crate) fn fits_inode(&self) -> bool {
        4 + self.length(&[]) <= INODE_ROOM
    }

    /// The values that must be stored elsewhere for the rest to fit in a block: the largest.
    pub(crate) fn values_elsewhere(&self) -> Result<Vec<usize>, WriteError> {
        let mut elsewhere = Vec::new();
        let mut by_size: Vec<usize> = (0..self.0.len()).collect();
        by_size.sort_by_key(|index| self.0[*index].value.len());
        while BLOCK_HEADER + self.length(&elsewhere) > BLOCK_SIZE {
            match by_size.pop() {
                Some(index) => elsewhere.push(index),
                None => return Err(WriteError::TooManyAttributes { count: self.0.len() }),
            }
        }
        elsewhere.sort_unstable();
        Ok(elsewhere)
    }

    /// Entries, values and the four zero bytes between them.
    fn length(&self, elsewhere: &[usize]) -> usize {
        let entries = self.0.iter().map(Attribute::entry_length);
        let values = self.0.iter().enumerate().filter(|(index, _)| !elsewhere.contains(index));
        entries.sum::<usize>() + 4 + values.map(|(_, a)| a.value_length()).sum::<usize>()
    }

    /// What follows the fields of the inode.
    pub(crate) fn inode_bytes(&self) -> [u8; INODE_ROOM] {
        let mut bytes = [0; INODE_ROOM];
        put32(&mut bytes, 0, MAGIC);
        self.fill(&mut bytes[4..], 0, |_| None);
        bytes
    }

    /// An attribute block at `number` that so many inodes share.
    pub(crate) fn block(
        &self,
        number: u32,
        shared: u32,
        seed: Checksum,
        elsewhere: impl Fn(usize) -> Option<ValueInode>,
    ) -> Block {
        let mut block = [0; BLOCK_SIZE];
        put32(&mut block, 0, MAGIC);
        put32(&mut block, 4, shared);
        put32(&mut block, 8, 1);
        let hash = self.fill(&mut block, BLOCK_HEADER, elsewhere);
        put32(&mut block, 12, hash);
        let checksum = seed.with(&u64::from(number).to_le_bytes()).with(&block).get();
        put32(&mut block, 16, checksum);
        block
    }

    /// Writes entries from `start` on and values from the end down, and returns the hash of all.
    fn fill(
        &self,
        bytes: &mut [u8],
        start: usize,
        elsewhere: impl Fn(usize) -> Option<ValueInode>,
    ) -> u32 {
        let (mut entry, mut end) = (start, bytes.len());
        let mut all = 0_u32;
        for (index, attribute) in self.0.iter().enumerate() {
            let hash = match elsewhere(index) {
                Some(inode) => {
                    put32(bytes, entry + 4, inode.number);
                    attribute.hash(&inode.hash.to_le_bytes())
                }
                None => {
                    end -= attribute.value_length();
                    bytes[end..][..attribute.value.len()].copy_from_slice(&attribute.value);
                    // A value of no bytes has no place.
                    let place = if attribute.value.is_empty() { 0 } else { end };
                    put16(bytes, entry + 2, u16::try_from(place).unwrap_or(u16::MAX));
                    attribute.hash(&attribute.value)
                }
            };
            bytes[entry] = u8::try_from(attribute.name.len()).unwrap_or(u8::MAX);
            bytes[entry + 1] = attribute.index;
            let size = u32::try_from(attribute.value.len()).unwrap_or(u32::MAX);
            put32(bytes, entry + 8, size);
            put32(bytes, entry + 12, hash);
            bytes[entry + ENTRY_HEADER..][..attribute.name.len()].copy_from_slice(&attribute.name);
            entry += attribute.entry_length();
            all = all.rotate_left(16) ^ hash;
        }
        all
    }
}

impl Attribute {
    fn order(&self) -> (u8, usize, &[u8]) {
        (self.index, self.name.len(), &self.name)
    }

    fn entry_length(&self) -> usize {
        ENTRY_HEADER + self.name.len().next_multiple_of(4)
    }

    fn value_length(&self) -> usize {
        self.value.len().next_multiple_of(4)
    }

    fn hash(&self, value: &[u8]) -> u32 {
        let name =
            self.name.iter().fold(0_u32, |hash, byte| hash.rotate_left(5) ^ u32::from(*byte));
        value.chunks(4).fold(name, |hash, bytes| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

/// Turns an ACL from the form of the system calls (version 2: a tag, permissions and an
/// identifier of 32 bits each time) into that on disk (version 1: the identifier only where the
/// tag has one).
fn access_control_list(value: &[u8]) -> Option<Box<[u8]>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let (version, entries) = value.split_first_chunk()?;
    let (entries, rest) = entries.as_chunks::<8>();
    if u32::from_le_bytes(*version) != 2 || !rest.is_empty() {
        return None;
    }
    let mut list = 1_u32.to_le_bytes().to_vec();
    for entry in entries {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let length = if tag == USER || tag == GROUP { 8 } else { 4 };
        list.extend_from_slice(&entry[..length]);
    }
    Some(list.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_access_control_lists() {
        let list = [
            &2_u32.to_le_bytes()[..],
            &[1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff],
            &[2, 0, 4, 0, 232, 3, 0, 0],
            &[4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff],
        ]
        .concat();
        let stored = access_control_list(&list).unwrap();
        assert_eq!(*stored, [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0]);
        assert!(access_control_list(&list[..10]).is_none());
        assert!(access_control_list(&[1, 0, 0, 0]).is_none());
    }

    #[test]
    fn leaves_out_what_linux_does_not_know() {
        let set = AttributeSet::new(&[(b"com.apple.quarantine".to_vec(), b"x".to_vec())]).unwrap();
        assert!(set.0.is_empty());
    }
}
