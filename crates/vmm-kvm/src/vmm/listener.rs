//! The process's end of the socket to the backend.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

use crate::control::{Command, Event, Request};

/// What came from the backend.
pub(crate) enum Heard {
    Command(Command),
    HungUp,
}

/// The socket to the backend.
#[derive(Debug)]
pub(crate) struct Control {
    socket: UnixStream,
    received: Vec<u8>,
    /// Files that came along, the oldest first.
    files: VecDeque<File>,
}

/// Commands are some dozen bytes, an order some hundred. The backend is trusted; this is for a
/// descriptor that is something else.
const MOST_BYTES: usize = 64 << 10;
/// A command brings two at most.
const MOST_FILES: usize = 2;

impl Control {
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, received: Vec::new(), files: VecDeque::new() }
    }

    /// Waits for the first line.
    pub(crate) fn request(&mut self) -> io::Result<Request> {
        loop {
            if let Some(line) = self.line() {
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            if !self.receive()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub(crate) fn say(&mut self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        // Fails if the backend has gone, which is heard of next.
        let _ = self.socket.write_all(&line);
    }

    pub(super) fn heard(&mut self) -> Option<Heard> {
        let line = self.line()?;
        // A backend that talks nonsense is as good as gone.
        Some(serde_json::from_slice(&line).map_or(Heard::HungUp, Heard::Command))
    }

    /// Takes in what has come.
    pub(super) fn hear(&mut self) -> Option<Heard> {
        match self.receive() {
            Ok(true) => self.heard(),
            Ok(false) | Err(_) => Some(Heard::HungUp),
        }
    }

    /// The two files that came with a command, state and memory.
    pub(super) fn files(&mut self) -> Option<[File; 2]> {
        Some([self.files.pop_front()?, self.files.pop_front()?])
    }

    /// False at the stream's end.
    fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        loop {
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let parts = &mut [IoSliceMut::new(&mut buffer)];
            match recvmsg(&self.socket, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => {
                    for message in ancillary.drain() {
                        if let RecvAncillaryMessage::ScmRights(files) = message {
                            self.files.extend(files.map(File::from));
                        }
                    }
                    self.received.extend(&buffer[..message.bytes]);
                    return Ok(message.bytes > 0 && self.received.len() <= MOST_BYTES);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.received.iter().position(|&byte| byte == b'\n')?;
        Some(self.received.drain(..=end).collect())
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
