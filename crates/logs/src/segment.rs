//! The files of one function's log.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const SUFFIX: &str = ".jsonl";

/// One file of a function's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
}

impl Segment {
    pub(crate) fn new(directory: &Path, number: u64) -> Self {
        Self { number, path: directory.join(format!("{number:010}{SUFFIX}")) }
    }

    /// The segments in a function's directory, the oldest first; none if it is not there.
    pub(crate) fn list(directory: &Path) -> io::Result<Vec<Self>> {
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut segments = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
            if let Some(number) = number {
                segments.push(Self { number, path: entry.path() });
            }
        }
        segments.sort_by_key(|segment| segment.number);
        Ok(segments)
    }
}

/// Whether a function of that name can have a directory of that name: Lambda's names can.
pub(crate) fn is_directory_name(function: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=140).contains(&function.len()) && function.bytes().all(allowed)
}
