//! The names and nodes of a file system while it is put together, in few bytes each.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use hashbrown::HashTable;

use crate::{Content, Kind, Metadata, Timestamp, TreeError, data::FileData, xattr::AttributeSet};

const NONE: u32 = u32::MAX;

/// A node of a [`Tree`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(crate) u32);

/// A name in a directory of a [`Tree`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId(u32);

/// The node's fields; what `first` and `count` mean depends on its kind.
///
/// | kind | size | first | count |
/// |---|---|---|---|
/// | file | bytes | first extent | extents |
/// | symlink | bytes | where its target starts among the names | |
/// | directory | | its first child entry | its own entry |
/// | device | its number | | |
///
/// Once the image is laid out, `first` and `count` are extents for symlinks and directories too.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) modified: Timestamp,
    pub(crate) size: u64,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// One more than the index of its attributes; 0 if it has none.
    pub(crate) attributes: u32,
    /// Its inode number and link count, once it has them.
    pub(crate) number: u32,
    pub(crate) links: u32,
    pub(crate) mode: u16,
}

#[derive(Debug)]
struct Entry {
    directory: u32,
    node: u32,
    /// The next entry of the same directory.
    next: u32,
    name: u32,
    name_length: u8,
    mark: u16,
}

/// A tree of names and nodes, starting with a root directory.
///
/// A directory's entries carry a mark, which means something only to the caller: a layer's number,
/// for instance. A node without an entry that leads to it from the root is not written.
#[derive(Debug)]
pub struct Tree {
    pub(crate) nodes: Vec<Node>,
    entries: Vec<Entry>,
    /// Names and symbolic links' targets.
    bytes: Vec<u8>,
    lookup: HashTable<u32>,
    hasher: RandomState,
    pub(crate) attributes: Vec<AttributeSet>,
    attribute_lookup: HashTable<u32>,
    /// Access and change times, where they are not the modification time.
    pub(crate) times: HashMap<u32, (Timestamp, Timestamp)>,
}

impl Node {
    pub(crate) fn kind(&self) -> Kind {
        Kind::of_mode(self.mode)
    }

    pub(crate) fn data(&self) -> FileData {
        FileData { size: self.size, first: self.first, count: self.count }
    }

    pub(crate) fn set_data(&mut self, data: FileData) {
        (self.size, self.first, self.count) = (data.size, data.first, data.count);
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A tree of an empty root directory, mode 0755 and root's.
    #[must_use]
    pub fn new() -> Self {
        let root = Node {
            modified: Timestamp::default(),
            size: 0,
            user: 0,
            group: 0,
            first: NONE,
            count: NONE,
            attributes: 0,
            number: 0,
            links: 0,
            mode: Kind::Directory.mode() | 0o755,
        };
        Self {
            nodes: vec![root],
            entries: Vec::new(),
            bytes: Vec::new(),
            lookup: HashTable::new(),
            hasher: RandomState::new(),
            attributes: Vec::new(),
            attribute_lookup: HashTable::new(),
            times: HashMap::new(),
        }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> NodeId {
        NodeId(0)
    }

    /// What a node is.
    #[must_use]
    pub fn kind(&self, node: NodeId) -> Kind {
        self.node(node).kind()
    }

    /// The lower twelve bits of a node's mode.
    #[must_use]
    pub fn mode(&self, node: NodeId) -> u16 {
        self.node(node).mode & 0o7777
    }

    /// When a node's content was last modified.
    #[must_use]
    pub fn modified(&self, node: NodeId) -> Timestamp {
        self.node(node).modified
    }

    /// The target of a symbolic link; nothing for other nodes.
    #[must_use]
    pub fn symlink_target(&self, node: NodeId) -> Option<&[u8]> {
        let node = self.node(node);
        let length = usize::try_from(node.size).unwrap_or(usize::MAX);
        (node.kind() == Kind::Symlink).then(|| &self.bytes[node.first as usize..][..length])
    }

    /// The entry that leads to a directory; none for the root and for other nodes.
    #[must_use]
    pub fn directory_entry(&self, directory: NodeId) -> Option<EntryId> {
        let node = self.node(directory);
        (node.kind() == Kind::Directory && node.count != NONE).then_some(EntryId(node.count))
    }

    /// The entry of this name in a directory.
    #[must_use]
    pub fn find(&self, directory: NodeId, name: &[u8]) -> Option<EntryId> {
        let hash = self.hasher.hash_one((directory.0, name));
        let is_it = |id: &u32| {
            self.entries[*id as usize].directory == directory.0 && self.name(EntryId(*id)) == name
        };
        self.lookup.find(hash, is_it).map(|id| EntryId(*id))
    }

    /// The node that an entry leads to.
    #[must_use]
    pub fn target(&self, entry: EntryId) -> NodeId {
        NodeId(self.entries[entry.0 as usize].node)
    }

    /// The directory that an entry is in.
    #[must_use]
    pub fn directory(&self, entry: EntryId) -> NodeId {
        NodeId(self.entries[entry.0 as usize].directory)
    }

    /// An entry's name.
    #[must_use]
    pub fn name(&self, entry: EntryId) -> &[u8] {
        let entry = &self.entries[entry.0 as usize];
        &self.bytes[entry.name as usize..][..usize::from(entry.name_length)]
    }

    /// An entry's mark.
    #[must_use]
    pub fn mark(&self, entry: EntryId) -> u16 {
        self.entries[entry.0 as usize].mark
    }

    /// Changes an entry's mark.
    pub fn set_mark(&mut self, entry: EntryId, mark: u16) {
        self.entries[entry.0 as usize].mark = mark;
    }

    /// The entries of a directory, in no particular order; none for other nodes.
    pub fn children(&self, directory: NodeId) -> impl Iterator<Item = EntryId> {
        let node = self.node(directory);
        let mut next = if node.kind() == Kind::Directory { node.first } else { NONE };
        std::iter::from_fn(move || {
            while next != NONE {
                let id = next;
                let entry = &self.entries[id as usize];
                next = entry.next;
                if entry.node != NONE {
                    return Some(EntryId(id));
                }
            }
            None
        })
    }

    /// Makes a node of its own and lets the name in the directory lead to it, instead of what it
    /// led to before.
    ///
    /// # Errors
    /// [`TreeError`]; the tree is then as it was.
    ///
    /// # Panics
    /// If `directory` is no directory.
    pub fn insert(
        &mut self,
        directory: NodeId,
        name: &[u8],
        content: Content<'_>,
        metadata: &Metadata,
        mark: u16,
    ) -> Result<EntryId, TreeError> {
        check_name(name)?;
        let attributes = self.add_attributes(&metadata.attributes)?;
        let (size, first, count) = match content {
            Content::Directory => (0, NONE, NONE),
            Content::File(data) => (data.size, data.first, data.count),
            Content::Symlink(target) => {
                if target.is_empty() || target.len() > 4095 || target.contains(&0) {
                    return Err(TreeError::SymlinkTarget);
                }
                (target.len() as u64, self.add_bytes(target)?, 0)
            }
            Content::CharacterDevice(device) | Content::BlockDevice(device) => {
                (device.pack(), 0, 0)
            }
            Content::Fifo | Content::Socket => (0, 0, 0),
        };
        let node = NodeId(next_id(self.nodes.len())?);
        self.nodes.push(Node {
            modified: metadata.modified,
            size,
            user: metadata.user,
            group: metadata.group,
            first,
            count,
            attributes,
            number: 0,
            links: 0,
            mode: mode(content.kind(), metadata),
        });
        self.set_times(node, metadata);
        self.link(directory, name, node, mark)
    }

    /// Lets the name in the directory lead to an existing node, instead of what it led to before.
    ///
    /// # Errors
    /// [`TreeError`]; the tree is then as it was.
    ///
    /// # Panics
    /// If `directory` is no directory, or `node` one that a name leads to already.
    pub fn link(
        &mut self,
        directory: NodeId,
        name: &[u8],
        node: NodeId,
        mark: u16,
    ) -> Result<EntryId, TreeError> {
        assert_eq!(self.kind(directory), Kind::Directory, "names are in directories");
        assert!(self.directory_entry(node).is_none(), "a directory has one name");
        check_name(name)?;
        let id = match self.find(directory, name) {
            Some(id) => {
                let entry = &mut self.entries[id.0 as usize];
                (entry.node, entry.mark) = (node.0, mark);
                id
            }
            None => self.add_entry(directory, name, node, mark)?,
        };
        if self.kind(node) == Kind::Directory {
            self.nodes[node.0 as usize].count = id.0;
        }
        Ok(id)
    }

    fn add_entry(
        &mut self,
        directory: NodeId,
        name: &[u8],
        node: NodeId,
        mark: u16,
    ) -> Result<EntryId, TreeError> {
        let id = next_id(self.entries.len())?;
        let name_length = u8::try_from(name.len()).map_err(|_| TreeError::Name)?;
        let name_at = self.add_bytes(name)?;
        let next = std::mem::replace(&mut self.nodes[directory.0 as usize].first, id);
        self.entries.push(Entry {
            directory: directory.0,
            node: node.0,
            next,
            name: name_at,
            name_length,
            mark,
        });
        let Self { lookup, hasher, entries, bytes, .. } = self;
        lookup.insert_unique(hasher.hash_one((directory.0, name)), id, |id| {
            let entry = &entries[*id as usize];
            let name = &bytes[entry.name as usize..][..usize::from(entry.name_length)];
            hasher.hash_one((entry.directory, name))
        });
        Ok(EntryId(id))
    }

    /// Removes an entry, and with a directory all that is only reached through it.
    pub fn remove(&mut self, entry: EntryId) {
        let id = entry.0;
        let hash = self.hasher.hash_one((self.entries[id as usize].directory, self.name(entry)));
        if let Ok(found) = self.lookup.find_entry(hash, |other| *other == id) {
            found.remove();
        }
        self.entries[id as usize].node = NONE;
    }

    /// Gives a node other metadata, attributes included.
    ///
    /// # Errors
    /// [`TreeError`]; the node is then as it was.
    pub fn set_metadata(&mut self, node: NodeId, metadata: &Metadata) -> Result<(), TreeError> {
        let attributes = self.add_attributes(&metadata.attributes)?;
        let fields = &mut self.nodes[node.0 as usize];
        fields.modified = metadata.modified;
        fields.user = metadata.user;
        fields.group = metadata.group;
        fields.attributes = attributes;
        fields.mode = mode(fields.kind(), metadata);
        self.set_times(node, metadata);
        Ok(())
    }

    pub(crate) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.0 as usize]
    }

    fn set_times(&mut self, node: NodeId, metadata: &Metadata) {
        let or_modified = |time: Option<Timestamp>| time.unwrap_or(metadata.modified);
        let times = (or_modified(metadata.accessed), or_modified(metadata.changed));
        if times == (metadata.modified, metadata.modified) {
            self.times.remove(&node.0);
        } else {
            self.times.insert(node.0, times);
        }
    }

    fn add_bytes(&mut self, bytes: &[u8]) -> Result<u32, TreeError> {
        let at = next_id(self.bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(at)
    }

    fn add_attributes(&mut self, attributes: &[(Vec<u8>, Vec<u8>)]) -> Result<u32, TreeError> {
        if attributes.is_empty() {
            return Ok(0);
        }
        let set = AttributeSet::new(attributes)?;
        if set.0.is_empty() {
            return Ok(0);
        }
        let Self { attributes: sets, attribute_lookup, hasher, .. } = self;
        let hash = hasher.hash_one(&set);
        if let Some(found) = attribute_lookup.find(hash, |id| sets[*id as usize] == set) {
            return Ok(found + 1);
        }
        let id = next_id(sets.len())?;
        sets.push(set);
        attribute_lookup.insert_unique(hash, id, |id| hasher.hash_one(&sets[*id as usize]));
        Ok(id + 1)
    }
}

/// Linux has no permissions for symbolic links: it shows all.
fn mode(kind: Kind, metadata: &Metadata) -> u16 {
    let permissions = if kind == Kind::Symlink { 0o777 } else { metadata.mode & 0o7777 };
    kind.mode() | permissions
}

fn check_name(name: &[u8]) -> Result<(), TreeError> {
    if name.len() > 255 {
        return Err(TreeError::NameTooLong(name.len()));
    }
    if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') || name.contains(&0) {
        return Err(TreeError::Name);
    }
    Ok(())
}

fn next_id(length: usize) -> Result<u32, TreeError> {
    u32::try_from(length).ok().filter(|id| *id < NONE - 1).ok_or(TreeError::TooManyEntries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tree: &Tree, directory: NodeId) -> Vec<Vec<u8>> {
        let mut names: Vec<_> =
            tree.children(directory).map(|entry| tree.name(entry).to_vec()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_and_removes() {
        let mut tree = Tree::new();
        let (root, metadata) = (tree.root(), Metadata::default());
        let a = tree.insert(root, b"a", Content::Directory, &metadata, 1).unwrap();
        let b = tree.insert(tree.target(a), b"b", Content::Fifo, &metadata, 1).unwrap();
        tree.link(root, b"c", tree.target(b), 1).unwrap();
        assert_eq!(names(&tree, root), [b"a", b"c"]);
        let file = Content::File(FileData::EMPTY);
        assert_eq!(tree.insert(root, b"a", file, &metadata, 2).unwrap(), a);
        assert_eq!((tree.kind(tree.target(a)), tree.mark(a)), (Kind::File, 2));
        tree.remove(a);
        assert!(tree.find(root, b"a").is_none());
        assert_eq!(names(&tree, root), [b"c"]);
        let again = tree.insert(root, b"a", Content::Directory, &metadata, 3).unwrap();
        assert!(tree.children(tree.target(again)).next().is_none());
    }

    #[test]
    fn refuses_names() {
        let mut tree = Tree::new();
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            let (root, metadata) = (tree.root(), Metadata::default());
            assert!(tree.insert(root, name, Content::Fifo, &metadata, 0).is_err(), "{name:?}");
        }
    }
}
