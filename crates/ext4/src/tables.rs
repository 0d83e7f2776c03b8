//! Places and writes the inode tables, the bitmaps and the superblock.

use crate::{
    ImageSpec, Kind, NodeId, WriteError,
    allocator::{Allocator, Run, inode_bitmap},
    data::DataArea,
    extent::{tree_blocks, write_tree},
    geometry::{
        BLOCK_BYTES, BLOCK_SIZE, BLOCKS_PER_GROUP, Block, FIRST_INODE, INODE_SIZE,
        INODES_PER_BLOCK, MAX_INODES_PER_GROUP, descriptor_blocks, has_superblock,
    },
    inode::{ATTRIBUTE_VALUE, EXTENTS, INDEXED, Inode, seal},
    layout::{Layout, Value},
    node::Timestamp,
    superblock::{Group, INODE_UNINIT, INODE_ZEROED, Superblock, creation_time, label},
    xattr::{INODE_ROOM, MAX_SHARED},
};

/// Where the tables go.
#[derive(Debug)]
pub(crate) struct Tables {
    groups: Vec<Group>,
    inodes_per_group: u32,
    blocks: u32,
}

impl Tables {
    /// Finds the smallest number of groups that hold everything.
    pub(crate) fn plan(layout: &Layout<'_>) -> Result<Self, WriteError> {
        let inodes = layout.last_inode();
        let allocator = &layout.area.allocator;
        let by_blocks = allocator.end().div_ceil(BLOCKS_PER_GROUP);
        let mut count = by_blocks.max(inodes.div_ceil(MAX_INODES_PER_GROUP)).max(1);
        loop {
            let tables = Self::with_groups(count, inodes, allocator.clone())?;
            if tables.blocks <= count * BLOCKS_PER_GROUP {
                return Ok(tables);
            }
            count += 1;
        }
    }

    fn with_groups(count: u32, inodes: u32, mut rest: Allocator) -> Result<Self, WriteError> {
        let inodes_per_group = inodes.div_ceil(count).next_multiple_of(INODES_PER_BLOCK);
        let mut groups = vec![Group::default(); count as usize];
        for group in &mut groups {
            group.block_bitmap = rest.block()?;
        }
        for group in &mut groups {
            group.inode_bitmap = rest.block()?;
        }
        for group in &mut groups {
            group.inode_table = rest.contiguous(inodes_per_group / INODES_PER_BLOCK)?.start;
        }
        // The last group must have room for its copy of the superblock.
        let last = count - 1;
        let least = if has_superblock(last) { 1 + descriptor_blocks(count) } else { 1 };
        let blocks = rest.end().max(last * BLOCKS_PER_GROUP + least);
        Ok(Self { groups, inodes_per_group, blocks })
    }

    /// Writes all that is left and returns the number of blocks.
    pub(crate) fn write(
        mut self,
        mut layout: Layout<'_>,
        spec: &ImageSpec<'_>,
    ) -> Result<u32, WriteError> {
        let value_inodes = !layout.values.is_empty();
        self.write_inodes(&mut layout)?;
        let mut superblock = Superblock {
            uuid: spec.uuid,
            hash_seed: layout.hash_seed,
            label: label(spec.label),
            created: creation_time(spec.created),
            blocks: self.blocks,
            free_blocks: 0,
            inodes_per_group: self.inodes_per_group,
            free_inodes: 0,
            reserved_descriptor_blocks: 0,
            journal: None,
            value_inodes,
        };
        self.write_bitmaps(&mut layout, &superblock)?;
        superblock.free_blocks = self.groups.iter().map(|group| group.free_blocks).sum();
        superblock.free_inodes = self.groups.iter().map(|group| group.free_inodes).sum();
        superblock.write(&self.groups, &mut layout.area.device)?;
        layout.area.device.finish(u64::from(self.blocks) * BLOCK_BYTES)?;
        Ok(self.blocks)
    }

    fn write_inodes(&mut self, layout: &mut Layout<'_>) -> Result<(), WriteError> {
        let mut encoder = Encoder {
            uses: vec![0; layout.attributes.len()],
            extent_blocks: layout.extent_blocks.clone().into_iter().flat_map(
                (|run: Run| run.start..run.start + run.count) as fn(Run) -> std::ops::Range<u32>,
            ),
        };
        let mut block: Block = [0; BLOCK_SIZE];
        let last = layout.last_inode();
        for number in 1..=last {
            let bytes = if number == crate::geometry::ROOT_INODE {
                encoder.node(layout, layout.order[0])?
            } else if number < FIRST_INODE {
                [0; INODE_SIZE]
            } else if number < layout.first_value() {
                encoder.node(layout, layout.order[(number - FIRST_INODE) as usize + 1])?
            } else {
                encoder.value(layout, number)?
            };
            let index = (number - 1) % self.inodes_per_group;
            let slot = (index % INODES_PER_BLOCK) as usize * INODE_SIZE;
            block[slot..slot + INODE_SIZE].copy_from_slice(&bytes);
            if index % INODES_PER_BLOCK == INODES_PER_BLOCK - 1 || number == last {
                let group = &self.groups[((number - 1) / self.inodes_per_group) as usize];
                let place = group.inode_table + index / INODES_PER_BLOCK;
                layout.area.device.write(place, &block)?;
                block = [0; BLOCK_SIZE];
            }
        }
        for id in &layout.order {
            let node = layout.tree.node(*id);
            if node.kind() == Kind::Directory {
                let group = (node.number - 1) / self.inodes_per_group;
                self.groups[group as usize].directories += 1;
            }
        }
        Ok(())
    }

    fn write_bitmaps(
        &mut self,
        layout: &mut Layout<'_>,
        superblock: &Superblock,
    ) -> Result<(), WriteError> {
        let last = layout.last_inode();
        let (map, seed) = (&mut layout.map, layout.seed);
        let table_blocks = self.inodes_per_group / INODES_PER_BLOCK;
        for (number, group) in (0..).zip(&self.groups) {
            for block in [group.block_bitmap, group.inode_bitmap] {
                map.mark(Run { start: block, count: 1 });
            }
            map.mark(Run { start: group.inode_table, count: table_blocks });
            if has_superblock(number) {
                let start = number * BLOCKS_PER_GROUP;
                map.mark(Run { start, count: superblock.copy_blocks() });
            }
        }
        for (number, group) in (0..).zip(&mut self.groups) {
            let (bitmap, free) = map.group(number, self.blocks);
            group.free_blocks = free;
            group.block_bitmap_checksum = seed.with(&*bitmap).get();
            layout.area.device.write(group.block_bitmap, &bitmap)?;

            let before = number * self.inodes_per_group;
            let used = last.saturating_sub(before).min(self.inodes_per_group);
            group.free_inodes = self.inodes_per_group - used;
            group.unused_inodes = group.free_inodes;
            group.flags = INODE_ZEROED;
            if used == 0 {
                group.flags |= INODE_UNINIT;
                continue;
            }
            let bitmap = inode_bitmap(used, self.inodes_per_group);
            let bytes = self.inodes_per_group as usize / 8;
            group.inode_bitmap_checksum = seed.with(&bitmap[..bytes]).get();
            layout.area.device.write(group.inode_bitmap, &bitmap)?;
        }
        Ok(())
    }
}

/// Turns nodes into inodes, in the order of their numbers.
struct Encoder<B> {
    /// How many nodes have had each set of attributes.
    uses: Vec<u32>,
    extent_blocks: B,
}

impl<B: Iterator<Item = u32>> Encoder<B> {
    fn node(
        &mut self,
        layout: &mut Layout<'_>,
        id: NodeId,
    ) -> Result<[u8; INODE_SIZE], WriteError> {
        let node = layout.tree.node(id);
        let (number, kind, size) = (node.number, node.kind(), node.size);
        let (accessed, changed) =
            layout.tree.times.get(&id.0).copied().unwrap_or((node.modified, node.modified));
        let mut inode = Inode {
            mode: node.mode,
            user: node.user,
            group: node.group,
            size,
            accessed,
            changed,
            modified: node.modified,
            // 1 says that a directory has more subdirectories than the field can count.
            links: u16::try_from(node.links).ok().filter(|links| *links < 65000).unwrap_or(1),
            blocks: 0,
            flags: 0,
            version: 0,
            content: [0; 60],
            attribute_block: 0,
        };
        if kind != Kind::Directory {
            inode.links = u16::try_from(node.links).unwrap_or(u16::MAX);
        }
        if kind == Kind::CharacterDevice || kind == Kind::BlockDevice {
            inode.size = 0;
            inode.content = device_number(size);
        }
        if let Some(target) = layout.tree.symlink_target(id).filter(|_| !layout.has_extents(id)) {
            inode.content[..target.len()].copy_from_slice(target);
        }
        let mut attributes = [0; INODE_ROOM];
        if let Some(set) = node.attributes.checked_sub(1) {
            let set = set as usize;
            let placed = &layout.attributes[set];
            if placed.blocks.is_empty() {
                attributes = layout.tree.attributes[set].inode_bytes();
            } else {
                inode.attribute_block = placed.blocks[(self.uses[set] / MAX_SHARED) as usize];
                inode.blocks += 1 + placed.value_blocks;
                self.uses[set] += 1;
            }
        }
        if layout.has_extents(id) {
            let data = node.data();
            self.extents(layout, number, data, &mut inode)?;
            if kind == Kind::Directory && data.size > BLOCK_SIZE as u64 {
                inode.flags |= INDEXED;
            }
        }
        let mut bytes = inode.encode();
        bytes[INODE_SIZE - INODE_ROOM..].copy_from_slice(&attributes);
        seal(&mut bytes, number, layout.seed);
        Ok(bytes)
    }

    fn extents(
        &mut self,
        layout: &mut Layout<'_>,
        number: u32,
        data: crate::FileData,
        inode: &mut Inode,
    ) -> Result<(), WriteError> {
        let DataArea { extents, device, .. } = &mut layout.area;
        let extents = &extents[data.first as usize..(data.first + data.count) as usize];
        let seed = layout.seed.inode(number);
        inode.content = write_tree(extents, seed, device, &mut self.extent_blocks)?;
        inode.flags |= EXTENTS;
        inode.blocks += u64::from(tree_blocks(extents.len()));
        inode.blocks += extents.iter().map(|extent| u64::from(extent.count)).sum::<u64>();
        Ok(())
    }

    fn value(
        &mut self,
        layout: &mut Layout<'_>,
        number: u32,
    ) -> Result<[u8; INODE_SIZE], WriteError> {
        let at = (number - layout.first_value()) as usize;
        let Value { hash, references, data } = layout.values[at];
        let zero = Timestamp::default();
        let mut inode = Inode {
            mode: Kind::File.mode() | 0o600,
            user: 0,
            group: 0,
            size: data.size,
            // The access time is the hash, the upper half of the references the change time.
            accessed: Timestamp { seconds: i64::from(hash.cast_signed()), nanoseconds: 0 },
            changed: zero,
            modified: zero,
            links: 1,
            blocks: 0,
            flags: ATTRIBUTE_VALUE,
            version: references,
            content: [0; 60],
            attribute_block: 0,
        };
        self.extents(layout, number, data, &mut inode)?;
        let mut bytes = inode.encode();
        seal(&mut bytes, number, layout.seed);
        Ok(bytes)
    }
}

/// A device's number as inodes have it: the old form where it fits.
fn device_number(packed: u64) -> [u8; 60] {
    let (major, minor) = (crate::fields::high32(packed), crate::fields::low32(packed));
    let mut content = [0; 60];
    if major < 256 && minor < 256 {
        crate::fields::put32(&mut content, 0, major << 8 | minor);
    } else {
        let number = minor & 0xff | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12;
        crate::fields::put32(&mut content, 4, number);
    }
    content
}
