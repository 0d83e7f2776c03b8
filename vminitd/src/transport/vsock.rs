//! Sockets between host and guest (`AF_VSOCK`), any number of them.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrAny, SocketFlags, SocketType, acceptfrom_with,
        addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque},
        bind, listen, socket_with,
    },
};
use tokio::io::unix::AsyncFd;
use tokio_stream::Stream;

use super::{Connection, TransportError, connection::register};

/// Who speaks: the context id of vsock(7), `VMADDR_CID_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
struct ContextId(u32);

impl ContextId {
    const ANY: Self = Self(u32::MAX);
    const HOST: Self = Self(2);
}

/// `struct sockaddr_vm` of linux/vm_sockets.h.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    context: ContextId,
    flags: u8,
    zero: [u8; 3],
}

impl Address {
    fn new(context: ContextId, port: u32) -> Self {
        let family = AddressFamily::VSOCK.as_raw();
        Self { family, reserved: 0, port, context, flags: 0, zero: [0; 3] }
    }

    /// None if it is no address of this family.
    #[expect(unsafe_code, reason = "rustix has no type of its own for this family")]
    fn read(address: &SocketAddrAny) -> Option<Self> {
        let whole = address.addr_len() as usize >= size_of::<Self>();
        if address.address_family() != AddressFamily::VSOCK || !whole {
            return None;
        }
        // SAFETY: the first `addr_len` bytes are initialized, which are enough, and any bytes make
        // a valid `Address`.
        Some(unsafe { address.as_ptr().cast::<Self>().read_unaligned() })
    }
}

// SAFETY: the pointer is to an `Address`, which is readable for the length of one, and laid out as
// the system calls have it.
#[expect(unsafe_code, reason = "rustix has no type of its own for this family")]
unsafe impl SocketAddrArg for Address {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        const LENGTH: SocketAddrLen = 16;
        const { assert!(size_of::<Address>() == LENGTH as usize) }
        f(std::ptr::from_ref(self).cast(), LENGTH)
    }
}

/// The host's connections to that port.
pub(super) fn connections(
    port: u32,
) -> Result<impl Stream<Item = io::Result<Connection>>, TransportError> {
    let listener = listener(port).map_err(|source| TransportError::Listen { port, source })?;
    Ok(accepted(listener, ContextId::HOST))
}

/// As many connections as the host's side can have: who comes while there is no room is turned away.
const BACKLOG: i32 = 1024;

fn listener(port: u32) -> io::Result<AsyncFd<OwnedFd>> {
    let socket = socket()?;
    bind(&socket, &Address::new(ContextId::ANY, port))?;
    listen(&socket, BACKLOG)?;
    register(socket)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)?)
}

/// The connections of one peer; those of all others are closed. A workload could dial its own
/// machine's port where the kernel has vsock's loopback.
fn accepted(
    listener: AsyncFd<OwnedFd>,
    peer: ContextId,
) -> impl Stream<Item = io::Result<Connection>> {
    let is_peer = move |address: Option<SocketAddrAny>| {
        address.and_then(|address| Address::read(&address)).is_some_and(|a| a.context == peer)
    };
    async_stream::stream! {
        loop {
            match accept(&listener).await {
                Ok((socket, address)) if is_peer(address.clone()) => {
                    yield register(socket).map(Connection::socket);
                }
                Ok(_from_another) => {}
                // Too few descriptors, too little memory: both may pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let mut guard = listener.readable().await?;
        match guard.try_io(|socket| Ok(acceptfrom_with(socket.get_ref(), flags)?)) {
            // The peer was gone before it was noticed.
            Ok(Err(error)) if error.raw_os_error() == Some(Errno::CONNABORTED.raw_os_error()) => {}
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use rustix::net::{connect, getsockname};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt as _;

    use super::*;

    const LOOPBACK: ContextId = ContextId(1);
    const ANY_PORT: u32 = u32::MAX;

    /// A listener, and a blocking socket connected to it. None without vsock's loopback.
    fn dialled() -> Option<(AsyncFd<OwnedFd>, OwnedFd)> {
        let socket = || {
            let flags = SocketFlags::CLOEXEC;
            socket_with(AddressFamily::VSOCK, SocketType::STREAM, flags, None)
        };
        let dialled = listener(ANY_PORT).and_then(|listener| {
            let address = Address::read(&getsockname(listener.get_ref())?).unwrap();
            assert_eq!(address.context, ContextId::ANY);
            let client = socket()?;
            connect(&client, &Address::new(LOOPBACK, address.port))?;
            Ok((listener, client))
        });
        match dialled {
            Ok(dialled) => Some(dialled),
            Err(error) => {
                lacking(&error);
                None
            }
        }
    }

    #[expect(clippy::print_stderr, reason = "a test that is skipped says what it lacks")]
    fn lacking(error: &io::Error) {
        eprintln!("skipped: it takes vsock's loopback, the module vsock_loopback ({error})");
    }

    #[tokio::test]
    async fn carries_bytes_both_ways_until_either_side_ends() {
        let Some((listener, client)) = dialled() else { return };
        let mut connections = pin!(accepted(listener, LOOPBACK));
        let mut connection = connections.next().await.unwrap().unwrap();
        rustix::io::write(&client, b"question").unwrap();
        let mut buffer = [0; 8];
        connection.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"question");

        connection.write_all(b"answer").await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = [0; 6];
        assert_eq!(rustix::io::read(&client, &mut answer).unwrap(), 6);
        assert_eq!(&answer, b"answer");
        assert_eq!(rustix::io::read(&client, &mut answer).unwrap(), 0, "nothing more comes");

        drop(client);
        assert_eq!(connection.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn closes_what_does_not_come_from_the_host() {
        let Some((listener, client)) = dialled() else { return };
        let mut connections = pin!(accepted(listener, ContextId::HOST));
        let wait = tokio::time::timeout(Duration::from_millis(200), connections.next());
        assert!(wait.await.is_err(), "nothing was accepted");
        let end = rustix::io::read(&client, &mut [0; 1]);
        assert!(matches!(end, Ok(0) | Err(Errno::CONNRESET)), "{end:?}");
    }

    #[test]
    fn an_address_survives_the_kernels_form() {
        let address = Address::new(ContextId::HOST, 1024);
        let read = Address::read(&address.as_any()).unwrap();
        assert_eq!((read.context, read.port), (ContextId::HOST, 1024));
        let other = SocketAddrArg::as_any(&std::net::SocketAddr::from(([127, 0, 0, 1], 1024)));
        assert!(Address::read(&other).is_none());
    }
}
