//! The socket by which the host reaches the guest's vsock: whoever connects writes
//! `CONNECT <port>\n`, and hears `OK <number>\n` before the guest's first byte.

use std::{
    io,
    os::unix::net::UnixListener,
    path::Path,
    time::{Duration, Instant},
};

use costrel_vmm::GuestPort;
use costrel_vmm_process::SocketDirectory;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

/// Where it is.
#[derive(Debug)]
pub(crate) struct VsockSocket {
    directory: SocketDirectory,
}

const NAME: &str = "vsock.sock";
/// `OK 4294967295\n`
const ANSWER_MOST: usize = 14;

impl VsockSocket {
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        Ok(Self { directory: SocketDirectory::open(directory)? })
    }

    pub(crate) fn listen(&self) -> io::Result<UnixListener> {
        self.directory.listen(NAME)
    }

    pub(crate) fn remove(&self) {
        self.directory.remove(NAME);
    }

    /// Connects to a port of the guest as soon as anybody listens there.
    pub(crate) async fn dial(&self, port: GuestPort) -> io::Result<UnixStream> {
        let began = Instant::now();
        loop {
            if let Some(stream) = self.try_dial(port).await? {
                return Ok(stream);
            }
            // Each attempt costs the guest an interrupt or two, while it boots.
            tokio::time::sleep(Duration::from_millis(1).max(began.elapsed() / 32)).await;
        }
    }

    /// None if nobody listens yet.
    async fn try_dial(&self, port: GuestPort) -> io::Result<Option<UnixStream>> {
        let mut stream = UnixStream::connect(self.directory.address(NAME)).await?;
        let asked = stream.write_all(format!("CONNECT {port}\n").as_bytes()).await;
        let mut answer = Vec::with_capacity(ANSWER_MOST);
        while asked.is_ok() && !answer.ends_with(b"\n") && answer.len() < ANSWER_MOST {
            match stream.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(_) => return Ok(None),
            }
        }
        if answer.starts_with(b"OK ") && answer.ends_with(b"\n") {
            return Ok(Some(stream));
        }
        Ok(None)
    }
}
