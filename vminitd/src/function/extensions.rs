//! Lambda extensions: programs beside the runtime, and parts of it, that take part in a function's
//! life.
//!
//! ```text
//!                 register            next              event
//! Started ──────────────► Registered ─────► Ready ◄───────────► Running
//!    │ (external ones,        │               │       next         │
//!    │  from /opt/extensions) └─init/error────┴────exit/error──────┘
//!    └─► LaunchError
//! ```
//! Specification: AWS's Lambda Extensions API, version 2020-01-01. States and texts are those of
//! AWS's emulator.

mod api;
mod event;
mod refusal;
mod registry;

#[cfg(test)]
mod tests;

pub(super) use api::{handle, identified};
pub(super) use event::{Event, Subscription};
pub(super) use refusal::ExtensionRefusal;
pub(super) use registry::{Fault, Registry};

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use costrel_agent_proto::v1::EnvironmentVariable;

/// Where external extensions lie.
pub(super) const DIRECTORY: &str = "/opt/extensions";

/// How many extensions a function may have, external and internal ones together.
pub(super) const LIMIT: usize = 10;

/// Variables that are meant for the runtime alone, beside all that begin with `_`.
const RUNTIME_ONLY: [&str; 7] = [
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_XRAY_CONTEXT_MISSING",
    "AWS_XRAY_DAEMON_ADDRESS",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];

/// The files in a directory that are extensions, by name: all that are no directories. One that
/// cannot be executed is told as such, rather than left out.
pub(super) fn find(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// What an extension sees of the runtime's environment.
pub(super) fn environment(runtime: &[EnvironmentVariable]) -> Vec<EnvironmentVariable> {
    let is_shared = |variable: &&EnvironmentVariable| {
        !variable.name.starts_with('_') && !RUNTIME_ONLY.contains(&variable.name.as_str())
    };
    runtime.iter().filter(is_shared).cloned().collect()
}
