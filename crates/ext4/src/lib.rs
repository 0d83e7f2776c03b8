//! Writes ext4 file systems into a file, without mounting and without root.
//!
//! An [`Image`] takes file contents as they come, each byte straight to its place, while names and
//! metadata gather in a [`Tree`] that may still change; [`Image::finish`] lays out the rest behind
//! the data. So whoever merges archives reads each of them once, and what a later one replaces
//! becomes a hole. Memory holds the tree, a hundred bytes or so an entry, and small buffers.
//!
//! ```text
//! superblock, descriptors | file contents … | directories, links, attributes, extent trees |
//!   bitmaps, inode tables          (copies of the superblock in groups 1 and 3ⁿ, 5ⁿ, 7ⁿ)
//! ```
//!
//! The same calls give the same bytes. Zero blocks are holes in the image file. An image has no
//! journal, nor spare room: it is for reading. [`format_scratch`] makes an empty disk to write to.
//!
//! What is written follows the kernel's `Documentation/filesystems/ext4`; the features are
//! extents, `flex_bg`, `64bit`, `metadata_csum` (CRC-32C), `dir_index` (half MD4), `ext_attr`,
//! `ea_inode` where a value needs it, `sparse_super`, `large_file`, `huge_file`, `dir_nlink` and
//! `extra_isize`.

mod allocator;
mod checksum;
mod data;
mod device;
mod directory;
mod error;
mod extent;
mod fields;
mod geometry;
mod hash;
mod image;
mod inode;
mod journal;
mod layout;
mod node;
mod resize;
mod scratch;
mod superblock;
mod tables;
mod tree;
mod verify;
mod xattr;

pub use data::{FileData, FileWriter};
pub use error::{TreeError, WriteError};
pub use image::{Image, ImageSpec, Written};
pub use node::{Content, Device, Kind, Metadata, Timestamp};
pub use scratch::{MAX_SCRATCH, MIN_SCRATCH, ScratchDirectory, ScratchSpec, format_scratch};
pub use tree::{EntryId, NodeId, Tree};
pub use verify::is_intact;
