//! Bytes of the guest's that their client has not taken yet.

use std::{collections::VecDeque, io, os::unix::net::UnixStream};

use rustix::net::{SendFlags, send};

use crate::{ChainBuffers, ChainError, GuestMemory};

/// What is kept of the memory when there are no bytes.
const KEPT: usize = 4096;

/// The bytes in order. Their number is bounded by the guest's credit.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: VecDeque<u8>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes what is left to be read of a chain.
    pub(super) fn push(
        &mut self,
        memory: &GuestMemory,
        buffers: &mut ChainBuffers,
    ) -> Result<(), ChainError> {
        let start = self.bytes.len();
        self.bytes.resize(start + buffers.readable_length(), 0);
        let (first, second) = self.bytes.as_mut_slices();
        if let Some(first) = first.get_mut(start..) {
            buffers.take_into(memory, first)?;
            buffers.take_into(memory, second)
        } else {
            let before = first.len();
            buffers.take_into(memory, &mut second[start - before..])
        }
    }

    /// Sends what the client takes, and says how much that was.
    pub(super) fn send(&mut self, client: &UnixStream) -> io::Result<usize> {
        let mut total = 0;
        let outcome = loop {
            let (first, _) = self.bytes.as_slices();
            if first.is_empty() {
                break Ok(());
            }
            match send(client, first, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    self.bytes.drain(..count);
                    total += count;
                }
                Err(rustix::io::Errno::AGAIN) => break Ok(()),
                Err(error) => break Err(error.into()),
            }
        };
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT);
        }
        outcome.map(|()| total)
    }

    /// Forgets all, memory included.
    pub(super) fn clear(&mut self) {
        self.bytes = VecDeque::new();
    }
}
