//! The workload's control group: its memory limit, its peak, and the end of all its processes.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::freezer::Freezer;

/// A cgroup v2 group for all processes of the workload.
///
/// Its files are opened once, before the root changes, and stay open: the workload's own view of
/// `/sys/fs/cgroup` is read-only.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    procs: Arc<OwnedFd>,
    members: Arc<File>,
    kill: Arc<File>,
    peak: Arc<File>,
    memory_events: Arc<File>,
    freezer: Freezer,
    limit: Option<u64>,
}

impl Cgroup {
    /// Makes the group below the hierarchy's mount point, with a memory limit in bytes if any.
    pub(crate) fn create(hierarchy: &Path, limit: Option<u64>) -> io::Result<Self> {
        fs::write(hierarchy.join("cgroup.subtree_control"), "+memory +pids +cpu")?;
        let group = hierarchy.join("workload");
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(limit) = limit {
            fs::write(group.join("memory.max"), limit.to_string())?;
            // A function that runs out of memory ends as a whole, not some thread's child of it.
            fs::write(group.join("memory.oom.group"), "1")?;
        }
        let open = |name: &str, write: bool| -> io::Result<File> {
            let path: PathBuf = group.join(name);
            fs::OpenOptions::new().read(!write).write(write).open(path)
        };
        Ok(Self {
            procs: Arc::new(open("cgroup.procs", true)?.into()),
            members: Arc::new(open("cgroup.procs", false)?),
            kill: Arc::new(open("cgroup.kill", true)?),
            peak: Arc::new(open("memory.peak", false)?),
            memory_events: Arc::new(open("memory.events", false)?),
            freezer: Freezer::open(&group)?,
            limit,
        })
    }

    /// Where a new process writes `0` to join. Not while the group stands still: the process would
    /// stop before its program runs, and whoever starts it would wait for that.
    pub(crate) fn procs(&self) -> io::Result<Arc<OwnedFd>> {
        if self.freezer.is_frozen() {
            return Err(io::Error::other("the machine is suspended"));
        }
        Ok(Arc::clone(&self.procs))
    }

    /// The ids of the group's processes.
    pub(crate) fn processes(&self) -> io::Result<Vec<i32>> {
        Ok(read_again(&self.members)?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// What has its processes stand still.
    pub(crate) fn freezer(&self) -> &Freezer {
        &self.freezer
    }

    /// Kills all processes in the group, standing still or not.
    pub(crate) fn kill(&self) {
        // Fails only if the group is gone, which nobody does.
        let _ = rustix::io::write(&*self.kill, b"1");
    }

    /// The most memory that was in use at once, in bytes; never above the limit.
    pub(crate) fn peak_memory(&self) -> u64 {
        let peak =
            read_again(&self.peak).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        self.limit.map_or(peak, |limit| peak.min(limit))
    }

    /// How often the kernel has killed a process of the group for want of memory.
    pub(crate) fn out_of_memory_kills(&self) -> u64 {
        let events = read_again(&self.memory_events).unwrap_or_default();
        let line = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

/// The whole of a file that the kernel writes anew for who reads it from the start.
pub(crate) fn read_again(mut file: &File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}
