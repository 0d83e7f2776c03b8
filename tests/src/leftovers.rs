//! Looks for what must not be there any more.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// The ids of processes that have a file open, or an argument, below `directory`.
#[must_use]
pub fn processes_below(directory: &Path) -> Vec<u32> {
    let below = |path: &Path| path.starts_with(directory);
    let uses = |process: &Path| {
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        let named = String::from_utf8_lossy(&arguments).contains(&*directory.to_string_lossy());
        let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        named || files.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| below(&path))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|process| uses(&process.path()))
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|id| *id != std::process::id())
        .collect()
}

/// Waits until `condition` holds, for at most a minute.
///
/// # Panics
/// If it does not.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}
