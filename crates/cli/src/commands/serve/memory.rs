//! How much memory machines may have where nobody says so.

use std::fs;

const MIB: u64 = 1 << 20;

/// Three quarters of what this host has, or its control group allows: the rest is for the server, the
/// disks' cache, and people.
pub(super) fn default_limit() -> u64 {
    let host = fs::read_to_string("/proc/meminfo").ok();
    let host = host.as_deref().and_then(total).unwrap_or(2048 * MIB);
    let group = fs::read_to_string("/proc/self/cgroup").ok();
    let groups = group.as_deref().and_then(own_group).into_iter().flat_map(ancestors);
    let limits = groups.filter_map(|group| {
        fs::read_to_string(format!("/sys/fs/cgroup{group}/memory.max")).ok()?.trim().parse().ok()
    });
    share(limits.chain([host]).min().unwrap_or(host))
}

fn share(memory: u64) -> u64 {
    (memory / 4 * 3).max(512 * MIB)
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(|kilobytes: u64| kilobytes << 10)
}

/// This process's group in the unified hierarchy.
fn own_group(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::"))
}

/// A group and those that hold it: each may have a limit.
fn ancestors(group: &str) -> impl Iterator<Item = &str> {
    let group = group.trim_end_matches('/');
    std::iter::successors(Some(group), |group| group.rfind('/').map(|end| &group[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says() {
        assert_eq!(total("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(own_group("1:cpu:/x\n0::/user.slice/a\n"), Some("/user.slice/a"));
        assert_eq!(ancestors("/a/b").collect::<Vec<_>>(), ["/a/b", "/a", ""]);
        assert_eq!(ancestors("/").collect::<Vec<_>>(), [""]);
        assert_eq!(share(16 << 30), 12 << 30);
        assert_eq!(share(1 << 20), 512 * MIB);
        assert!(default_limit() >= 512 * MIB);
    }
}
