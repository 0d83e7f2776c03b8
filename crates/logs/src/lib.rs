//! What functions have logged, on disk.
//!
//! A directory for each function holds *segments*: files of JSON lines, numbered in the order in which
//! they were begun. [`LogStore`] appends to the last one, begins another when it is large enough, and
//! removes the oldest when a function's segments are too large together. [`LogReader`] reads what is
//! there, and follows what is added, from any process.
//!
//! Invariant: a line is in the file once the writer's thread has taken it off its queue; no buffer of
//! this process holds it longer. What a killed server loses are the lines of its last moment.

mod line;
mod query;
mod reader;
mod segment;
mod store;

pub use line::{LogLine, Source};
pub use query::Query;
pub use reader::{Follow, LogReader, ReadLogError};
pub use store::{LogSettings, LogStore, OpenLogError};
