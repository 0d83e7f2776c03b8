//! What stands for the content of code and layers, without reading it: another stamp is a change.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

/// The stamp of a file, or of all that is below a directory: names, sizes, modes and times.
pub(crate) fn stamp(paths: impl IntoIterator<Item = impl AsRef<Path>>) -> io::Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        // The path itself may be a link to the code; links below it are the function's own.
        add(&mut hash, path.as_ref(), &fs::metadata(path.as_ref())?)?;
    }
    Ok(hash.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}

fn add(hash: &mut Sha256, path: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    let name = path.as_os_str().as_bytes();
    hash.update(name.len().to_le_bytes());
    hash.update(name);
    hash.update(metadata.mode().to_le_bytes());
    if metadata.is_dir() {
        let mut entries = fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            match entry.metadata() {
                Ok(metadata) => add(hash, &entry.path(), &metadata)?,
                // Gone since: its directory tells when it is looked at the next time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Ends the directory.
        hash.update(u64::MAX.to_le_bytes());
        return Ok(());
    }
    if metadata.is_symlink() {
        hash.update(fs::read_link(path)?.as_os_str().as_bytes());
        return Ok(());
    }
    for number in [metadata.len(), metadata.ino()] {
        hash.update(number.to_le_bytes());
    }
    for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()]
    {
        hash.update(number.to_le_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn changes_with_what_a_function_would_see() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/a"), "1").unwrap();
        symlink("a", at("sub/link")).unwrap();
        let mut last = stamp([directory.path()]).unwrap();
        assert_eq!(stamp([directory.path()]).unwrap(), last, "nothing has changed");
        let mut changed = |what: &str| {
            let now = stamp([directory.path()]).unwrap();
            assert_ne!(now, last, "{what}");
            last = now;
        };
        fs::write(at("sub/a"), "22").unwrap();
        changed("content");
        fs::set_permissions(at("sub/a"), fs::Permissions::from_mode(0o755)).unwrap();
        changed("mode");
        fs::rename(at("sub/a"), at("sub/b")).unwrap();
        changed("name");
        fs::remove_file(at("sub/link")).unwrap();
        symlink("b", at("sub/link")).unwrap();
        changed("link");
        fs::create_dir(at("empty")).unwrap();
        changed("directory");
        assert!(stamp([at("nowhere")]).is_err());
    }
}
