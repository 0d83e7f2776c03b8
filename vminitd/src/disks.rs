//! Finds block devices by their virtio serial numbers.

use std::{fs, path::PathBuf};

/// The device node of the disk with this serial number.
pub(crate) fn by_serial(serial: &str) -> Option<PathBuf> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("serial")).ok()?;
        (found.trim_end() == serial).then(|| PathBuf::from("/dev").join(entry.file_name()))
    })
}
