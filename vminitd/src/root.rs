//! Makes the workload's root file system out of the disks, and enters it.
//!
//! ```text
//! overlay: the agent's own layer (a tmpfs: mount points, /etc/hosts, …)   read-only, or with
//!          root_disks, the last on top                                    an upper layer on scratch
//! on top:  /proc /sys /dev, /tmp from the scratch disk
//! ```
//! The old root, the init block, stays mounted for the agent's own executable only.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use costrel_agent_proto::{
    relay::{HOST_ALIAS, HOST_ALIAS_ADDRESS},
    v1::{PrepareRequest, RootAccess},
};
use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
    },
    process::{chdir, pivot_root},
};

use crate::{accounts::Accounts, devices, disks, reseed};

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("no disk has the serial number {0:?}")]
    NoDisk(String),
    #[error("cannot {operation}: {source}")]
    Step {
        operation: String,
        #[source]
        source: io::Error,
    },
}

fn step<T>(
    operation: impl Into<String>,
    result: Result<T, impl Into<io::Error>>,
) -> Result<T, RootError> {
    result.map_err(|source| RootError::Step { operation: operation.into(), source: source.into() })
}

const WORK: &str = "/run/costrel";

/// Builds the root and pivots into it.
pub(crate) fn enter(request: &PrepareRequest) -> Result<(), RootError> {
    let work = Path::new(WORK);
    step("make the work directory", fs::create_dir_all(work))?;
    // Inherited propagation would make pivot_root fail.
    step(
        "make the mounts private",
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
    )?;

    let scratch = work.join("scratch");
    mount_disk(&request.scratch_disk, &scratch, MountFlags::NOSUID | MountFlags::NODEV)?;
    let mut lowers = Vec::new();
    for (index, serial) in request.root_disks.iter().enumerate() {
        let point = work.join(format!("disk{index}"));
        mount_disk(serial, &point, MountFlags::RDONLY)?;
        lowers.push(point);
    }
    let own = work.join("own");
    step("fill the agent's layer", own_layer(&own, &lowers, request))?;
    lowers.push(own);
    lowers.reverse();

    let root = work.join("root");
    step("make the root directory", fs::create_dir(&root))?;
    mount_overlay(&root, &lowers, &scratch, request.root_access())?;
    mount_inside(&root, &scratch, request.root_access())?;

    step("enter the root", chdir(&root))?;
    step("enter the root", pivot_root(".", "."))?;
    step("leave the old root", unmount(".", UnmountFlags::DETACH))?;
    step("enter the root", chdir("/"))
}

fn mount_disk(serial: &str, point: &Path, flags: MountFlags) -> Result<(), RootError> {
    let device = disks::by_serial(serial).ok_or_else(|| RootError::NoDisk(serial.to_owned()))?;
    step("make a mount point", fs::create_dir(point))?;
    step(format!("mount the {serial} disk"), mount(&device, point, "ext4", flags, None))
}

fn mount_overlay(
    root: &Path,
    lowers: &[PathBuf],
    scratch: &Path,
    access: RootAccess,
) -> Result<(), RootError> {
    let mut options = b"lowerdir=".to_vec();
    for (index, lower) in lowers.iter().enumerate() {
        if index > 0 {
            options.push(b':');
        }
        options.extend(lower.as_os_str().as_bytes());
    }
    let flags = match access {
        // A lone lower directory is no overlay to the kernel: it asks for two or an upper.
        RootAccess::ReadOnly if lowers.len() == 1 => {
            step("bind the root", mount_bind(&lowers[0], root))?;
            let read_only = MountFlags::BIND | MountFlags::RDONLY;
            return step(
                "make the root read-only",
                rustix::mount::mount_remount(root, read_only, ""),
            );
        }
        RootAccess::ReadOnly => MountFlags::RDONLY,
        RootAccess::Writable => {
            for (name, option) in [("upper", ",upperdir="), ("work", ",workdir=")] {
                let directory = scratch.join(name);
                step("make the upper layer", fs::create_dir_all(&directory))?;
                options.extend(option.as_bytes());
                options.extend(directory.as_os_str().as_bytes());
            }
            MountFlags::empty()
        }
    };
    let options = step("name the layers", CString::new(options).map_err(io::Error::other))?;
    step("mount the root", mount("overlay", root, "overlay", flags, Some(options.as_c_str())))
}

/// Kernel file systems, and /tmp.
fn mount_inside(root: &Path, scratch: &Path, access: RootAccess) -> Result<(), RootError> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    step("mount /proc", mount("proc", root.join("proc"), "proc", plain, None))?;
    step(
        "mount /sys",
        mount("sysfs", root.join("sys"), "sysfs", plain | MountFlags::RDONLY, None),
    )?;
    let cgroup = root.join("sys/fs/cgroup");
    step(
        "mount /sys/fs/cgroup",
        mount("cgroup2", cgroup, "cgroup2", plain | MountFlags::RDONLY, None),
    )?;
    step("fill /dev", devices::populate(root))?;
    if access == RootAccess::ReadOnly {
        let tmp = scratch.join("tmp");
        step("make /tmp", fs::create_dir_all(&tmp))?;
        step("make /tmp", fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)))?;
        step("mount /tmp", mount_bind(&tmp, root.join("tmp")))?;
    }
    Ok(())
}

/// The topmost layer: mount points that a root may lack, and the files that belong to this
/// machine and not to an image.
fn own_layer(own: &Path, lowers: &[PathBuf], request: &PrepareRequest) -> io::Result<()> {
    fs::create_dir(own)?;
    mount("tmpfs", own, "tmpfs", MountFlags::empty(), Some(c"mode=755"))?;
    for name in ["proc", "sys", "dev", "tmp", "etc", "run"] {
        // A symlink or file of that name below would be hidden by ours: these must be directories.
        fs::create_dir(own.join(name))?;
    }
    fs::set_permissions(own.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    reseed::install(own)?;
    let hostname = if request.hostname.is_empty() { "localhost" } else { &request.hostname };
    let etc = own.join("etc");
    fs::write(etc.join("hostname"), format!("{hostname}\n"))?;
    let names = if hostname == "localhost" { String::new() } else { format!(" {hostname}") };
    fs::write(
        etc.join("hosts"),
        format!(
            "127.0.0.1\tlocalhost{names}\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tsandbox.localdomain sandbox\n{HOST_ALIAS_ADDRESS}\t{HOST_ALIAS}\n"
        ),
    )?;
    fs::write(etc.join("resolv.conf"), "")?;
    // The highest layer that has account files decides, as it will in the overlay.
    let with_accounts = lowers.iter().rev().find(|lower| lower.join("etc/passwd").exists());
    let mut accounts = with_accounts.map_or_else(Accounts::default, |lower| Accounts::read(lower));
    if with_accounts.is_none() {
        accounts.add_user("root", 0, 0);
    }
    for account in &request.accounts {
        accounts.add_user(&account.name, account.uid, account.gid);
    }
    fs::write(etc.join("passwd"), accounts.passwd())?;
    fs::write(etc.join("group"), accounts.group())
}
