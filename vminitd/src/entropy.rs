//! The kernel's random numbers: what the host adds to them.
#![expect(unsafe_code, reason = "the random devices' ioctls have no safe form")]

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
};

use rustix::ioctl::{NoArg, Opcode, Setter, ioctl, opcode};

/// The kernel's pool of entropy.
///
/// The device is opened once, before the root changes: afterwards `/dev` is the workload's.
#[derive(Debug)]
pub(crate) struct EntropyPool(File);

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of linux/random.h.
const ADD_ENTROPY: Opcode = opcode::write::<[i32; 2]>(b'R', 0x03);
const RESEED: Opcode = opcode::none(b'R', 0x07);

/// What is added at once, in bytes; more comes in pieces.
const PIECE: usize = 64;

/// `struct rand_pool_info` of linux/random.h, with room for one piece.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    length: i32,
    bytes: [u8; PIECE],
}

impl EntropyPool {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(OpenOptions::new().write(true).open("/dev/urandom")?))
    }

    /// Mixes bytes in, without credit: they change what comes out some time later.
    pub(crate) fn mix(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.0).write_all(bytes)
    }

    /// Adds bytes that nobody else knows, and makes everything that is drawn from now on depend on
    /// them: in a machine that is one of many with the same memory, nothing else tells them apart.
    pub(crate) fn reseed(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            let mut info = PoolInfo { entropy_bits: 0, length: 0, bytes: [0; PIECE] };
            info.bytes[..piece.len()].copy_from_slice(piece);
            info.length = i32::try_from(piece.len()).map_err(io::Error::other)?;
            info.entropy_bits = info.length * 8;
            // SAFETY: the kernel reads a `rand_pool_info`, and of its bytes as many as it says,
            // which is at most as many as there are.
            unsafe { ioctl(&self.0, Setter::<ADD_ENTROPY, PoolInfo>::new(info))? };
        }
        // SAFETY: it takes no argument.
        unsafe { ioctl(&self.0, NoArg::<RESEED>::new())? };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ioctls_have_the_kernels_numbers() {
        assert_eq!((ADD_ENTROPY, RESEED), (0x4008_5203, 0x5207));
    }

    #[test]
    fn entropy_is_taken_in_pieces() {
        let pool = EntropyPool::open().unwrap();
        pool.mix(b"anything").unwrap();
        match pool.reseed(&[7; 3 * PIECE + 1]) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => lacking(&error),
            result => result.unwrap(),
        }
    }

    #[expect(clippy::print_stderr, reason = "a test that is skipped says what it lacks")]
    fn lacking(error: &io::Error) {
        eprintln!("skipped: it takes the right to credit entropy, CAP_SYS_ADMIN ({error})");
    }
}
