//! What the fuzz targets share: a directory for a process's files, the oracle for disks, and the
//! memory and driver of a guest ([`guest`]).
//!
//! They go through the crates' public functions, files and all: what nobody can call needs no
//! target, and crates need no features for them. `scripts/fuzz.sh` runs them.

pub mod guest;

use std::{
    cell::{Cell, OnceCell},
    path::{Path, PathBuf},
    process::Command,
};

thread_local! {
    static DIRECTORY: OnceCell<tempfile::TempDir> = const { OnceCell::new() };
    static STAGED: Cell<u32> = const { Cell::new(0) };
}

/// A directory of this process, made for it. In memory where there is a place for that.
pub fn directory() -> PathBuf {
    DIRECTORY.with(|directory| {
        let made = directory.get_or_init(|| {
            let memory = Path::new("/dev/shm");
            let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
            tempfile::Builder::new()
                .prefix("costrel-fuzz-")
                .tempdir_in(parent)
                .expect("a directory")
        });
        made.path().to_owned()
    })
}

/// Requires that `e2fsck` has nothing to say of a disk. As it takes longer than all the rest, not
/// each time.
pub fn check(disk: &Path) {
    let count = STAGED.with(|staged| staged.replace(staged.get().wrapping_add(1)));
    if !count.is_multiple_of(50) {
        return;
    }
    let Ok(output) = Command::new("e2fsck").args(["-f", "-n"]).arg(disk).output() else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().filter(|line| !line.starts_with("Pass ")).count();
    assert!(output.status.success() && said == 1, "e2fsck says:\n{text}");
}
