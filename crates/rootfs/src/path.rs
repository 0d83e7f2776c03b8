//! Paths of archives: what they name, and where that is in the tree.

use costrel_ext4::{Content, EntryId, Kind, Metadata, NodeId, Tree, TreeError};

/// As many symbolic links as Linux follows in a path.
const MAX_SYMLINKS: u32 = 40;

/// Why an entry of an archive cannot be honoured.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The path leads out of the root directory.
    #[error("its path leads out of the root directory")]
    Escapes,
    /// The entry is the root directory, but not as one.
    #[error("the root must be a directory")]
    Root,
    /// A whiteout of no name.
    #[error("it is a whiteout of nothing")]
    Whiteout,
    /// Something on the way is neither a directory nor a link to one.
    #[error("{0:?} is not a directory")]
    NotADirectory(String),
    /// Too many symbolic links on the way.
    #[error("there are more than {MAX_SYMLINKS} symbolic links on the way")]
    SymlinkLoop,
    /// A hard link to what is not there.
    #[error("it is a hard link to {0:?}, which is not there")]
    LinkTarget(String),
    /// A hard link to a directory.
    #[error("it is a hard link to {0:?}, a directory")]
    LinkToDirectory(String),
    /// A path that the archive names twice.
    #[error("the archive has it twice")]
    Duplicate,
    /// An entry below a symbolic link, where none is allowed.
    #[error("{0:?}, a symbolic link, is on the way")]
    BelowSymlink(String),
    /// An entry that is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// A node that is neither a file, a directory nor a symbolic link.
    #[error("it is neither a file, a directory nor a symbolic link")]
    Special,
    /// It is larger than a file can be.
    #[error("it is larger than a file in ext4 can be, {limit} bytes")]
    TooLarge {
        /// The largest file.
        limit: u64,
    },
    /// It cannot be in a file system.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Takes a path apart, relative to the root whether or not it starts with a slash, and follows
/// `.` and `..` as written.
pub(crate) fn components(path: &[u8]) -> Result<Vec<&[u8]>, EntryError> {
    let mut components = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop().ok_or(EntryError::Escapes)?;
            }
            name => components.push(name),
        }
    }
    Ok(components)
}

/// What to do about directories on the way that are not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Missing {
    /// Make them.
    Create,
    /// Then there is nothing at that path either.
    Stop,
}

/// Finds the directory at a path of the tree, following symbolic links as if the tree's root
/// were the root. What it makes has the mark 0.
pub(crate) fn directory(
    tree: &mut Tree,
    path: &[&[u8]],
    missing: Missing,
) -> Result<Option<NodeId>, EntryError> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let mut here = tree.root();
    let mut symlinks = 0;
    // Only where a symbolic link was followed, what is left of the way must be owned.
    let mut rest: Vec<Vec<u8>> = Vec::new();
    let mut path = path.iter();
    loop {
        let owned = rest.pop();
        let Some(name) = owned.as_deref().or_else(|| path.next().copied()) else {
            return Ok(Some(here));
        };
        if name == b".." {
            here = tree.directory_entry(here).map_or(here, |entry| tree.directory(entry));
            continue;
        }
        let Some(entry) = tree.find(here, name) else {
            if missing == Missing::Stop {
                return Ok(None);
            }
            let metadata = Metadata { mode: 0o755, ..Metadata::default() };
            let entry = tree.insert(here, name, Content::Directory, &metadata, 0)?;
            here = tree.target(entry);
            continue;
        };
        let node = tree.target(entry);
        match (tree.kind(node), tree.symlink_target(node)) {
            (Kind::Directory, _) => here = node,
            (_, Some(target)) => {
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    return Err(EntryError::SymlinkLoop);
                }
                if target.starts_with(b"/") {
                    here = tree.root();
                }
                let parts = target.split(|byte| *byte == b'/');
                let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
                rest.extend(parts.map(<[u8]>::to_vec).rev());
            }
            _ if missing == Missing::Stop => return Ok(None),
            _ => return Err(EntryError::NotADirectory(text(name))),
        }
    }
}

/// Marks a directory and those above it: something of this mark is below them.
pub(crate) fn mark_upwards(tree: &mut Tree, directory: NodeId, mark: u16) {
    let mut next = tree.directory_entry(directory);
    while let Some(entry) = next.filter(|entry| tree.mark(*entry) != mark) {
        tree.set_mark(entry, mark);
        next = tree.directory_entry(tree.directory(entry));
    }
}

/// Removes an entry and what is below it, but not what has this mark.
pub(crate) fn remove_unmarked(tree: &mut Tree, entry: EntryId, mark: u16) {
    let mut entries = vec![entry];
    while let Some(entry) = entries.pop() {
        if tree.mark(entry) == mark {
            entries.extend(tree.children(tree.target(entry)));
        } else {
            tree.remove(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_paths_apart() {
        let path = |text: &'static str| components(text.as_bytes());
        assert_eq!(path("./a//b/").unwrap(), [b"a", b"b"]);
        assert_eq!(path("/a/x/../b").unwrap(), [b"a", b"b"]);
        assert!(path("/").unwrap().is_empty());
        for escape in ["..", "a/../..", "/../a"] {
            assert!(matches!(path(escape), Err(EntryError::Escapes)), "{escape}");
        }
    }

    #[test]
    fn follows_symbolic_links_inside_the_root() {
        let mut tree = Tree::new();
        let (root, metadata) = (tree.root(), Metadata::default());
        for (name, target) in [("up", "../../real"), ("abs", "/up"), ("loop", "loop")] {
            let content = Content::Symlink(target.as_bytes());
            tree.insert(root, name.as_bytes(), content, &metadata, 0).unwrap();
        }
        let mut find = |path: &[&[u8]], missing| directory(&mut tree, path, missing);
        assert!(find(&[b"abs", b"sub"], Missing::Stop).unwrap().is_none());
        let made = find(&[b"abs", b"sub"], Missing::Create).unwrap().unwrap();
        assert_eq!(find(&[b"real", b"sub"], Missing::Stop).unwrap(), Some(made));
        assert!(matches!(find(&[b"loop"], Missing::Create), Err(EntryError::SymlinkLoop)));
    }
}
