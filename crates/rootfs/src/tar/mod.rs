//! Reads tar archives, of every dialect that images come in, without ever trusting them.
//!
//! POSIX ustar and PAX (also with global headers), GNU (long names, base-256 numbers), and the
//! old Unix form; sparse files in GNU's own format and in its three PAX formats. The `tar` crate
//! knows the headers' fields; its entries, though, do not do for us: PAX values with newlines in
//! them, as binary attributes have, PAX sparse files and global headers are beyond it.

mod number;
mod pax;
mod reader;
mod sparse;

pub use reader::TarError;
pub(crate) use reader::{Entry, EntryKind, Piece, TarReader};
