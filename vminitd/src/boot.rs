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
    /// One of the kernel's arguments is for the agent, and for another one than this.
    #[error("this agent does not know the kernel argument {0}")]
    Unknown(String),
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
    transport(&arguments)
}

/// Reads what of the kernel's arguments is for the agent: a host that says more than it understands
/// must not be half obeyed.
fn transport(arguments: &str) -> Result<Transport, BootError> {
    let mut transport = "";
    let ours = |argument: &&str| argument.starts_with("costrel.");
    for argument in arguments.split_ascii_whitespace().filter(ours) {
        match argument.strip_prefix("costrel.transport=") {
            Some(name) => transport = name,
            None => return Err(BootError::Unknown(argument.to_owned())),
        }
    }
    Transport::parse(transport).ok_or_else(|| BootError::Transport(transport.to_owned()))
}

/// Puts a line on the kernel's console.
pub fn say(message: &str) {
    if let Ok(mut console) = fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        // In one write: each is a message of its own, with a level of its own.
        let _ = console.write_all(format!("<2>vminitd: {message}\n").as_bytes());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        let vsock = "quiet costrel.transport=vsock init=/sbin/vminitd other.foo=1\n";
        assert_eq!(transport(vsock).unwrap(), Transport::Vsock);
        let last = "costrel.transport=vsock costrel.transport=virtio-serial";
        assert_eq!(transport(last).unwrap(), Transport::VirtioSerial);
        for (arguments, complaint) in [
            (
                "costrel.transport=vsock costrel.foo=1",
                "does not know the kernel argument costrel.foo=1",
            ),
            (
                "costrel.foo costrel.transport=vsock",
                "does not know the kernel argument costrel.foo",
            ),
            ("quiet", "name no known costrel.transport: \"\""),
            ("costrel.transport=pigeon", "name no known costrel.transport: \"pigeon\""),
        ] {
            let error = transport(arguments).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
