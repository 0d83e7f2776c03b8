//! Starts the processes of the function: its runtime and its external extensions.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use bytes::Bytes;
use costrel_agent_proto::v1::{
    Exited, Output as OutputMessage, OutputStream, ProcessSpec, guest_message::Message,
};
use rustix::process::Pid;
use tokio::sync::oneshot;

use super::{extensions, session::Shared, telemetry::Category};
use crate::{
    accounts::{Accounts, Identity},
    cgroup::Cgroup,
    output::{Output, Stream},
    reaper::Ending,
    spawn::{self, Spawned, Stdin},
};

/// A process that was started.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) ended: oneshot::Receiver<Ending>,
    pub(super) output: Arc<Output>,
}

/// Why a process could not be started. The texts are those that AWS's side gives.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("Couldn't find valid bootstrap(s): [{0}]")]
    NoBootstrap(String),
    #[error("{0}")]
    Account(String),
    #[error("fork/exec {program}: {}", errno_text(source))]
    Execute { program: String, source: io::Error },
    #[error("cannot read its output: {0}")]
    Output(#[source] io::Error),
    #[error("ErrTooManyExtensions")]
    TooManyExtensions,
}

impl LaunchError {
    /// What is said of an extension that could not be started.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::TooManyExtensions => "TooManyExtensions",
            Self::Execute { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "PermissionDenied"
            }
            _ => "UnknownError",
        }
    }
}

/// Starts the runtime.
pub(super) fn runtime(
    shared: &Arc<Shared>,
    candidates: &[String],
    spec: &ProcessSpec,
) -> Result<Launched, LaunchError> {
    launch(shared, &command(candidates, spec)?, spec, Category::Function)
}

/// Starts an extension, as the runtime's user and with what of its environment is for both.
pub(super) fn extension(
    shared: &Arc<Shared>,
    path: &Path,
    runtime: &ProcessSpec,
) -> Result<Launched, LaunchError> {
    let spec = ProcessSpec {
        arguments: vec![path.to_string_lossy().into_owned()],
        environment: extensions::environment(&runtime.environment),
        working_directory: String::new(),
        user: runtime.user.clone(),
    };
    launch(shared, &spec.arguments, &spec, Category::Extension)
}

fn launch(
    shared: &Arc<Shared>,
    arguments: &[String],
    spec: &ProcessSpec,
    category: Category,
) -> Result<Launched, LaunchError> {
    let program = arguments.first().cloned().unwrap_or_default();
    let identity: Identity = Accounts::read(Path::new("/"))
        .resolve(&spec.user)
        .map_err(|error| LaunchError::Account(error.to_string()))?;
    let execute = |source| LaunchError::Execute { program: program.clone(), source };
    let mut spawned = None;
    let (pid, ended) = shared
        .reaper
        .spawn(|| {
            let procs = shared.cgroup.get().map(Cgroup::procs).transpose()?;
            let process = spawn::spawn(arguments, spec, &identity, Stdin::Null, procs)?;
            let pid = process.pid;
            spawned = Some(process);
            Ok(pid)
        })
        .map_err(execute)?;
    let no_process = || execute(io::Error::other("no process"));
    let Spawned { stdout, stderr, .. } = spawned.ok_or_else(no_process)?;
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(no_process)?;
    let deliver = {
        let shared = Arc::clone(shared);
        move |stream, data: Bytes| {
            let (shared, program) = (Arc::clone(&shared), program.clone());
            async move {
                shared.telemetry.printed(category, &program, stream, &data);
                let stream = match (category, stream) {
                    (Category::Extension, _) => OutputStream::Extension,
                    (_, Stream::Stdout) => OutputStream::Stdout,
                    (_, Stream::Stderr) => OutputStream::Stderr,
                };
                shared.send(Message::Output(OutputMessage { stream: stream.into(), data })).await;
            }
        }
    };
    let output = Output::pump(stdout, stderr, deliver).map_err(LaunchError::Output)?;
    Ok(Launched { pid, ended, output: Arc::new(output) })
}

/// An ending as the host is told it.
pub(crate) fn exited(ending: Ending) -> Exited {
    match ending {
        Ending::Code(code) => Exited { code: Some(code), ..Exited::default() },
        Ending::Signal(signal) => Exited { signal: Some(signal), ..Exited::default() },
    }
}

fn command(candidates: &[String], spec: &ProcessSpec) -> Result<Vec<String>, LaunchError> {
    if candidates.is_empty() {
        return Ok(spec.arguments.clone());
    }
    let executable = |path: &&String| {
        fs::metadata(path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let bootstrap = candidates
        .iter()
        .find(executable)
        .ok_or_else(|| LaunchError::NoBootstrap(candidates.join(" ")))?;
    Ok([std::slice::from_ref(bootstrap), &spec.arguments].concat())
}

/// The system's message as C programs print it: lower-case, without Rust's error number.
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
