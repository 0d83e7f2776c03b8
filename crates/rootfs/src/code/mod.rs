//! Where a function's code and layers come from, and how they get into an image.

mod archive;
mod folder;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use costrel_ext4::{Content, FileData, Image, Kind, Metadata, NodeId};
use costrel_store::{Digest, Hasher};

use crate::{CodeError, StageProgress, path::EntryError};

/// A directory or a zip file.
#[derive(Debug)]
pub(crate) enum Source {
    Directory(PathBuf),
    /// Open, so that no other file takes its place after it was hashed.
    Zip(PathBuf, File),
}

/// How many bytes may still be unpacked.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: u64,
}

/// The directory of an image that a source is unpacked to. Entries have the source's mark.
pub(crate) struct Target<'t, 'f> {
    pub(crate) image: &'t mut Image<'f>,
    pub(crate) root: NodeId,
    pub(crate) mark: u16,
    pub(crate) progress: &'t dyn StageProgress,
}

impl Source {
    pub(crate) fn directory(path: &Path) -> Result<Self, CodeError> {
        let metadata = fs::metadata(path).map_err(CodeError::Read)?;
        if !metadata.is_dir() {
            return Err(CodeError::Read(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self::Directory(path.to_owned()))
    }

    pub(crate) fn zip(path: &Path) -> Result<Self, CodeError> {
        let metadata = fs::metadata(path).map_err(CodeError::Read)?;
        if metadata.is_dir() {
            return Err(CodeError::Read(io::ErrorKind::IsADirectory.into()));
        }
        // Opening a named pipe would wait for its writer.
        if !metadata.is_file() {
            return Err(CodeError::Kind);
        }
        let file = File::open(path).map_err(CodeError::Read)?;
        Ok(Self::Zip(path.to_owned(), file))
    }

    pub(crate) fn either(path: &Path) -> Result<Self, CodeError> {
        let metadata = fs::metadata(path).map_err(CodeError::Read)?;
        if metadata.is_dir() { Self::directory(path) } else { Self::zip(path) }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::Zip(path, _) => path,
        }
    }

    /// The digest of the content: of a zip file's bytes, of a directory's names, modes and files.
    pub(crate) fn digest(&self, budget: &mut Budget) -> Result<Digest, CodeError> {
        match self {
            Self::Directory(path) => folder::read(path, budget, None),
            Self::Zip(_, file) => {
                let mut hasher = Hasher::new();
                io::copy(&mut { file }, &mut hasher).map_err(CodeError::Read)?;
                Ok(hasher.finish())
            }
        }
    }

    /// Puts the content, which had this digest, into the image.
    pub(crate) fn unpack(
        &self,
        digest: &Digest,
        target: &mut Target<'_, '_>,
        budget: &mut Budget,
    ) -> Result<(), CodeError> {
        match self {
            Self::Directory(path) if folder::read(path, budget, Some(target))? == *digest => Ok(()),
            Self::Directory(_) => Err(CodeError::Changed),
            Self::Zip(_, file) => archive::unpack(file, target, budget),
        }
    }
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0 }
    }

    fn take(&mut self, bytes: u64, name: &[u8]) -> Result<(), CodeError> {
        self.used = self.used.saturating_add(bytes);
        if self.used > self.limit {
            return Err(CodeError::TooLarge { name: text(name), limit: self.limit });
        }
        Ok(())
    }
}

impl Target<'_, '_> {
    /// The directory at a path below the target's, made where it is missing. Neither files nor
    /// symbolic links may be on the way.
    fn parent(&mut self, path: &[&[u8]]) -> Result<NodeId, EntryError> {
        let tree = self.image.tree_mut();
        let mut here = self.root;
        for name in path {
            here = match tree.find(here, name).map(|entry| tree.target(entry)) {
                None => {
                    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
                    let entry =
                        tree.insert(here, name, Content::Directory, &metadata, self.mark)?;
                    tree.target(entry)
                }
                Some(node) => match tree.kind(node) {
                    Kind::Directory => node,
                    Kind::Symlink => return Err(EntryError::BelowSymlink(text(name))),
                    _ => return Err(EntryError::NotADirectory(text(name))),
                },
            };
        }
        Ok(here)
    }

    /// Adds a node at a path, which earlier sources may have, but not this one.
    fn add(
        &mut self,
        path: &[&[u8]],
        content: Content<'_>,
        metadata: &Metadata,
    ) -> Result<(), EntryError> {
        let Some((name, parents)) = path.split_last() else {
            // The source's root.
            let root = self.root;
            return Ok(self.image.tree_mut().set_metadata(root, metadata)?);
        };
        let parent = self.parent(parents)?;
        let tree = self.image.tree_mut();
        if let Some(old) = tree.find(parent, name) {
            let node = tree.target(old);
            if content == Content::Directory && tree.kind(node) == Kind::Directory {
                tree.set_mark(old, self.mark);
                return Ok(tree.set_metadata(node, metadata)?);
            }
            if tree.mark(old) == self.mark {
                return Err(EntryError::Duplicate);
            }
        }
        tree.insert(parent, name, content, metadata, self.mark)?;
        Ok(())
    }

    /// Writes a file's content.
    fn content(
        &mut self,
        mut source: impl Read,
        name: &[u8],
        budget: &mut Budget,
        hasher: &mut Hasher,
    ) -> Result<FileData, CodeError> {
        let mut file = self.image.file();
        let progress = self.progress;
        copy(&mut source, name, |bytes| {
            budget.take(bytes.len() as u64, name)?;
            hasher.update(bytes);
            progress.advanced(bytes.len() as u64);
            Ok(file.write(bytes)?)
        })?;
        Ok(file.finish()?)
    }
}

/// Reads to the end.
fn copy(
    source: &mut impl Read,
    name: &[u8],
    mut take: impl FnMut(&[u8]) -> Result<(), CodeError>,
) -> Result<(), CodeError> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(CodeError::ReadEntry { name: text(name), source }),
        }
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
