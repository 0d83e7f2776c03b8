//! What a file system's nodes are made of.

use crate::data::FileData;

/// A moment, in seconds and nanoseconds since 1970 in UTC.
///
/// ext4 holds the years 1901 to 2446; others become the nearest that it holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// What comes on top, 0 to 999,999,999.
    pub nanoseconds: u32,
}

/// What every node has.
#[derive(Clone, Default, Debug)]
pub struct Metadata {
    /// The lower twelve bits of the mode: permissions, setuid, setgid, sticky.
    pub mode: u16,
    /// The owning user.
    pub user: u32,
    /// The owning group.
    pub group: u32,
    /// When the content was last modified.
    pub modified: Timestamp,
    /// When it was last read; [`Metadata::modified`] where there is none.
    pub accessed: Option<Timestamp>,
    /// When the node was last changed; [`Metadata::modified`] where there is none.
    pub changed: Option<Timestamp>,
    /// Extended attributes: names with their prefix, values as `setxattr` takes them.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a node is and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// A directory, empty at first.
    Directory,
    /// A file, its content written before.
    File(FileData),
    /// A symbolic link with its target, 1 to 4095 bytes.
    Symlink(&'a [u8]),
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// The number of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    /// Which driver, 12 bits.
    pub major: u32,
    /// Which of its devices, 20 bits.
    pub minor: u32,
}

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Directory,
        Self::File,
        Self::Symlink,
        Self::CharacterDevice,
        Self::BlockDevice,
        Self::Fifo,
        Self::Socket,
    ];

    /// The type bits of the mode.
    pub(crate) fn mode(self) -> u16 {
        match self {
            Self::Fifo => 0x1000,
            Self::CharacterDevice => 0x2000,
            Self::Directory => 0x4000,
            Self::BlockDevice => 0x6000,
            Self::File => 0x8000,
            Self::Symlink => 0xa000,
            Self::Socket => 0xc000,
        }
    }

    /// The type as directory entries have it.
    pub(crate) fn file_type(self) -> u8 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::CharacterDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
        }
    }

    pub(crate) fn of_mode(mode: u16) -> Self {
        let fits = |kind: &Self| kind.mode() == mode & 0xf000;
        Self::ALL.into_iter().find(fits).unwrap_or(Self::File)
    }
}

impl Content<'_> {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Directory => Kind::Directory,
            Self::File(_) => Kind::File,
            Self::Symlink(_) => Kind::Symlink,
            Self::CharacterDevice(_) => Kind::CharacterDevice,
            Self::BlockDevice(_) => Kind::BlockDevice,
            Self::Fifo => Kind::Fifo,
            Self::Socket => Kind::Socket,
        }
    }
}

impl Device {
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.major) << 32 | u64::from(self.minor)
    }
}
