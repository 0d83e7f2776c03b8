//! What can go wrong while a file system is written.

use std::io;

/// Why an image could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// An operation on the image file failed.
    #[error("cannot {operation} the file system image")]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The content needs more blocks than the image's group descriptors have room for.
    #[error("the content needs a file system of more than {limit} bytes")]
    ImageTooLarge {
        /// The largest image.
        limit: u64,
    },
    /// A file ends beyond what block numbers of 32 bits reach.
    #[error("a file of more than {limit} bytes does not fit in ext4")]
    FileTooLarge {
        /// The largest file.
        limit: u64,
    },
    /// The tree has more names or nodes than fit in 32 bits.
    #[error("the tree has too many entries")]
    TooManyEntries,
    /// A directory has more entries than its index can hold.
    #[error("a directory of {entries} entries does not fit in a two-level index")]
    DirectoryTooLarge {
        /// How many entries it has.
        entries: usize,
    },
    /// The extended attributes of one node do not fit in a block even when their values are
    /// stored elsewhere.
    #[error("{count} extended attributes do not fit in a block")]
    TooManyAttributes {
        /// How many there are.
        count: usize,
    },
    /// A node has more names than its link count can say.
    #[error("{name:?} is one hard link too many to one file: ext4 allows {limit}")]
    TooManyLinks {
        /// The path of the first name that is too many.
        name: String,
        /// How many it may have.
        limit: u32,
    },
    /// A disk of this size cannot be formatted.
    #[error("{size} bytes: the size must be between {minimum} and {maximum} bytes")]
    DiskSize {
        /// What was asked for.
        size: u64,
        /// The smallest.
        minimum: u64,
        /// The largest.
        maximum: u64,
    },
}

/// Why an entry cannot be added to a tree.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The name is empty, `.` or `..`, or has a slash or a zero byte in it.
    #[error("the name is not one that a directory entry can have")]
    Name,
    /// The name has more than 255 bytes.
    #[error("the name has {0} bytes, more than the 255 that ext4 allows")]
    NameTooLong(usize),
    /// The symbolic link's target is empty, has more than 4095 bytes, or a zero byte in it.
    #[error("a symbolic link's target must have 1 to 4095 bytes and no zero byte")]
    SymlinkTarget,
    /// An extended attribute is too long: a name of more than 255 bytes, a value of more than
    /// 64 KiB.
    #[error("the extended attribute {0:?} is too long")]
    AttributeTooLong(String),
    /// A POSIX ACL is not in the form that the kernel's extended attribute has.
    #[error("the POSIX ACL in {0:?} is malformed")]
    AccessControlList(String),
    /// More than 2³² bytes of names or nodes.
    #[error("the tree has too many entries")]
    TooManyEntries,
}
