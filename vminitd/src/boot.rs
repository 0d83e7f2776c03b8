//! What PID 1 does first: the mounts that it needs itself, the loopback device, the kernel's
//! arguments.

use std::{fs, io, io::Write as _};

use rustix::{
    mount::{MountFlags, mount},
    net::{AddressFamily, SendFlags, SocketFlags, SocketType},
};

use crate::transport::Transport;

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file system could not be mounted.
    #[error("cannot mount {what}: {source}")]
    Mount {
        /// Its kind.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel's arguments could not be read.
    #[error("cannot read the kernel's arguments: {0}")]
    Arguments(#[source] io::Error),
    /// The kernel's arguments name no transport that this agent knows.
    #[error("the kernel's arguments name no known costrel.transport: {0:?}")]
    Transport(String),
    /// The loopback device could not be brought up.
    #[error("cannot bring up the loopback device: {0}")]
    Loopback(#[source] io::Error),
}

/// Mounts `/dev`, `/proc`, `/sys`, the cgroup hierarchy and a temporary `/run`, brings up `lo`, and
/// finds out how the host is reached.
///
/// # Errors
/// [`BootError`].
pub fn prepare() -> Result<Transport, BootError> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // The kernel may have mounted it already (DEVTMPFS_MOUNT).
    if !fs::exists("/dev/null").unwrap_or(false) {
        mount_at("devtmpfs", "/dev", MountFlags::NOSUID)?;
    }
    mount_at("proc", "/proc", plain)?;
    mount_at("sysfs", "/sys", plain)?;
    mount_at("cgroup2", "/sys/fs/cgroup", plain)?;
    mount_at("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV)?;
    loopback_up().map_err(BootError::Loopback)?;
    let arguments = fs::read_to_string("/proc/cmdline").map_err(BootError::Arguments)?;
    let transport = arguments
        .split_ascii_whitespace()
        .filter_map(|argument| argument.strip_prefix("costrel.transport="))
        .next_back()
        .unwrap_or_default();
    Transport::parse(transport).ok_or_else(|| BootError::Transport(transport.to_owned()))
}

/// Puts a line on the kernel's console.
pub fn say(message: &str) {
    if let Ok(mut console) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = writeln!(console, "<2>vminitd: {message}");
    }
}

fn mount_at(kind: &'static str, target: &str, flags: MountFlags) -> Result<(), BootError> {
    mount(kind, target, kind, flags, None)
        .map_err(|error| BootError::Mount { what: kind, source: error.into() })
}

/// One rtnetlink request: RTM_NEWLINK for interface 1, which is always `lo`, with IFF_UP.
fn loopback_up() -> io::Result<()> {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol 0.
        None,
    )?;
    let mut request = Vec::with_capacity(LENGTH as usize);
    // struct nlmsghdr
    request.extend(LENGTH.to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    // struct ifinfomsg: family, pad, type, index, flags, change mask
    request.extend([0; 4]);
    request.extend(1u32.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    Ok(())
}
