//! Code in a directory.

use std::{
    fs::{self, DirEntry, File},
    io,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::Path,
};

use costrel_ext4::{Content, Metadata};
use costrel_store::{Digest, Hasher};

use super::{Budget, Target, copy, text};
use crate::{CodeError, path::EntryError};

/// Walks the directory in the order of names and returns the digest of all it holds but times and
/// owners. With a target, puts it there too.
pub(crate) fn read(
    directory: &Path,
    budget: &mut Budget,
    target: Option<&mut Target<'_, '_>>,
) -> Result<Digest, CodeError> {
    let mut hasher = Hasher::new();
    let mut path = Vec::new();
    let mut walk = Walk { budget, hasher: &mut hasher, target };
    walk.directory(directory, &mut path)?;
    Ok(hasher.finish())
}

struct Walk<'w, 't, 'f> {
    budget: &'w mut Budget,
    hasher: &'w mut Hasher,
    target: Option<&'w mut Target<'t, 'f>>,
}

impl Walk<'_, '_, '_> {
    fn directory(&mut self, directory: &Path, path: &mut Vec<Vec<u8>>) -> Result<(), CodeError> {
        let listed = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = listed.map_err(|source| self.unreadable(path, source))?;
        entries.sort_by_key(DirEntry::file_name);
        for entry in entries {
            path.push(entry.file_name().as_bytes().to_vec());
            self.entry(&entry.path(), path)?;
            path.pop();
        }
        Ok(())
    }

    fn entry(&mut self, place: &Path, path: &mut Vec<Vec<u8>>) -> Result<(), CodeError> {
        let name = path.join(&b'/');
        let unreadable = |source| CodeError::ReadEntry { name: text(&name), source };
        let metadata = fs::symlink_metadata(place).map_err(unreadable)?;
        let kind = metadata.file_type();
        let permissions = metadata.permissions().mode() & 0o777;
        // 9 bits.
        let permissions = u16::try_from(permissions).unwrap_or(0o777) | 0o444;
        self.hasher.field(&name);
        if kind.is_dir() {
            let mode = permissions | 0o111;
            self.describe(b'd', mode);
            self.add(path, Content::Directory, mode)?;
            self.directory(place, path)
        } else if kind.is_symlink() {
            let link = fs::read_link(place).map_err(unreadable)?;
            let link = link.as_os_str().as_bytes();
            self.describe(b'l', 0);
            self.hasher.field(link);
            self.add(path, Content::Symlink(link), 0o777)
        } else if kind.is_file() {
            self.describe(b'f', permissions);
            let mut file = File::open(place).map_err(unreadable)?;
            let mut content = Hasher::new();
            match &mut self.target {
                Some(target) => {
                    let data = target.content(file, &name, self.budget, &mut content)?;
                    self.add(path, Content::File(data), permissions)?;
                }
                None => copy(&mut file, &name, |bytes| {
                    self.budget.take(bytes.len() as u64, &name)?;
                    content.update(bytes);
                    Ok(())
                })?,
            }
            self.hasher.field(content.finish().as_bytes());
            Ok(())
        } else {
            Err(CodeError::Entry { name: text(&name), source: EntryError::Special })
        }
    }

    fn describe(&mut self, kind: u8, mode: u16) {
        let [low, high] = mode.to_le_bytes();
        self.hasher.field(&[kind, low, high]);
    }

    fn add(&mut self, path: &[Vec<u8>], content: Content<'_>, mode: u16) -> Result<(), CodeError> {
        let Some(target) = &mut self.target else { return Ok(()) };
        let parts: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let metadata = Metadata { mode, ..Metadata::default() };
        target
            .add(&parts, content, &metadata)
            .map_err(|source| CodeError::Entry { name: text(&path.join(&b'/')), source })
    }

    fn unreadable(&self, path: &[Vec<u8>], source: io::Error) -> CodeError {
        if path.is_empty() {
            return CodeError::Read(source);
        }
        CodeError::ReadEntry { name: text(&path.join(&b'/')), source }
    }
}
