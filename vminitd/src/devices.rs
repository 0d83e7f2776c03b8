//! The workload's `/dev`: what container runtimes put there, and nothing else.

use std::{io, os::unix::fs::symlink, path::Path};

use rustix::{
    fs::{CWD, FileType, Mode, chmod, makedev, mknodat},
    mount::{MountFlags, mount},
};

const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Mounts and fills `/dev` of the root at `root`, which has a directory of that name.
pub(crate) fn populate(root: &Path) -> io::Result<()> {
    let dev = root.join("dev");
    mount(
        "tmpfs",
        &dev,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        Some(c"mode=755,size=64k"),
    )?;
    for (name, major, minor) in NODES {
        let path = dev.join(name);
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor))?;
        // Again, past the umask.
        chmod(&path, mode)?;
    }
    for (name, target) in LINKS {
        symlink(target, dev.join(name))?;
    }
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (name, kind, flags, data) in [
        (
            "pts",
            "devpts",
            MountFlags::NOSUID | MountFlags::NOEXEC,
            c"newinstance,ptmxmode=0666,mode=620,gid=5",
        ),
        ("shm", "tmpfs", plain, c"mode=1777,size=64m"),
        ("mqueue", "mqueue", plain, c""),
    ] {
        let path = dev.join(name);
        std::fs::create_dir(&path)?;
        mount(kind, &path, kind, flags, Some(data))?;
    }
    Ok(())
}
