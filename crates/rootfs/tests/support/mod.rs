//! What the tests of this folder share: tar archives, layers, and trees to compare.
#![expect(clippy::print_stderr, reason = "a skipped test says what it lacks")]
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use costrel_rootfs::{ImageLayers, LayerBlob, LayerCompression};
use costrel_store::Digest;
use tar::{EntryType, Header};

/// A tar archive in the making.
pub(crate) struct Layer(pub(crate) tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Adds an entry whose fields are the usual ones unless `set` changes them.
    pub(crate) fn entry(
        &mut self,
        kind: EntryType,
        path: &[u8],
        link: &[u8],
        content: &[u8],
        set: impl FnOnce(&mut Header),
    ) -> &mut Self {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_size(content.len() as u64);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        set(&mut header);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(crate) fn file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.entry(EntryType::Regular, path.as_bytes(), b"", content, |_| {})
    }

    pub(crate) fn directory(&mut self, path: &str) -> &mut Self {
        self.entry(EntryType::Directory, path.as_bytes(), b"", b"", |_| {})
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(EntryType::Symlink, path.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    pub(crate) fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(EntryType::Link, path.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        self.extension(EntryType::XHeader, records)
    }

    /// A PAX header, of either kind.
    pub(crate) fn extension(&mut self, kind: EntryType, records: &[(&str, &[u8])]) -> &mut Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length = rest + length.to_string().len();
            }
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(kind, b"pax", b"", &content, |_| {})
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Writes a layer's blob.
pub(crate) fn blob(
    directory: &Path,
    name: &str,
    archive: &[u8],
    compression: LayerCompression,
) -> LayerBlob {
    let compressed = match compression {
        LayerCompression::Plain => archive.to_vec(),
        // Two members each, cut anywhere.
        LayerCompression::Gzip => halves(archive, |part| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(part).unwrap();
            encoder.finish().unwrap()
        }),
        LayerCompression::Zstd => halves(archive, |part| zstd::encode_all(part, 1).unwrap()),
    };
    let path = directory.join(name);
    fs::write(&path, &compressed).unwrap();
    let size = compressed.len() as u64;
    LayerBlob { path, compression, diff_id: Digest::of(archive), size }
}

fn halves(bytes: &[u8], compress: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let (first, second) = bytes.split_at(bytes.len() / 3);
    [compress(first), compress(second)].concat()
}

/// An image of these layers, its blobs in the directory.
pub(crate) fn image(directory: &Path, layers: Vec<Layer>) -> ImageLayers {
    let kinds = [LayerCompression::Gzip, LayerCompression::Plain, LayerCompression::Zstd];
    let layers: Vec<_> = layers
        .into_iter()
        .zip(kinds.into_iter().cycle())
        .enumerate()
        .map(|(index, (layer, kind))| {
            blob(directory, &format!("layer{index}"), &layer.bytes(), kind)
        })
        .collect();
    let ids: Vec<u8> = layers.iter().flat_map(|layer| *layer.diff_id.as_bytes()).collect();
    ImageLayers { key: Digest::of(&ids), layers }
}

/// Requires that e2fsck has nothing to say.
pub(crate) fn check(image: &Path) {
    let Ok(output) = Command::new("e2fsck").args(["-f", "-n"]).arg(image).output() else {
        eprintln!("SKIPPED: e2fsck is not installed (package e2fsprogs)");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "e2fsck: {}\n{text}", output.status);
    let said = text.lines().filter(|line| !line.starts_with("Pass ")).count();
    assert_eq!(said, 1, "e2fsck says:\n{text}");
}

/// What a file system has at a path, as far as two must agree on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) mode: u32,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) device: u64,
    /// The content, or a link's target.
    pub(crate) content: Vec<u8>,
    pub(crate) modified: (i64, i64),
    /// The first path, in the order of names, of the same node.
    pub(crate) same_as: Vec<u8>,
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Found>;

/// All that is below a directory, and the directory itself.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut found = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    let mut paths = vec![PathBuf::new()];
    let mut all = Vec::new();
    while let Some(path) = paths.pop() {
        let place = root.join(&path);
        if fs::symlink_metadata(&place).unwrap().is_dir() {
            for entry in fs::read_dir(&place).unwrap() {
                paths.push(path.join(entry.unwrap().file_name()));
            }
        }
        all.push(path);
    }
    all.sort();
    for path in all {
        let place = root.join(&path);
        let metadata = fs::symlink_metadata(&place).unwrap();
        let name = path.as_os_str().as_bytes().to_vec();
        let same_as = nodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
        let content = if metadata.is_file() {
            fs::read(&place).unwrap()
        } else if metadata.is_symlink() {
            fs::read_link(&place).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let entry = Found {
            mode: metadata.mode(),
            user: metadata.uid(),
            group: metadata.gid(),
            device: metadata.rdev(),
            content,
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            same_as,
            attributes: attributes(&place),
        };
        found.insert(name, entry);
    }
    found
}

fn attributes(place: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    use rustix::fs::{lgetxattr, llistxattr};
    let mut names = vec![0; 65536];
    let length = llistxattr(place, &mut names).unwrap_or(0);
    names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = lgetxattr(place, name, &mut value).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// An image mounted through a loop device, until this is dropped.
pub(crate) struct Mounted(tempfile::TempDir);

impl Mounted {
    /// Needs root and loop devices; says so if they are missing.
    pub(crate) fn new(image: &Path) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let output =
            Command::new("mount").args(["-o", "ro,loop"]).arg(image).arg(directory.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(directory)),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                eprintln!("SKIPPED: cannot mount through a loop device: {}", said.trim());
                None
            }
            Err(error) => {
                eprintln!("SKIPPED: cannot run mount: {error}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.0.path());
    }
}

/// Unmounts, again and again while the mount is busy: a process that another test forks holds
/// our files until it executes its program.
pub(crate) fn unmount(path: &Path) {
    for _ in 0..100 {
        let output = Command::new("umount").arg(path).output();
        if output.is_ok_and(|output| output.status.success()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    eprintln!("{} stays mounted", path.display());
}
