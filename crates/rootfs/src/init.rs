//! The disk that the kernel mounts first.

use std::{fs, path::Path};

use costrel_ext4::{Content, Image, Metadata};

use crate::{StageError, path::EntryError};

/// What the agent mounts on, and where the kernel puts its devices.
const DIRECTORIES: [(&str, u16); 6] = [
    ("dev", 0o755),
    ("mnt", 0o755),
    ("proc", 0o755),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
];

/// The agent's binary: a few MiB.
pub(crate) fn read(agent: &Path) -> Result<Vec<u8>, StageError> {
    fs::read(agent).map_err(|source| StageError::Agent { path: agent.to_owned(), source })
}

/// Puts it and the directories into the image.
pub(crate) fn fill(image: &mut Image<'_>, binary: &[u8]) -> Result<(), StageError> {
    let mut file = image.file();
    file.write(binary)?;
    let data = file.finish()?;
    let tree = image.tree_mut();
    let root = tree.root();
    let mut add = |directory, name: &str, content, mode| {
        let metadata = Metadata { mode, ..Metadata::default() };
        tree.insert(directory, name.as_bytes(), content, &metadata, 0)
            .map(|entry| tree.target(entry))
            .map_err(EntryError::from)
    };
    let built = (|| {
        for (name, mode) in DIRECTORIES {
            add(root, name, Content::Directory, mode)?;
        }
        let sbin = add(root, "sbin", Content::Directory, 0o755)?;
        add(sbin, "vminitd", Content::File(data), 0o755)
    })();
    match built {
        Ok(_) => Ok(()),
        Err(error) => unreachable!("the init disk's names are sound: {error}"),
    }
}
