//! Files by name, in a directory or in a tar, read without unpacking the tar.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::Compression;

/// Archives have links to links; none is this deep.
const DEEPEST_LINK: usize = 8;
/// An image's archive has a few files a layer.
const MOST_MEMBERS: usize = 100_000;

pub(crate) enum Tree {
    Directory(PathBuf),
    Tar { file: File, members: HashMap<String, Member> },
}

pub(crate) enum Member {
    File { start: u64, size: u64 },
    Link(String),
}

/// The content of a file of a tree.
pub(crate) struct Content<'a> {
    pub(crate) reader: Box<dyn Read + 'a>,
    pub(crate) size: u64,
}

/// A part of a file, which several readers may be at.
struct Slice<'a> {
    file: &'a File,
    position: u64,
    end: u64,
}

impl Tree {
    /// Opens a directory or a tar. One that is compressed as a whole is unpacked to a file in
    /// `scratch` that has no name, so that nothing is left of it.
    pub(crate) fn open(path: &Path, scratch: &Path) -> io::Result<Self> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut file = File::open(path)?;
        let compression = Compression::of_file(path)?;
        if compression != Compression::Plain {
            let mut unpacked = tempfile::tempfile_in(scratch)?;
            io::copy(&mut compression.reader(BufReader::new(file))?, &mut unpacked)?;
            unpacked.rewind()?;
            file = unpacked;
        }
        let members = index(&file)?;
        Ok(Self::Tar { file, members })
    }

    /// The content of the file `name`, if there is one.
    pub(crate) fn read(&self, name: &str) -> io::Result<Option<Content<'_>>> {
        match self {
            Self::Directory(root) => {
                // Names come out of the image's own documents.
                if !name.split('/').all(|part| !part.is_empty() && part != "." && part != "..") {
                    return Ok(None);
                }
                match File::open(root.join(name)) {
                    Ok(file) => {
                        let size = file.metadata()?.len();
                        Ok(Some(Content { reader: Box::new(file), size }))
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
            Self::Tar { file, members } => {
                let mut name = normal(name);
                for _ in 0..DEEPEST_LINK {
                    match members.get(&name) {
                        None => return Ok(None),
                        Some(Member::Link(target)) => name.clone_from(target),
                        Some(Member::File { start, size }) => {
                            let slice = Slice { file, position: *start, end: start + size };
                            return Ok(Some(Content { reader: Box::new(slice), size: *size }));
                        }
                    }
                }
                Ok(None)
            }
        }
    }
}

fn index(file: &File) -> io::Result<HashMap<String, Member>> {
    let mut members = HashMap::new();
    let length = file.metadata()?.len();
    let mut archive = tar::Archive::new(BufReader::new(file));
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = normal(&String::from_utf8_lossy(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        let target = || entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into());
        let member = if kind.is_file() {
            let (start, size) = (entry.raw_file_position(), entry.size());
            if start.checked_add(size).is_none_or(|end| end > length) {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar is cut off"));
            }
            Member::File { start, size }
        } else if kind.is_hard_link() {
            Member::Link(normal(&target().unwrap_or_else(String::new)))
        } else if kind.is_symlink() {
            let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
            let target = target().unwrap_or_else(String::new);
            Member::Link(normal(&format!("{parent}/{target}")))
        } else {
            continue;
        };
        members.insert(name, member);
        if members.len() > MOST_MEMBERS {
            return Err(io::Error::other("too many files for an image's archive"));
        }
    }
    Ok(members)
}

/// Without `.`, `..` and doubled slashes.
fn normal(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Read for Slice<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..room], self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tree: &Tree, name: &str) -> Option<String> {
        let mut text = String::new();
        tree.read(name).unwrap()?.reader.read_to_string(&mut text).unwrap();
        Some(text)
    }

    fn header(kind: tar::EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header
    }

    fn sample() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = header(tar::EntryType::Regular, 3);
        tar.append_data(&mut file, "./a/layer.tar", &b"one"[..]).unwrap();
        let mut link = header(tar::EntryType::Symlink, 0);
        tar.append_link(&mut link, "b/layer.tar", "../a/layer.tar").unwrap();
        let mut link = header(tar::EntryType::Link, 0);
        tar.append_link(&mut link, "c", "b/layer.tar").unwrap();
        let mut link = header(tar::EntryType::Symlink, 0);
        tar.append_link(&mut link, "loop", "loop").unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn reads_a_tar_through_links() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.tar");
        let packed = zstd::encode_all(&sample()[..], 1).unwrap();
        for bytes in [sample(), packed] {
            std::fs::write(&path, bytes).unwrap();
            let tree = Tree::open(&path, directory.path()).unwrap();
            for name in ["a/layer.tar", "b/layer.tar", "c", "./c"] {
                assert_eq!(read(&tree, name).as_deref(), Some("one"), "{name}");
            }
            assert_eq!(read(&tree, "loop"), None);
            assert_eq!(read(&tree, "d"), None);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn notices_a_tar_that_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.tar");
        std::fs::write(&path, &sample()[..513]).unwrap();
        assert!(Tree::open(&path, directory.path()).is_err());
        std::fs::write(&path, "no tar at all ".repeat(100)).unwrap();
        assert!(Tree::open(&path, directory.path()).is_err());
    }

    #[test]
    fn stays_within_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("d")).unwrap();
        std::fs::write(directory.path().join("secret"), "s").unwrap();
        let tree = Tree::open(&directory.path().join("d"), directory.path()).unwrap();
        let absolute = directory.path().join("secret");
        for name in ["../secret", absolute.to_str().unwrap()] {
            assert_eq!(read(&tree, name), None, "{name}");
        }
    }
}
