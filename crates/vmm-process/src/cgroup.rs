//! A machine's control group (version 2), where somebody has delegated one to this process.
//!
//! A group is taken for delegated if this process may make groups in it and nobody else's process
//! is in it. Root may do so anywhere, so for root it takes the mark that systemd leaves on what it
//! delegates (`Delegate=yes`), or a hierarchy's own root where the controllers are on already.
//!
//! ```text
//! delegated/                 memory and pids on for its children
//!           costrel.owner    this process: a group with such children must not have any itself
//!           costrel-ID       one a machine; removed with it
//! ```
//! Where that cannot be had as a whole, all is left as it was.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rustix::fs::{Access, Mode, OFlags};

use crate::spec::GroupSpec;

const OWNER: &str = "costrel.owner";
const PREFIX: &str = "costrel-";
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2: i64 = 0x6367_7270;

/// A machine's group. Dropping it removes it, if nothing runs in it.
#[derive(Debug)]
pub(crate) struct ControlGroup {
    path: PathBuf,
    directory: OwnedFd,
}

/// Why a machine has no group.
#[derive(Clone, Debug)]
pub(crate) enum NoGroup {
    /// There is none to make it in.
    NotDelegated(String),
    /// There is one, and yet it could not be made.
    Failed(String),
}

/// A group in which those of machines can be made.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Delegation(PathBuf);

impl ControlGroup {
    /// Makes a group below the delegated one, which is looked for once.
    pub(crate) fn create(spec: &GroupSpec<'_>) -> Result<Self, NoGroup> {
        static DELEGATION: OnceLock<Result<Delegation, NoGroup>> = OnceLock::new();
        DELEGATION.get_or_init(Delegation::find).as_ref().map_err(NoGroup::clone)?.create(spec)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a process in that was not born into it.
    pub(crate) fn adopt(&self, pid: rustix::process::Pid) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), pid.as_raw_nonzero().to_string())
    }

    /// Whether the kernel has killed a process in it, since it needed more memory than it may have.
    pub(crate) fn has_run_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills != "0")
    }
}

impl AsFd for ControlGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // Its processes have been waited for, but a kernel may count them a moment longer.
        let _ = remove(&self.path, Duration::from_millis(100));
    }
}

impl Delegation {
    fn find() -> Result<Self, NoGroup> {
        let not = |reason: &str| NoGroup::NotDelegated(reason.to_owned());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (root, mount) =
            hierarchy(&mounts).ok_or_else(|| not("no cgroup2 hierarchy is mounted"))?;
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own_group(&groups).ok_or_else(|| not("this process is in no cgroup2 group"))?;
        let own = own
            .strip_prefix(&root)
            .map_err(|_| not("the group of this process is not in sight"))?;
        let root_mark = own.as_os_str().is_empty() && root == Path::new("/");
        let mut group = mount.join(own);
        if group.ends_with(OWNER) {
            group.pop();
        }
        Self::at(&group, root_mark, rustix::process::geteuid().is_root())
    }

    fn at(group: &Path, is_hierarchy_root: bool, is_root: bool) -> Result<Self, NoGroup> {
        let not = |reason: &str| NoGroup::NotDelegated(reason.to_owned());
        let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
        let has_all = |list: &str| {
            CONTROLLERS.iter().all(|name| list.split_whitespace().any(|word| word == *name))
        };
        let may_write = ["", "cgroup.procs", "cgroup.subtree_control"]
            .iter()
            .all(|file| rustix::fs::access(group.join(file), Access::WRITE_OK).is_ok());
        if !may_write {
            return Err(not("none is delegated to this user"));
        }
        if !has_all(&read("cgroup.controllers")) {
            return Err(not("the group at hand lacks the memory or the pids controller"));
        }
        // The root of all has no such file. Controllers of memory know no groups of threads.
        if !matches!(read("cgroup.type").trim_end(), "" | "domain") {
            return Err(not("the group at hand is one of threads"));
        }
        let is_on = has_all(&read("cgroup.subtree_control"));
        if is_root && !is_marked(group) && !(is_hierarchy_root && is_on) {
            return Err(not("the group at hand is not marked as delegated"));
        }
        if is_on {
            return Ok(Self(group.to_owned()));
        }
        let own = std::process::id().to_string();
        if read("cgroup.procs").lines().any(|pid| pid != own) {
            return Err(not("other processes are in the group at hand"));
        }
        let owner = group.join(OWNER);
        let step_aside = || {
            match fs::create_dir(&owner) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            fs::write(owner.join("cgroup.procs"), &own)?;
            fs::write(group.join("cgroup.subtree_control"), "+memory +pids")
        };
        step_aside().map_err(|error| {
            // Fails where it is there still.
            let _ = fs::write(group.join("cgroup.procs"), &own);
            let _ = fs::remove_dir(&owner);
            match error.kind() {
                io::ErrorKind::ResourceBusy => not("another process came into the group at hand"),
                _ => NoGroup::Failed(format!("{}: {error}", group.display())),
            }
        })?;
        Ok(Self(group.to_owned()))
    }

    fn create(&self, spec: &GroupSpec<'_>) -> Result<ControlGroup, NoGroup> {
        let path = self.0.join(format!("{PREFIX}{}", spec.id));
        let create = || {
            match fs::create_dir(&path) {
                // Ids are used once, or by one process: it has been left by a killed one.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    fs::remove_dir(&path)?;
                    fs::create_dir(&path)?;
                }
                other => other?,
            }
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&path, flags, Mode::empty())?;
            let group = ControlGroup { path: path.clone(), directory };
            // A kernel without swap accounting has no such file.
            match fs::write(path.join("memory.swap.max"), "0") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::write(path.join("memory.max"), spec.memory.to_string())?;
            fs::write(path.join("pids.max"), spec.processes.to_string())?;
            Ok(group)
        };
        create().map_err(|error: io::Error| NoGroup::Failed(format!("{}: {error}", path.display())))
    }
}

/// Ends what runs in a group that a killed process has left, and removes it. Whatever is not the
/// group of a machine is left alone.
pub(crate) fn remove_leftover(path: &Path) -> io::Result<()> {
    let is_a_machines = path.is_absolute()
        && path.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()))
        && rustix::fs::statfs(path).is_ok_and(|file_system| file_system.f_type == CGROUP2);
    if !is_a_machines {
        return Ok(());
    }
    // Since Linux 5.14. Whoever was on record is dead anyway.
    let _ = fs::write(path.join("cgroup.kill"), "1");
    remove(path, Duration::from_secs(2))
}

/// Removes a group as soon as nothing runs in it.
fn remove(path: &Path, limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match fs::remove_dir(path) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

/// systemd's mark.
fn is_marked(group: &Path) -> bool {
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(group, *name, &mut value[..]).is_ok_and(|len| value[..len] == *b"1")
    })
}

/// The cgroup2 mount: the group that it shows, and where.
fn hierarchy(mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        Some((fields.next()?.into(), fields.next()?.into()))
    })
}

fn own_group(groups: &str) -> Option<&Path> {
    groups.lines().find_map(|line| line.strip_prefix("0::")).map(Path::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    fn reason(result: Result<Delegation, NoGroup>) -> String {
        match result {
            Err(NoGroup::NotDelegated(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn finds_the_hierarchy() {
        let mounts = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      31 25 0:27 /pod /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 x rw\n";
        assert_eq!(
            hierarchy(mounts),
            Some((PathBuf::from("/pod"), PathBuf::from("/sys/fs/cgroup/unified")))
        );
        assert_eq!(hierarchy("30 25 0:26 / /x rw - tmpfs cgroup2 rw"), None);
        assert_eq!(own_group("9:name=systemd:/\n0::/a/b\n"), Some(Path::new("/a/b")));
    }

    #[test]
    fn takes_what_is_delegated_and_moves_itself_aside() {
        let own = std::process::id().to_string();
        let files = [
            ("cgroup.controllers", "cpu memory pids"),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", &own),
        ];
        let directory = group(&files);
        let delegation = Delegation::at(directory.path(), false, false).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("cgroup.subtree_control"), "+memory +pids");
        assert_eq!(read("costrel.owner/cgroup.procs"), own);

        let spec = GroupSpec { id: "x", memory: 1 << 30, processes: 9 };
        let machine = delegation.create(&spec).unwrap();
        assert_eq!(machine.path(), directory.path().join("costrel-x"));
        assert_eq!(read("costrel-x/memory.max"), "1073741824");
        assert_eq!(read("costrel-x/memory.swap.max"), "0");
        assert_eq!(read("costrel-x/pids.max"), "9");
        assert!(matches!(delegation.create(&spec), Err(NoGroup::Failed(_))), "it exists");
    }

    #[test]
    fn leaves_alone_what_is_not() {
        let all = [
            ("cgroup.controllers", "memory pids"),
            ("cgroup.subtree_control", ""),
            ("cgroup.procs", "1\n"),
        ];
        let directory = group(&all);
        let others = Delegation::at(directory.path(), false, false);
        assert_eq!(reason(others), "other processes are in the group at hand");
        let unmarked = Delegation::at(directory.path(), true, true);
        assert_eq!(reason(unmarked), "the group at hand is not marked as delegated");
        let directory = group(&all[1..]);
        let bare = Delegation::at(directory.path(), false, false);
        assert_eq!(reason(bare), "the group at hand lacks the memory or the pids controller");
        fs::write(directory.path().join("cgroup.controllers"), "memory pids").unwrap();
        fs::write(directory.path().join("cgroup.type"), "domain threaded\n").unwrap();
        let threads = Delegation::at(directory.path(), false, false);
        assert_eq!(reason(threads), "the group at hand is one of threads");
        let nothing = Delegation::at(Path::new("/nonexistent"), false, false);
        assert_eq!(reason(nothing), "none is delegated to this user");
        for directory in [directory, group(&all)] {
            assert!(!directory.path().join(OWNER).exists());
        }
    }

    #[test]
    fn a_crafted_record_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("costrel-x");
        fs::create_dir(&path).unwrap();
        remove_leftover(&path).unwrap();
        assert!(path.exists());
    }
}
