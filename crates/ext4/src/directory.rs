//! Directory blocks: one linear block, or leaves behind an index of hashes.

use crate::{
    Kind, WriteError,
    checksum::Checksum,
    fields::{put16, put32},
    geometry::{BLOCK_LENGTH, BLOCK_SIZE, Block},
    hash::half_md4,
};

/// The checksum at the end of a leaf, disguised as an unused entry.
const TAIL_LENGTH: u16 = 12;
const LEAF_ROOM: usize = BLOCK_SIZE - TAIL_LENGTH as usize;
const ENTRY_HEADER: usize = 8;
/// `.` and `..` with the header of the index behind them.
const INDEX_ROOT_HEADER: usize = 12 + 12 + 8;
/// An unused entry that spans the block.
const INDEX_NODE_HEADER: usize = 8;
/// Entries of the index's root and of its other nodes; the checksum takes the room of one.
const ROOT_LIMIT: usize = (BLOCK_SIZE - INDEX_ROOT_HEADER - 8) / 8;
const NODE_LIMIT: usize = (BLOCK_SIZE - INDEX_NODE_HEADER - 8) / 8;

/// An entry of a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u32,
    pub(crate) kind: Kind,
}

/// A directory on its way to disk.
#[derive(Debug)]
pub(crate) struct Directory<'a> {
    pub(crate) inode: u32,
    pub(crate) parent: u32,
    /// Its entries without `.` and `..`, by name.
    pub(crate) entries: Vec<Entry<'a>>,
}

/// How a directory's entries are spread over its blocks.
#[derive(Debug)]
pub(crate) enum Plan {
    /// All in one block.
    Linear,
    /// In leaves: the position of each leaf's first entry, and the hash from which it is found.
    Indexed(Vec<(usize, u32)>),
}

fn entry_length(name: usize) -> usize {
    ENTRY_HEADER + name.next_multiple_of(4)
}

impl<'a> Directory<'a> {
    /// Decides on the spread. Entries of an indexed directory are sorted by their hashes.
    pub(crate) fn plan(&mut self, hash_seed: &[u32; 4]) -> Result<Plan, WriteError> {
        let length: usize = self.entries.iter().map(|entry| entry_length(entry.name.len())).sum();
        if 12 + 12 + length <= LEAF_ROOM {
            return Ok(Plan::Linear);
        }
        let hash = |entry: &Entry<'_>| half_md4(entry.name, hash_seed);
        // The sort is stable and names come sorted: ties go by name.
        self.entries.sort_by_cached_key(hash);

        let mut leaves = vec![(0, 0)];
        let (mut filled, mut previous) = (0, None);
        for (position, entry) in self.entries.iter().enumerate() {
            let length = entry_length(entry.name.len());
            let (hash, _) = hash(entry);
            if filled + length > LEAF_ROOM {
                // The lowest bit says that the hash's first entries are in the leaf before.
                let continued = previous == Some(hash);
                leaves.push((position, hash | u32::from(continued)));
                filled = 0;
            }
            filled += length;
            previous = Some(hash);
        }
        if leaves.len() > ROOT_LIMIT * NODE_LIMIT {
            return Err(WriteError::DirectoryTooLarge { entries: self.entries.len() });
        }
        Ok(Plan::Indexed(leaves))
    }

    /// Hands the directory's blocks to `write`, in their order.
    pub(crate) fn blocks(
        &self,
        plan: &Plan,
        seed: Checksum,
        mut write: impl FnMut(&Block) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let seed = seed.inode(self.inode);
        let leaves = match plan {
            Plan::Linear => {
                let dots = [self.dot(), self.dot_dot()];
                return write(&leaf(dots.iter().chain(&self.entries), seed));
            }
            Plan::Indexed(leaves) => leaves,
        };
        let mut index: Vec<(u32, u32)> =
            (1..).zip(leaves).map(|(at, (_, hash))| (*hash, at)).collect();
        let mut nodes = Vec::new();
        let mut levels = 0;
        if index.len() > ROOT_LIMIT {
            levels = 1;
            // Nodes follow the leaves.
            let at = (1 + u32::try_from(leaves.len()).unwrap_or(u32::MAX)..)
                .zip(index.chunks(NODE_LIMIT));
            let parents = at.map(|(at, part)| (part[0].0, at)).collect();
            nodes = index.chunks(NODE_LIMIT).map(|part| index_node(part, seed)).collect();
            index = parents;
        }
        write(&self.index_root(&index, levels, seed))?;
        let ends = leaves.iter().skip(1).map(|(start, _)| *start).chain([self.entries.len()]);
        for ((start, _), end) in leaves.iter().zip(ends) {
            write(&leaf(self.entries[*start..end].iter(), seed))?;
        }
        nodes.iter().try_for_each(write)
    }

    fn dot(&self) -> Entry<'static> {
        Entry { name: b".", inode: self.inode, kind: Kind::Directory }
    }

    fn dot_dot(&self) -> Entry<'static> {
        Entry { name: b"..", inode: self.parent, kind: Kind::Directory }
    }

    fn index_root(&self, index: &[(u32, u32)], levels: u8, seed: Checksum) -> Block {
        const HALF_MD4: u8 = 1;
        let mut block = [0; BLOCK_SIZE];
        put_entry(&mut block, &self.dot(), 12);
        put_entry(&mut block[12..], &self.dot_dot(), BLOCK_SIZE - 12);
        block[0x1c] = HALF_MD4;
        block[0x1d] = 8;
        block[0x1e] = levels;
        put_index(&mut block, INDEX_ROOT_HEADER, ROOT_LIMIT, index, seed);
        block
    }
}

impl Plan {
    /// How many blocks the directory has.
    pub(crate) fn blocks(&self) -> usize {
        match self {
            Self::Linear => 1,
            Self::Indexed(leaves) if leaves.len() <= ROOT_LIMIT => 1 + leaves.len(),
            Self::Indexed(leaves) => 1 + leaves.len() + leaves.len().div_ceil(NODE_LIMIT),
        }
    }
}

fn put_entry(bytes: &mut [u8], entry: &Entry<'_>, length: usize) {
    put32(bytes, 0, entry.inode);
    put16(bytes, 4, u16::try_from(length).unwrap_or(u16::MAX));
    bytes[6] = u8::try_from(entry.name.len()).unwrap_or(u8::MAX);
    bytes[7] = entry.kind.file_type();
    bytes[ENTRY_HEADER..][..entry.name.len()].copy_from_slice(entry.name);
}

/// A block of entries; the last one reaches to the checksum.
fn leaf<'e, 'a: 'e>(entries: impl Iterator<Item = &'e Entry<'a>>, seed: Checksum) -> Block {
    let mut block = [0; BLOCK_SIZE];
    let (mut at, mut last) = (0, 0);
    for entry in entries {
        let length = entry_length(entry.name.len());
        put_entry(&mut block[at..], entry, length);
        last = at;
        at += length;
    }
    put16(&mut block, last + 4, u16::try_from(LEAF_ROOM - last).unwrap_or(u16::MAX));
    put16(&mut block, LEAF_ROOM + 4, TAIL_LENGTH);
    block[LEAF_ROOM + 7] = 0xde;
    let checksum = seed.with(&block[..LEAF_ROOM]).get();
    put32(&mut block, LEAF_ROOM + 8, checksum);
    block
}

fn index_node(index: &[(u32, u32)], seed: Checksum) -> Block {
    let mut block = [0; BLOCK_SIZE];
    put16(&mut block, 4, BLOCK_LENGTH);
    put_index(&mut block, INDEX_NODE_HEADER, NODE_LIMIT, index, seed);
    block
}

/// Writes index entries. The first one's hash is implied; its place holds limit and count.
fn put_index(block: &mut Block, at: usize, limit: usize, index: &[(u32, u32)], seed: Checksum) {
    for (slot, (hash, block_number)) in block[at..].chunks_mut(8).zip(index) {
        put32(slot, 0, *hash);
        put32(slot, 4, *block_number);
    }
    put16(block, at, u16::try_from(limit).unwrap_or(u16::MAX));
    put16(block, at + 2, u16::try_from(index.len()).unwrap_or(u16::MAX));
    let used = at + 8 * index.len();
    let tail = at + 8 * limit;
    let checksum = seed.with(&block[..used]).with(&[0; 8]).get();
    put32(block, tail + 4, checksum);
}
