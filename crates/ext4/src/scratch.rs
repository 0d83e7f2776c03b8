//! An empty file system to write to, made in no time whatever its size.
//!
//! Inode tables, the journal and most bitmaps are holes: their groups are flagged as not yet
//! initialized, and what the kernel reads from a hole is zero, as it should be.

use std::fs::File;

use crate::{
    Kind, Timestamp, WriteError,
    allocator::{Allocator, BlockMap, Run, inode_bitmap},
    checksum::Checksum,
    data::DataArea,
    device::Device,
    directory::{Directory, Entry},
    extent::write_tree,
    geometry::{
        BLOCK_BYTES, BLOCKS_PER_GROUP, FIRST_INODE, INODE_SIZE, INODES_PER_BLOCK, JOURNAL_INODE,
        RESIZE_INODE, ROOT_INODE, descriptor_blocks, has_superblock,
    },
    inode::{EXTENTS, Inode, seal},
    journal,
    resize::ResizeInode,
    superblock::{
        BLOCK_UNINIT, Group, INODE_UNINIT, INODE_ZEROED, JournalBackup, Superblock, creation_time,
        hash_seed, label,
    },
};

/// One inode for so many blocks, as mke2fs has it.
const BLOCKS_PER_INODE: u32 = 4;
/// Room for the descriptors of 504 GiB more.
const RESERVED_DESCRIPTOR_BLOCKS: u16 = 63;
/// A last group of fewer blocks beyond its copy of the superblock is left out.
const LEAST_GROUP: u32 = 50;
/// The smallest scratch disk, in bytes: 64 MiB.
pub const MIN_SCRATCH: u64 = 64 << 20;
/// The largest scratch disk, in bytes: 64 GiB.
pub const MAX_SCRATCH: u64 = 64 << 30;

/// What an empty file system is to be like.
#[derive(Clone, Debug)]
pub struct ScratchSpec<'a> {
    /// Its UUID.
    pub uuid: [u8; 16],
    /// Its label, of which the first 16 bytes count.
    pub label: &'a str,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// Its size in bytes, [`MIN_SCRATCH`] to [`MAX_SCRATCH`]; what exceeds whole blocks is not
    /// used.
    pub size: u64,
    /// Empty directories, by name, below the root: at most a few.
    pub directories: &'a [ScratchDirectory<'a>],
}

/// A directory of a new file system.
#[derive(Clone, Copy, Debug)]
pub struct ScratchDirectory<'a> {
    /// Its name.
    pub name: &'a str,
    /// The lower twelve bits of its mode.
    pub mode: u16,
}

/// Makes a file system with a journal in the file, which is emptied first and is sparse
/// afterwards. It can be grown by resize2fs, also while mounted.
///
/// # Errors
/// [`WriteError::DiskSize`] and [`WriteError::Io`].
pub fn format_scratch(file: &File, spec: &ScratchSpec<'_>) -> Result<(), WriteError> {
    if !(MIN_SCRATCH..=MAX_SCRATCH).contains(&spec.size) {
        return Err(WriteError::DiskSize {
            size: spec.size,
            minimum: MIN_SCRATCH,
            maximum: MAX_SCRATCH,
        });
    }
    Scratch::new(file, spec)?.write(spec)
}

struct Scratch<'f> {
    area: DataArea<'f>,
    map: BlockMap,
    seed: Checksum,
    superblock: Superblock,
    groups: Vec<Group>,
    /// The first inodes, those in use and the reserved ones.
    inodes: Vec<[u8; INODE_SIZE]>,
}

impl<'f> Scratch<'f> {
    fn new(file: &'f File, spec: &ScratchSpec<'_>) -> Result<Self, WriteError> {
        // At most 2²⁴ by the limit on the size.
        let mut blocks = u32::try_from(spec.size / BLOCK_BYTES).unwrap_or(u32::MAX);
        let mut groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let copy = 1 + descriptor_blocks(groups) + u32::from(RESERVED_DESCRIPTOR_BLOCKS);
        let last = blocks - (groups - 1) * BLOCKS_PER_GROUP;
        if groups > 1 && last < copy + LEAST_GROUP {
            groups -= 1;
            blocks = groups * BLOCKS_PER_GROUP;
        }
        let inodes = blocks / BLOCKS_PER_INODE;
        let inodes_per_group = inodes.div_ceil(groups).next_multiple_of(INODES_PER_BLOCK);
        let superblock = Superblock {
            uuid: spec.uuid,
            hash_seed: hash_seed(&spec.uuid),
            label: label(spec.label),
            created: creation_time(spec.created),
            blocks,
            free_blocks: 0,
            inodes_per_group,
            free_inodes: 0,
            reserved_descriptor_blocks: RESERVED_DESCRIPTOR_BLOCKS,
            journal: None,
            value_inodes: false,
        };
        let area = DataArea {
            device: Device::new(file)?,
            allocator: Allocator::new(superblock.copy_blocks(), blocks),
            extents: Vec::new(),
        };
        Ok(Self {
            area,
            map: BlockMap::default(),
            seed: Checksum::seed(&spec.uuid),
            superblock,
            groups: vec![Group::default(); groups as usize],
            inodes: Vec::new(),
        })
    }

    fn write(mut self, spec: &ScratchSpec<'_>) -> Result<(), WriteError> {
        let count = usize::try_from(FIRST_INODE).unwrap_or(0) - 1 + spec.directories.len();
        self.inodes = vec![[0; INODE_SIZE]; count];
        self.place_tables()?;
        self.directories(spec)?;
        self.journal(spec)?;
        self.resize_inode(spec)?;
        self.write_inodes()?;
        self.bitmaps()?;
        self.superblock.free_blocks = self.groups.iter().map(|group| group.free_blocks).sum();
        self.superblock.free_inodes = self.groups.iter().map(|group| group.free_inodes).sum();
        self.superblock.write(&self.groups, &mut self.area.device)?;
        // Not the number of blocks: the file has the size that was asked for.
        self.area.device.finish(spec.size)
    }

    fn place_tables(&mut self) -> Result<(), WriteError> {
        let table = self.superblock.inodes_per_group / INODES_PER_BLOCK;
        let (map, allocator) = (&mut self.map, &mut self.area.allocator);
        let mut place = |count| -> Result<u32, WriteError> {
            let run = allocator.contiguous(count)?;
            map.mark(run);
            Ok(run.start)
        };
        for group in &mut self.groups {
            group.block_bitmap = place(1)?;
        }
        for group in &mut self.groups {
            group.inode_bitmap = place(1)?;
        }
        for group in &mut self.groups {
            group.inode_table = place(table)?;
        }
        for number in (0..self.superblock.groups()).filter(|group| has_superblock(*group)) {
            let count = self.superblock.copy_blocks();
            self.map.mark(Run { start: number * BLOCKS_PER_GROUP, count });
        }
        Ok(())
    }

    /// Makes `count` new blocks the inode's content and returns the first of them.
    fn with_blocks(
        &mut self,
        number: u32,
        count: u32,
        inode: &mut Inode,
    ) -> Result<u32, WriteError> {
        let first = self.area.extents.len();
        let start = self.area.extend(first, 0, count)?;
        for extent in &self.area.extents[first..] {
            self.map.mark(Run { start: extent.physical, count: extent.count });
        }
        let DataArea { extents, device, .. } = &mut self.area;
        inode.content = write_tree(
            &extents[first..],
            self.seed.inode(number),
            device,
            // Few blocks have few extents, which need no tree.
            &mut std::iter::empty(),
        )?;
        inode.blocks = u64::from(count);
        inode.size = inode.blocks * BLOCK_BYTES;
        Ok(start)
    }

    fn store(&mut self, number: u32, inode: &Inode) {
        let mut bytes = inode.encode();
        seal(&mut bytes, number, self.seed);
        self.inodes[number as usize - 1] = bytes;
    }

    fn directories(&mut self, spec: &ScratchSpec<'_>) -> Result<(), WriteError> {
        let children: Vec<Entry<'_>> = (FIRST_INODE..)
            .zip(spec.directories)
            .map(|(inode, directory)| Entry {
                name: directory.name.as_bytes(),
                inode,
                kind: Kind::Directory,
            })
            .collect();
        let modes = (FIRST_INODE..).zip(spec.directories.iter().map(|directory| directory.mode));
        for (number, mode) in [(ROOT_INODE, 0o755)].into_iter().chain(modes) {
            let (entries, links) = match number {
                ROOT_INODE => (children.clone(), 2 + children.len()),
                _ => (Vec::new(), 2),
            };
            let links = u16::try_from(links).unwrap_or(u16::MAX);
            let mut inode = blank(Kind::Directory.mode() | mode, links, EXTENTS, spec.created);
            let place = self.with_blocks(number, 1, &mut inode)?;
            self.store(number, &inode);
            let mut directory = Directory { inode: number, parent: ROOT_INODE, entries };
            let plan = directory.plan(&self.superblock.hash_seed)?;
            let device = &mut self.area.device;
            directory.blocks(&plan, self.seed, |block| device.write(place, block))?;
        }
        Ok(())
    }

    fn journal(&mut self, spec: &ScratchSpec<'_>) -> Result<(), WriteError> {
        let count = journal::blocks(self.superblock.blocks);
        let mut inode = blank(Kind::File.mode() | 0o600, 1, EXTENTS, spec.created);
        let place = self.with_blocks(JOURNAL_INODE, count, &mut inode)?;
        self.store(JOURNAL_INODE, &inode);
        // At most 16 MiB.
        let size = u32::try_from(inode.size).unwrap_or(u32::MAX);
        self.superblock.journal = Some(JournalBackup { content: inode.content, size });
        self.area.device.write(place, &journal::superblock(&spec.uuid, count))
    }

    fn resize_inode(&mut self, spec: &ScratchSpec<'_>) -> Result<(), WriteError> {
        let block = self.area.allocator.block()?;
        self.map.mark(Run { start: block, count: 1 });
        let resize = ResizeInode::new(&self.superblock, block);
        resize.write(&mut self.area.device)?;
        let inode = Inode {
            content: resize.content(),
            blocks: resize.blocks(),
            size: ResizeInode::SIZE,
            ..blank(Kind::File.mode() | 0o600, 1, 0, spec.created)
        };
        self.store(RESIZE_INODE, &inode);
        Ok(())
    }

    fn write_inodes(&mut self) -> Result<(), WriteError> {
        let bytes = self.inodes.concat();
        self.area.device.write_all(self.groups[0].inode_table, &bytes)
    }

    fn bitmaps(&mut self) -> Result<(), WriteError> {
        let (blocks, inodes) = (self.superblock.blocks, self.superblock.inodes_per_group);
        let copy = self.superblock.copy_blocks();
        let last = self.superblock.groups() - 1;
        let placed_end = self.area.allocator.end();
        let used = self.inodes.len();
        for (number, group) in (0..).zip(&mut self.groups) {
            let (bitmap, free) = self.map.group(number, blocks);
            group.free_blocks = free;
            group.free_inodes = inodes;
            group.unused_inodes = inodes;
            group.flags = INODE_ZEROED | INODE_UNINIT;
            if number > 0 && number < last && number * BLOCKS_PER_GROUP >= placed_end {
                let copy = if has_superblock(number) { copy } else { 0 };
                debug_assert_eq!(free, BLOCKS_PER_GROUP - copy);
                group.flags |= BLOCK_UNINIT;
            } else {
                group.block_bitmap_checksum = self.seed.with(&*bitmap).get();
                self.area.device.write(group.block_bitmap, &bitmap)?;
            }
            if number == 0 {
                let used = u32::try_from(used).unwrap_or(u32::MAX);
                group.free_inodes = inodes - used;
                group.unused_inodes = inodes - used;
                group.directories = used - (FIRST_INODE - 1) + 1;
                group.flags = INODE_ZEROED;
                let bitmap = inode_bitmap(used, inodes);
                let bytes = inodes as usize / 8;
                group.inode_bitmap_checksum = self.seed.with(&bitmap[..bytes]).get();
                self.area.device.write(group.inode_bitmap, &bitmap)?;
            }
        }
        Ok(())
    }
}

fn blank(mode: u16, links: u16, flags: u32, created: i64) -> Inode {
    let time = Timestamp { seconds: created, nanoseconds: 0 };
    Inode {
        mode,
        user: 0,
        group: 0,
        size: 0,
        accessed: time,
        changed: time,
        modified: time,
        links,
        blocks: 0,
        flags,
        version: 0,
        content: [0; 60],
        attribute_block: 0,
    }
}
