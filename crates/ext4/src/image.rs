//! An image that is being put together.

use std::fs::File;

use crate::{
    Tree, WriteError,
    allocator::Allocator,
    data::{DataArea, FileWriter},
    device::Device,
    geometry::{BLOCKS_PER_GROUP, DESCRIPTORS_PER_BLOCK},
    layout::Layout,
    tables::Tables,
};

/// Blocks of descriptors for which room is left: enough for 512 GiB.
const DESCRIPTOR_BLOCKS: u32 = 64;
/// Where such an image ends, in blocks.
const LIMIT: u32 = DESCRIPTOR_BLOCKS * DESCRIPTORS_PER_BLOCK * BLOCKS_PER_GROUP;

/// What an image is told apart by.
#[derive(Clone, Debug)]
pub struct ImageSpec<'a> {
    /// Its UUID, of which checksums and the order of directory indexes depend.
    pub uuid: [u8; 16],
    /// Its label, of which the first 16 bytes count.
    pub label: &'a str,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

/// A file system on its way into a file.
#[derive(Debug)]
pub struct Image<'f> {
    tree: Tree,
    area: DataArea<'f>,
    spec: ImageSpec<'f>,
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The size of the file system and of its file, in bytes.
    pub size: u64,
    /// How many files, directories and other nodes it has.
    pub nodes: u32,
}

impl<'f> Image<'f> {
    /// Starts with an empty root directory. The file is emptied first.
    ///
    /// # Errors
    /// [`WriteError::Io`].
    pub fn create(file: &'f File, spec: ImageSpec<'f>) -> Result<Self, WriteError> {
        let area = DataArea {
            device: Device::new(file)?,
            allocator: Allocator::new(1 + DESCRIPTOR_BLOCKS, LIMIT),
            extents: Vec::new(),
        };
        Ok(Self { tree: Tree::new(), area, spec })
    }

    /// The names and nodes so far.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The same, to add to it and to remove from it.
    pub fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// Takes the content of a file that will be inserted into the tree afterwards. If it never
    /// is, the content's place becomes a hole.
    pub fn file(&mut self) -> FileWriter<'_, 'f> {
        FileWriter::new(&mut self.area)
    }

    /// Writes everything but the file contents, which are there already.
    ///
    /// # Errors
    /// [`WriteError`]; the file is then of no use.
    pub fn finish(self) -> Result<Written, WriteError> {
        let layout = Layout::place(self.tree, self.area, self.spec.uuid)?;
        let nodes = layout.nodes();
        let blocks = Tables::plan(&layout)?.write(layout, &self.spec)?;
        Ok(Written { size: u64::from(blocks) * crate::geometry::BLOCK_BYTES, nodes })
    }
}
