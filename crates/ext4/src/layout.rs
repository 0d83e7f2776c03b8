//! Numbers the nodes and places what lies behind the file contents but the tables.

use crate::{
    Kind, NodeId, Tree, WriteError,
    allocator::{BlockMap, Run},
    checksum::Checksum,
    data::{DataArea, FileData},
    directory::{Directory, Entry, Plan},
    extent::tree_blocks,
    geometry::{
        BLOCK_BYTES, BLOCK_SIZE, BLOCKS_PER_GROUP, FIRST_INODE, ROOT_INODE, has_superblock,
    },
    superblock::hash_seed,
    xattr::{MAX_SHARED, ValueInode},
};

/// The longest target that the inode itself holds, plus one.
pub(crate) const SHORT_SYMLINK: u64 = 60;
/// More names than this no node may have (`EXT4_LINK_MAX`).
const MAX_LINKS: u32 = 65000;

/// The value of an attribute that has an inode of its own.
#[derive(Debug)]
pub(crate) struct Value {
    pub(crate) hash: u32,
    /// How many attribute blocks refer to it.
    pub(crate) references: u32,
    pub(crate) data: FileData,
}

/// Where a set of attributes is.
#[derive(Clone, Default, Debug)]
pub(crate) struct PlacedSet {
    /// Its blocks, used in turn by [`MAX_SHARED`] nodes each; none if the inode holds the set.
    pub(crate) blocks: Vec<u32>,
    /// How many blocks the values fill that have inodes of their own. Every node that has such
    /// an attribute counts them as its own.
    pub(crate) value_blocks: u64,
}

/// A tree whose nodes have numbers and places.
#[derive(Debug)]
pub(crate) struct Layout<'f> {
    pub(crate) tree: Tree,
    pub(crate) area: DataArea<'f>,
    pub(crate) seed: Checksum,
    pub(crate) hash_seed: [u32; 4],
    /// Blocks in use.
    pub(crate) map: BlockMap,
    /// The nodes in the order of their numbers: the root, then those from [`FIRST_INODE`] on.
    pub(crate) order: Vec<NodeId>,
    /// Where each set of attributes is.
    pub(crate) attributes: Vec<PlacedSet>,
    /// Their inodes follow those of the nodes.
    pub(crate) values: Vec<Value>,
    /// Where blocks of extent trees go.
    pub(crate) extent_blocks: Vec<Run>,
}

impl<'f> Layout<'f> {
    /// Lays out everything up to the tables.
    pub(crate) fn place(
        tree: Tree,
        area: DataArea<'f>,
        uuid: [u8; 16],
    ) -> Result<Self, WriteError> {
        let data_end = area.allocator.end();
        let mut layout = Self {
            tree,
            area,
            seed: Checksum::seed(&uuid),
            hash_seed: hash_seed(&uuid),
            map: BlockMap::default(),
            order: Vec::new(),
            attributes: Vec::new(),
            values: Vec::new(),
            extent_blocks: Vec::new(),
        };
        let directories = layout.number()?;
        for directory in directories {
            layout.place_directory(directory)?;
        }
        layout.place_symlinks()?;
        layout.place_attributes()?;
        layout.place_extent_blocks()?;
        layout.mark();
        layout.discard_unused(data_end)?;
        Ok(layout)
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> u32 {
        // Numbers are of 32 bits.
        u32::try_from(self.order.len()).unwrap_or(u32::MAX)
    }

    /// The number of the first inode that holds an attribute's value.
    pub(crate) fn first_value(&self) -> u32 {
        FIRST_INODE + self.nodes() - 1
    }

    /// The number of the last inode.
    pub(crate) fn last_inode(&self) -> u32 {
        self.first_value() + u32::try_from(self.values.len()).unwrap_or(u32::MAX) - 1
    }

    /// Numbers what is reached from the root, breadth first, and counts links. Returns the
    /// directories in that order.
    fn number(&mut self) -> Result<Vec<NodeId>, WriteError> {
        let root = self.tree.root();
        let mut directories = vec![root];
        let mut next = FIRST_INODE;
        self.order.push(root);
        let node = self.tree.node_mut(root);
        // Its own `.` and `..`; other directories have a name instead of the latter.
        (node.number, node.links) = (ROOT_INODE, 2);
        let mut position = 0;
        while let Some(directory) = directories.get(position).copied() {
            position += 1;
            let children: Vec<NodeId> =
                sorted_children(&self.tree, directory).into_iter().map(|(_, node)| node).collect();
            for (index, child) in children.into_iter().enumerate() {
                let node = self.tree.node_mut(child);
                node.links += 1;
                if node.number == 0 {
                    node.number = next;
                    next = next.checked_add(1).ok_or(WriteError::TooManyEntries)?;
                    self.order.push(child);
                }
                if node.kind() == Kind::Directory {
                    node.links += 1;
                    directories.push(child);
                    self.tree.node_mut(directory).links += 1;
                } else if node.links > MAX_LINKS {
                    let name = self.path(directory, index);
                    return Err(WriteError::TooManyLinks { name, limit: MAX_LINKS });
                }
            }
        }
        Ok(directories)
    }

    /// The path of a directory's entry, by its place among the others.
    fn path(&self, directory: NodeId, index: usize) -> String {
        let children = sorted_children(&self.tree, directory);
        let mut names: Vec<&[u8]> =
            children.get(index).map(|(name, _)| *name).into_iter().collect();
        let mut above = self.tree.directory_entry(directory);
        while let Some(entry) = above {
            names.push(self.tree.name(entry));
            above = self.tree.directory_entry(self.tree.directory(entry));
        }
        names.reverse();
        String::from_utf8_lossy(&names.join(&b'/')).into_owned()
    }

    fn place_directory(&mut self, id: NodeId) -> Result<(), WriteError> {
        let tree = &self.tree;
        let parent = tree.directory_entry(id).map_or(id, |entry| tree.directory(entry));
        let entry = |(name, child): (_, NodeId)| {
            let child = tree.node(child);
            Entry { name, inode: child.number, kind: child.kind() }
        };
        let entries = sorted_children(tree, id).into_iter().map(entry).collect();
        let (inode, parent) = (tree.node(id).number, tree.node(parent).number);
        let mut directory = Directory { inode, parent, entries };
        let plan: Plan = directory.plan(&self.hash_seed)?;

        let first = self.area.extents.len();
        // An index reaches at most 258,570 leaves.
        let count = u32::try_from(plan.blocks()).unwrap_or(u32::MAX);
        self.area.extend(first, 0, count)?;
        let data = self.area.data(first, u64::from(count) * BLOCK_BYTES)?;
        let DataArea { extents, device, .. } = &mut self.area;
        let mut places = extents[first..]
            .iter()
            .flat_map(|extent| extent.physical..extent.physical + extent.count);
        directory.blocks(&plan, self.seed, |block| match places.next() {
            Some(place) => device.write(place, block),
            None => Ok(()),
        })?;
        self.tree.node_mut(id).set_data(data);
        Ok(())
    }

    fn place_symlinks(&mut self) -> Result<(), WriteError> {
        for id in &self.order {
            if let Some(target) = self.tree.symlink_target(*id)
                && target.len() as u64 >= SHORT_SYMLINK
            {
                let first = self.area.extents.len();
                let block = self.area.extend(first, 0, 1)?;
                self.area.device.write_all(block, target)?;
                let data = self.area.data(first, target.len() as u64)?;
                self.tree.node_mut(*id).set_data(data);
            }
        }
        Ok(())
    }

    fn place_attributes(&mut self) -> Result<(), WriteError> {
        let sets = std::mem::take(&mut self.tree.attributes);
        let mut uses = vec![0_u32; sets.len()];
        for id in &self.order {
            if let Some(set) = self.tree.node(*id).attributes.checked_sub(1) {
                uses[set as usize] += 1;
            }
        }
        self.attributes = vec![PlacedSet::default(); sets.len()];
        for ((set, uses), placed) in sets.iter().zip(uses).zip(&mut self.attributes) {
            if uses == 0 || set.fits_inode() {
                continue;
            }
            let mut elsewhere = Vec::new();
            for index in set.values_elsewhere()? {
                let value = &set.0[index].value;
                let number = FIRST_INODE - 1
                    + u32::try_from(self.order.len() + self.values.len())
                        .map_err(|_| WriteError::TooManyEntries)?;
                let hash = self.seed.with(value).get();
                let first = self.area.extents.len();
                for (logical, block) in (0..).zip(value.chunks(BLOCK_SIZE)) {
                    let place = self.area.extend(first, logical, 1)?;
                    self.area.device.write_all(place, block)?;
                }
                let data = self.area.data(first, value.len() as u64)?;
                placed.value_blocks += data.size.div_ceil(BLOCK_BYTES);
                self.values.push(Value { hash, references: uses.div_ceil(MAX_SHARED), data });
                elsewhere.push((index, ValueInode { number, hash }));
            }
            let find = |index| elsewhere.iter().find(|(at, _)| *at == index).map(|(_, v)| *v);
            for rest in (0..uses.div_ceil(MAX_SHARED)).map(|block| uses - block * MAX_SHARED) {
                let number = self.area.allocator.block()?;
                let block = set.block(number, rest.min(MAX_SHARED), self.seed, find);
                self.area.device.write(number, &block)?;
                placed.blocks.push(number);
            }
        }
        self.tree.attributes = sets;
        Ok(())
    }

    /// Whether a node's `first` and `count` are extents.
    pub(crate) fn has_extents(&self, id: NodeId) -> bool {
        let node = self.tree.node(id);
        match node.kind() {
            Kind::File | Kind::Directory => true,
            Kind::Symlink => node.size >= SHORT_SYMLINK,
            _ => false,
        }
    }

    fn extent_lists(&self) -> impl Iterator<Item = FileData> {
        let nodes = self.order.iter().filter(|id| self.has_extents(**id));
        nodes.map(|id| self.tree.node(*id).data()).chain(self.values.iter().map(|value| value.data))
    }

    fn place_extent_blocks(&mut self) -> Result<(), WriteError> {
        let mut wanted =
            self.extent_lists().map(|data| tree_blocks(data.count as usize)).sum::<u32>();
        while wanted > 0 {
            let run = self.area.allocator.run(wanted)?;
            wanted -= run.count;
            self.extent_blocks.push(run);
        }
        Ok(())
    }

    fn mark(&mut self) {
        let mut map = std::mem::take(&mut self.map);
        for data in self.extent_lists() {
            for extent in self.area.extents(data) {
                map.mark(Run { start: extent.physical, count: extent.count });
            }
        }
        for block in self.attributes.iter().flat_map(|set| &set.blocks) {
            map.mark(Run { start: *block, count: 1 });
        }
        for run in &self.extent_blocks {
            map.mark(*run);
        }
        self.map = map;
    }

    /// Makes holes of file contents that no node refers to any more.
    fn discard_unused(&mut self, data_end: u32) -> Result<(), WriteError> {
        let reserved = self.area.allocator.reserved();
        for run in self.map.unused(data_end) {
            // Nothing was written where copies of the superblock go.
            let group = run.start / BLOCKS_PER_GROUP;
            let copy_end = match has_superblock(group) {
                true => group * BLOCKS_PER_GROUP + reserved,
                false => 0,
            };
            let (start, end) = (run.start.max(copy_end), run.start + run.count);
            if start < end {
                self.area.device.discard(Run { start, count: end - start })?;
            }
        }
        Ok(())
    }
}

/// A directory's entries by name.
fn sorted_children(tree: &Tree, directory: NodeId) -> Vec<(&[u8], NodeId)> {
    let mut children: Vec<_> =
        tree.children(directory).map(|entry| (tree.name(entry), tree.target(entry))).collect();
    children.sort_unstable_by_key(|(name, _)| *name);
    children
}
