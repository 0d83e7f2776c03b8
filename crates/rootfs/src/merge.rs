//! Puts the entries of layers on top of each other.

use std::io::BufRead;

use costrel_ext4::{Content, FileData, Image, Kind, NodeId, WriteError};

use crate::{
    path::{EntryError, Missing, components, directory, mark_upwards, remove_unmarked},
    tar::{Entry, EntryKind, Piece, TarError, TarReader},
};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What the AUFS driver kept for itself, and some layers have.
const AUFS: &[u8] = b".wh..wh.";

/// Why a layer cannot be put on the others.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive cannot be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry cannot be honoured.
    #[error("the entry {name:?} cannot be honoured")]
    Entry {
        /// Its path.
        name: String,
        /// Why not.
        #[source]
        source: EntryError,
    },
    /// The image cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Puts a layer on what the image has already. Layers are numbered from 1 on.
///
/// Whiteouts and opaque markers concern only what lower layers had, wherever in the layer they
/// come; among entries of the same layer the last one of a path counts.
pub(crate) fn apply(
    image: &mut Image<'_>,
    layer: u16,
    archive: &mut TarReader<impl BufRead>,
) -> Result<(), LayerError> {
    while let Some(entry) = archive.next()? {
        let failed = |source| LayerError::Entry {
            name: String::from_utf8_lossy(&entry.path).into_owned(),
            source,
        };
        let Some((parent, name)) = place(image, layer, &entry).map_err(failed)? else {
            continue;
        };
        let data = match &entry.kind {
            EntryKind::File => content(image, archive).map_err(|error| match error {
                LayerError::Write(WriteError::FileTooLarge { limit }) => {
                    failed(EntryError::TooLarge { limit })
                }
                other => other,
            })?,
            _ => FileData::EMPTY,
        };
        add(image, layer, &entry, parent, name, data).map_err(failed)?;
    }
    Ok(())
}

/// Where the entry goes: none if it is a whiteout, or the root, which is then dealt with.
fn place<'e>(
    image: &mut Image<'_>,
    layer: u16,
    entry: &'e Entry,
) -> Result<Option<(NodeId, &'e [u8])>, EntryError> {
    let tree = image.tree_mut();
    let mut parent = components(&entry.path)?;
    let Some(name) = parent.pop() else {
        if !matches!(entry.kind, EntryKind::Directory) {
            return Err(EntryError::Root);
        }
        tree.set_metadata(tree.root(), &entry.metadata)?;
        return Ok(None);
    };
    let is_aufs = |name: &&[u8]| name.starts_with(AUFS);
    if (is_aufs(&name) && name != OPAQUE) || parent.iter().any(is_aufs) {
        return Ok(None);
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryError::Whiteout);
        }
        let Some(parent) = directory(tree, &parent, Missing::Stop)? else {
            return Ok(None);
        };
        let hidden = match name {
            OPAQUE => tree.children(parent).collect(),
            _ => Vec::from_iter(tree.find(parent, hidden)),
        };
        for entry in hidden {
            remove_unmarked(tree, entry, layer);
        }
        return Ok(None);
    }
    let parent = directory(tree, &parent, Missing::Create)?;
    Ok(parent.map(|parent| (parent, name)))
}

fn content(
    image: &mut Image<'_>,
    archive: &mut TarReader<impl BufRead>,
) -> Result<FileData, LayerError> {
    let mut file = image.file();
    archive.content(|piece| -> Result<(), LayerError> {
        match piece {
            Piece::Data(bytes) => file.write(bytes)?,
            Piece::Hole(count) => file.skip(count)?,
        }
        Ok(())
    })?;
    Ok(file.finish()?)
}

fn add(
    image: &mut Image<'_>,
    layer: u16,
    entry: &Entry,
    parent: NodeId,
    name: &[u8],
    data: FileData,
) -> Result<(), EntryError> {
    let tree = image.tree_mut();
    let content = match &entry.kind {
        EntryKind::Directory => {
            let old = tree.find(parent, name).map(|entry| (entry, tree.target(entry)));
            if let Some((old, node)) = old
                && tree.kind(node) == Kind::Directory
            {
                tree.set_metadata(node, &entry.metadata)?;
                tree.set_mark(old, layer);
                mark_upwards(tree, parent, layer);
                return Ok(());
            }
            Content::Directory
        }
        EntryKind::HardLink(target) => {
            let replaced = tree.find(parent, name).map(|entry| tree.target(entry));
            let node = linked(image, target, replaced)?;
            let tree = image.tree_mut();
            tree.link(parent, name, node, layer)?;
            mark_upwards(tree, parent, layer);
            return Ok(());
        }
        EntryKind::File => Content::File(data),
        EntryKind::Symlink(target) => Content::Symlink(target),
        EntryKind::CharacterDevice(device) => Content::CharacterDevice(*device),
        EntryKind::BlockDevice(device) => Content::BlockDevice(*device),
        EntryKind::Fifo => Content::Fifo,
    };
    tree.insert(parent, name, content, &entry.metadata, layer)?;
    mark_upwards(tree, parent, layer);
    Ok(())
}

/// The node that a hard link leads to, a symbolic link itself if it is one. It is not there if it
/// is below the directory that the link replaces.
fn linked(
    image: &mut Image<'_>,
    target: &[u8],
    replaced: Option<NodeId>,
) -> Result<NodeId, EntryError> {
    let tree = image.tree_mut();
    let text = || String::from_utf8_lossy(target).into_owned();
    let mut path = components(target)?;
    let name = path.pop().ok_or_else(|| EntryError::LinkToDirectory(text()))?;
    let missing = || EntryError::LinkTarget(text());
    let parent = directory(tree, &path, Missing::Stop)?.ok_or_else(missing)?;
    let node = tree.find(parent, name).map(|entry| tree.target(entry)).ok_or_else(missing)?;
    let mut above = Some(parent);
    while let Some(directory) = above {
        if Some(directory) == replaced {
            return Err(missing());
        }
        above = tree.directory_entry(directory).map(|entry| tree.directory(entry));
    }
    if tree.kind(node) == Kind::Directory {
        return Err(EntryError::LinkToDirectory(text()));
    }
    Ok(node)
}
