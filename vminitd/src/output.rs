//! Carries a process's standard output and error on, separately, in order, to the last byte.

use std::{io, os::fd::OwnedFd};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    sync::{mpsc, oneshot},
};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The pump of one process's output.
#[derive(Debug)]
pub(crate) struct Output {
    commands: mpsc::Sender<oneshot::Sender<()>>,
}

/// A pipe's whole capacity at once, so that a process that prints a lot costs few messages.
const CHUNK: usize = 64 << 10;

impl Output {
    /// Starts to read both pipes. Every piece goes to `deliver`, which may make them wait.
    pub(crate) fn pump<D, F>(stdout: OwnedFd, stderr: OwnedFd, deliver: D) -> io::Result<Self>
    where
        D: Fn(Stream, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send,
    {
        let mut stdout = Pipe::new(stdout, Stream::Stdout)?;
        let mut stderr = Pipe::new(stderr, Stream::Stderr)?;
        let (commands, mut inbox) = mpsc::channel::<oneshot::Sender<()>>(1);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    command = inbox.recv() => {
                        let Some(done) = command else { return };
                        stdout.drain(&deliver).await;
                        stderr.drain(&deliver).await;
                        let _ = done.send(());
                    }
                    bytes = stdout.read() => deliver(stdout.stream, bytes).await,
                    bytes = stderr.read() => deliver(stderr.stream, bytes).await,
                }
            }
        });
        Ok(Self { commands })
    }

    /// Returns when all that the process has written until now was delivered.
    pub(crate) async fn drain(&self) {
        let (done, drained) = oneshot::channel();
        if self.commands.send(done).await.is_ok() {
            let _ = drained.await;
        }
    }
}

struct Pipe {
    receiver: Option<pipe::Receiver>,
    stream: Stream,
    buffer: BytesMut,
}

impl Pipe {
    fn new(fd: OwnedFd, stream: Stream) -> io::Result<Self> {
        Ok(Self {
            receiver: Some(pipe::Receiver::from_owned_fd(fd)?),
            stream,
            buffer: BytesMut::new(),
        })
    }

    /// The next bytes; never, after the end. Cancelling it loses nothing.
    async fn read(&mut self) -> Bytes {
        if let Some(receiver) = &mut self.receiver {
            self.buffer.reserve(CHUNK);
            if let Ok(1..) = receiver.read_buf(&mut self.buffer).await {
                return self.buffer.split().freeze();
            }
            self.receiver = None;
        }
        std::future::pending().await
    }

    /// Delivers what is in the pipe now, and not what is written meanwhile: that may have no end.
    async fn drain<F: Future<Output = ()>>(&mut self, deliver: &impl Fn(Stream, Bytes) -> F) {
        let Some(receiver) = &self.receiver else { return };
        let mut left = rustix::io::ioctl_fionread(receiver)
            .ok()
            .and_then(|count| count.try_into().ok())
            .unwrap_or(0);
        while left > 0 {
            // Past the executor's idea of readiness, which may be older than the last write.
            let mut piece = vec![0; CHUNK.min(left)];
            match rustix::io::read(receiver, &mut piece) {
                Ok(count @ 1..) => {
                    left -= count;
                    piece.truncate(count);
                    deliver(self.stream, piece.into()).await;
                }
                // The reading loop finds out about the end or the error.
                Ok(0) | Err(_) => return,
            }
        }
    }
}
