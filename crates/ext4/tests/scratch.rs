//! Empty disks of all sizes, judged by e2fsck and grown by resize2fs.

mod oracle;

use std::{fs::OpenOptions, os::unix::fs::MetadataExt as _, process::Command, time::Instant};

use costrel_ext4::{ScratchDirectory, ScratchSpec, WriteError, format_scratch};
use oracle::{check, debugfs, has_tools};

fn spec(size: u64) -> ScratchSpec<'static> {
    const DIRECTORIES: [ScratchDirectory<'static>; 3] = [
        ScratchDirectory { name: "tmp", mode: 0o1777 },
        ScratchDirectory { name: "upper", mode: 0o755 },
        ScratchDirectory { name: "work", mode: 0o755 },
    ];
    ScratchSpec {
        uuid: *b"0123456789abcdef",
        label: "scratch",
        created: 0,
        size,
        directories: &DIRECTORIES,
    }
}

#[test]
fn all_sizes_are_sound_and_small() {
    const MIB: u64 = 1 << 20;
    for mib in [64, 65, 127, 128, 129, 255, 512, 513, 1023, 1024, 10_240, 10_241, 65_535, 65_536] {
        let file = tempfile::NamedTempFile::new().unwrap();
        let started = Instant::now();
        format_scratch(file.as_file(), &spec(mib * MIB)).unwrap();
        let took = started.elapsed();
        let metadata = file.as_file().metadata().unwrap();
        assert_eq!(metadata.len(), mib * MIB);
        assert!(
            metadata.blocks() * 512 < 2 * MIB,
            "{mib} MiB allocate {}",
            metadata.blocks() * 512
        );
        // The target is 10 ms; an unoptimized build on a busy machine gets more.
        assert!(took.as_millis() < 200, "{mib} MiB took {took:?}");
        if has_tools() {
            check(file.path());
            assert!(debugfs(file.path(), "stat /tmp").contains("Mode:  01777"));
            assert!(debugfs(file.path(), "stat <8>").contains("EXTENTS"));
        }
    }
}

#[test]
fn an_odd_size_is_rounded_down() {
    let file = tempfile::NamedTempFile::new().unwrap();
    format_scratch(file.as_file(), &spec((100 << 20) + 12_345)).unwrap();
    if has_tools() {
        check(file.path());
    }
}

#[test]
fn other_sizes_are_refused() {
    let file = tempfile::tempfile().unwrap();
    for size in [0, (64 << 20) - 1, (64 << 30) + 1] {
        let refused = format_scratch(&file, &spec(size));
        assert!(matches!(refused, Err(WriteError::DiskSize { .. })), "{size}");
    }
}

#[test]
fn resize2fs_grows_it() {
    if !has_tools() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    format_scratch(file.as_file(), &spec(300 << 20)).unwrap();
    let grown = OpenOptions::new().write(true).open(file.path()).unwrap();
    grown.set_len(20 << 30).unwrap();
    let output = Command::new("resize2fs").arg("-f").arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check(file.path());
}
