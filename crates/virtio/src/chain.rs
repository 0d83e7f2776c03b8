//! The buffers of a descriptor chain, checked and ready for `readv` and `writev`.

#![expect(
    unsafe_code,
    reason = "guest memory is reached through raw pointers, by system calls too"
)]

use std::{io, os::fd::AsRawFd as _, os::fd::BorrowedFd};

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory as _, Permissions};

use crate::GuestMemory;

/// The most buffers that a chain may have, empty ones included, since each costs a look at it: what
/// Linux's drivers use at most is 258.
const MOST_BUFFERS: usize = 1024;
/// The most bytes that a chain's buffers may have together: what Linux's drivers use at most is a
/// few MiB. It also keeps every sum of lengths here far from overflowing.
const MOST_BYTES: usize = 64 << 20;
// The sum before the last descriptor, and that descriptor; and all that is told of as written.
const _: () = assert!(MOST_BYTES <= usize::MAX - u32::MAX as usize);
const _: () = assert!(2 * MOST_BYTES < u32::MAX as usize);

/// The buffers of one descriptor chain: first those that the device reads, then those it writes.
///
/// Meant to be used again for the next chain, so that no memory is allocated for each. The guest
/// can change the bytes at any time: whatever is decided upon has to be copied first
/// ([`ChainBuffers::take`]).
#[derive(Debug, Default)]
pub struct ChainBuffers {
    /// Invariant: each lies within the memory that [`ChainBuffers::load`] was given.
    readable: Vec<libc::iovec>,
    writable: Vec<libc::iovec>,
    /// What was cut off the front of `writable` to be written last.
    aside: Vec<libc::iovec>,
    /// How many of the readable ones are used up, the first of the rest being cut as needed.
    taken: usize,
    readable_length: usize,
    writable_length: usize,
}

// SAFETY: the pointers are into guest memory, which is mapped for all threads alike; who uses them
// holds a reference to that memory in any case.
unsafe impl Send for ChainBuffers {}

/// Why a descriptor chain cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// A buffer is not within the guest's memory.
    #[error("the buffer of {length} bytes at {address:#x} is not guest memory")]
    Address {
        /// Where it begins, a guest physical address.
        address: u64,
        /// Its length in bytes.
        length: u32,
    },
    /// A buffer for reading follows one for writing.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// It has more buffers, or they have more bytes, than any driver needs. It may be a loop.
    #[error("the chain is too long")]
    TooLong,
    /// It ends in the middle: an index out of range, or an indirect table that is none.
    #[error("the chain breaks off")]
    Broken,
    /// It is shorter than what it must hold.
    #[error("the chain is too short")]
    TooShort,
}

impl ChainBuffers {
    /// Takes the buffers of a chain, in place of those of the chain before.
    ///
    /// # Errors
    /// [`ChainError`]; then there are no buffers in it.
    pub fn load(
        &mut self,
        memory: &GuestMemory,
        chain: DescriptorChain<&GuestMemory>,
    ) -> Result<(), ChainError> {
        self.clear();
        let result = self.collect(memory, chain);
        if result.is_err() {
            self.clear();
        }
        result
    }

    fn collect(
        &mut self,
        memory: &GuestMemory,
        chain: DescriptorChain<&GuestMemory>,
    ) -> Result<(), ChainError> {
        let mut unfinished = true;
        for (index, descriptor) in chain.enumerate() {
            if index >= MOST_BUFFERS {
                return Err(ChainError::TooLong);
            }
            unfinished = descriptor.has_next();
            let (buffers, length, access) = if descriptor.is_write_only() {
                (&mut self.writable, &mut self.writable_length, Permissions::Write)
            } else if self.writable.is_empty() {
                (&mut self.readable, &mut self.readable_length, Permissions::Read)
            } else {
                return Err(ChainError::Order);
            };
            let (address, bytes) = (descriptor.addr(), descriptor.len());
            let outside = || ChainError::Address { address: address.0, length: bytes };
            let bytes_here = usize::try_from(bytes).map_err(|_| ChainError::TooLong)?;
            *length += bytes_here;
            if *length > MOST_BYTES {
                return Err(ChainError::TooLong);
            }
            // Where two regions of memory meet, one buffer is two pieces for the host.
            for slice in memory.get_slices(address, bytes_here, access).map_err(|_| outside())? {
                let slice = slice.map_err(|_| outside())?;
                let base = slice.ptr_guard_mut().as_ptr().cast();
                buffers.push(libc::iovec { iov_base: base, iov_len: slice.len() });
            }
        }
        if unfinished { Err(ChainError::Broken) } else { Ok(()) }
    }

    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
        self.aside.clear();
        self.taken = 0;
        self.readable_length = 0;
        self.writable_length = 0;
    }

    /// How many bytes are left to be read.
    #[must_use]
    pub fn readable_length(&self) -> usize {
        self.readable_length
    }

    /// How many bytes can be written, without a status that was taken off.
    #[must_use]
    pub fn writable_length(&self) -> usize {
        self.writable_length
    }

    /// Copies the next bytes to be read, and moves on past them.
    ///
    /// # Errors
    /// [`ChainError::TooShort`].
    pub fn take<const N: usize>(&mut self, memory: &GuestMemory) -> Result<[u8; N], ChainError> {
        let mut bytes = [0; N];
        self.take_into(memory, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`ChainBuffers::take`], for as many bytes as the target has.
    ///
    /// # Errors
    /// [`ChainError::TooShort`]; then nothing was copied.
    pub fn take_into(
        &mut self,
        _memory: &GuestMemory,
        target: &mut [u8],
    ) -> Result<(), ChainError> {
        if self.readable_length < target.len() {
            return Err(ChainError::TooShort);
        }
        let mut done = 0;
        while done < target.len() {
            let buffer = &mut self.readable[self.taken];
            let count = buffer.iov_len.min(target.len() - done);
            // SAFETY: by the invariant of `readable`, whose memory the caller holds; the target is
            // ours, hence they don't overlap.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    buffer.iov_base.cast::<u8>(),
                    target[done..].as_mut_ptr(),
                    count,
                );
            }
            done += count;
            advance(buffer, count);
            if buffer.iov_len == 0 {
                self.taken += 1;
            }
        }
        self.readable_length -= target.len();
        Ok(())
    }

    /// Cuts the last byte off what can be written, as the place for a status.
    ///
    /// # Errors
    /// [`ChainError::TooShort`].
    pub fn take_status(&mut self, _memory: &GuestMemory) -> Result<StatusByte, ChainError> {
        while self.writable.last().is_some_and(|buffer| buffer.iov_len == 0) {
            self.writable.pop();
        }
        let last = self.writable.last_mut().ok_or(ChainError::TooShort)?;
        last.iov_len -= 1;
        self.writable_length -= 1;
        Ok(StatusByte { address: last.iov_base.cast::<u8>().wrapping_add(last.iov_len) })
    }

    /// Keeps only the first `length` bytes of what is to be read.
    pub fn truncate_readable(&mut self, length: usize) {
        let length = length.min(self.readable_length);
        truncate(&mut self.readable, self.taken, length);
        self.readable_length = length;
    }

    /// Keeps only the first `length` bytes of what can be written.
    pub fn truncate_writable(&mut self, length: usize) {
        let length = length.min(self.writable_length);
        truncate(&mut self.writable, 0, length);
        self.writable_length = length;
    }

    /// Writes bytes into the front of what can be written, and moves on past them.
    ///
    /// # Errors
    /// [`ChainError::TooShort`]; then nothing was written.
    pub fn put(&mut self, _memory: &GuestMemory, bytes: &[u8]) -> Result<(), ChainError> {
        if self.writable_length < bytes.len() {
            return Err(ChainError::TooShort);
        }
        // SAFETY: by the invariant of `writable`, whose memory the caller holds.
        unsafe { copy_in(&mut self.writable, bytes) };
        self.writable_length -= bytes.len();
        Ok(())
    }

    /// Cuts the first `length` bytes off what can be written, as the place for a header that is
    /// known only when what follows it is there ([`ChainBuffers::put_aside`]).
    ///
    /// # Errors
    /// [`ChainError::TooShort`]; then nothing was cut off.
    pub fn set_aside(&mut self, length: usize) -> Result<(), ChainError> {
        if self.writable_length < length {
            return Err(ChainError::TooShort);
        }
        self.aside.clear();
        let mut missing = length;
        for buffer in &mut self.writable {
            if missing == 0 {
                break;
            }
            let count = buffer.iov_len.min(missing);
            self.aside.push(libc::iovec { iov_base: buffer.iov_base, iov_len: count });
            advance(buffer, count);
            missing -= count;
        }
        self.writable_length -= length;
        Ok(())
    }

    /// Writes what was set aside; bytes for which there is no place are dropped.
    pub fn put_aside(&mut self, _memory: &GuestMemory, bytes: &[u8]) {
        // SAFETY: what was set aside is a part of `writable`, hence as in `put`.
        unsafe { copy_in(&mut self.aside, bytes) };
    }

    /// Reads from a file at an offset into all that can be written; the end of the file is an error.
    ///
    /// # Errors
    /// What the system said.
    pub fn read_from(
        &mut self,
        _memory: &GuestMemory,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> io::Result<()> {
        // SAFETY: by the invariant of `writable`, whose memory the caller holds. That the guest may
        // use it at the same time is its own affair.
        transfer(&mut self.writable, offset, |buffers, count, offset| unsafe {
            libc::preadv(file.as_raw_fd(), buffers, count, offset)
        })
    }

    /// Writes all that is to be read to a file at an offset.
    ///
    /// # Errors
    /// What the system said.
    pub fn write_to(
        &mut self,
        _memory: &GuestMemory,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> io::Result<()> {
        // SAFETY: as in `read_from`, of `readable`.
        transfer(&mut self.readable[self.taken..], offset, |buffers, count, offset| unsafe {
            libc::pwritev(file.as_raw_fd(), buffers, count, offset)
        })
    }

    /// Receives from a stream into what can be written, once, without waiting; moves on past what
    /// came. 0 is the stream's end, or that there was no room.
    ///
    /// # Errors
    /// What the system said.
    pub fn receive_from(
        &mut self,
        _memory: &GuestMemory,
        stream: BorrowedFd<'_>,
    ) -> io::Result<usize> {
        let count = count_of(&self.writable);
        // SAFETY: as in `read_from`.
        let received =
            result(unsafe { libc::readv(stream.as_raw_fd(), self.writable.as_ptr(), count) })?;
        advance_all(&mut self.writable, received);
        self.writable_length -= received;
        Ok(received)
    }

    /// Sends what is to be read to a socket, once, without waiting; moves on past what was taken.
    ///
    /// # Errors
    /// What the system said.
    pub fn send_to(&mut self, _memory: &GuestMemory, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let buffers = &mut self.readable[self.taken..];
        // SAFETY: all-zero is a message header without address and control data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = buffers.as_mut_ptr();
        message.msg_iovlen = buffers.len().min(MOST_AT_ONCE);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: as in `write_to`; the header lives as long as the call.
        let sent = result(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })?;
        advance_all(buffers, sent);
        self.readable_length -= sent;
        Ok(sent)
    }
}

/// A byte of guest memory into which the outcome of a request goes.
#[derive(Debug)]
pub struct StatusByte {
    address: *mut u8,
}

impl StatusByte {
    /// Writes it.
    pub fn set(self, _memory: &GuestMemory, status: u8) {
        // SAFETY: it comes from `take_status`, hence lies within the memory that the caller holds.
        unsafe { self.address.write_volatile(status) };
    }
}

/// Copies bytes into buffers, which are cut accordingly.
///
/// # Safety
/// The buffers lie within memory that is mapped, and that nothing of Rust's lies in.
unsafe fn copy_in(buffers: &mut [libc::iovec], bytes: &[u8]) {
    let mut done = 0;
    for buffer in buffers {
        let count = buffer.iov_len.min(bytes.len() - done);
        // SAFETY: the caller's promise; the source is ours, hence they don't overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes[done..].as_ptr(),
                buffer.iov_base.cast::<u8>(),
                count,
            );
        }
        done += count;
        advance(buffer, count);
    }
}

/// What one call of the `…v` family takes.
const MOST_AT_ONCE: usize = 1024;

fn count_of(buffers: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(buffers.len().min(MOST_AT_ONCE)).unwrap_or(libc::c_int::MAX)
}

fn result(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

fn transfer(
    mut buffers: &mut [libc::iovec],
    offset: u64,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let mut offset = offset;
    loop {
        while buffers.first().is_some_and(|buffer| buffer.iov_len == 0) {
            buffers = &mut buffers[1..];
        }
        if buffers.is_empty() {
            return Ok(());
        }
        let at = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        match result(call(buffers.as_ptr(), count_of(buffers), at)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                advance_all(buffers, count);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn advance_all(buffers: &mut [libc::iovec], mut count: usize) {
    for buffer in buffers {
        let here = count.min(buffer.iov_len);
        advance(buffer, here);
        count -= here;
        if count == 0 {
            return;
        }
    }
}

fn advance(buffer: &mut libc::iovec, count: usize) {
    buffer.iov_base = buffer.iov_base.wrapping_byte_add(count);
    buffer.iov_len -= count;
}

fn truncate(buffers: &mut Vec<libc::iovec>, from: usize, mut length: usize) {
    for index in from..buffers.len() {
        let buffer = &mut buffers[index];
        buffer.iov_len = buffer.iov_len.min(length);
        length -= buffer.iov_len;
        if length == 0 {
            buffers.truncate(index + 1);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
