//! Starts the runtime's process, and sees it end.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use bytes::Bytes;
use costrel_agent_proto::v1::{
    Exited, Output as OutputMessage, OutputStream, ProcessSpec, RuntimeExited, RuntimeStartFailure,
    StartRuntime, guest_message::Message,
};
use tokio::sync::oneshot;

use super::session::{Runtime, Shared};
use crate::{
    accounts::Accounts,
    cgroup::Cgroup,
    output::{Output, Stream},
    reaper::Ending,
    reseed,
    spawn::{self, Spawned, Stdin},
};

/// Starts the runtime; its failure to start is a message to the host like its end.
pub(super) async fn start(shared: &Arc<Shared>, start: StartRuntime) {
    if let Err(message) = try_start(shared, start) {
        shared.send(Message::RuntimeStartFailure(RuntimeStartFailure { message })).await;
    }
}

fn try_start(shared: &Arc<Shared>, start: StartRuntime) -> Result<(), String> {
    let mut spec = start.process.unwrap_or_default();
    if start.reseed {
        reseed::enable(&mut spec.environment);
    }
    let arguments = command(&start.bootstrap_candidates, &spec)?;
    let program = arguments.first().cloned().unwrap_or_default();
    let identity =
        Accounts::read(Path::new("/")).resolve(&spec.user).map_err(|error| error.to_string())?;
    let kills_before = shared.cgroup.get().map_or(0, Cgroup::out_of_memory_kills);

    let mut spawned = None;
    let (_, ended) = shared
        .reaper
        .spawn(|| {
            let procs = shared.cgroup.get().map(Cgroup::procs).transpose()?;
            let process = spawn::spawn(&arguments, &spec, &identity, Stdin::Null, procs)?;
            let pid = process.pid;
            spawned = Some(process);
            Ok(pid)
        })
        .map_err(|error: io::Error| format!("fork/exec {program}: {}", errno_text(&error)))?;
    let Some(Spawned { stdout, stderr, .. }) = spawned else { return Err("no process".to_owned()) };

    let deliver = {
        let shared = Arc::clone(shared);
        move |stream, data: Bytes| {
            let shared = Arc::clone(&shared);
            async move {
                let stream = match stream {
                    Stream::Stdout => OutputStream::Stdout,
                    Stream::Stderr => OutputStream::Stderr,
                };
                shared.send(Message::Output(OutputMessage { stream: stream.into(), data })).await;
            }
        }
    };
    let output = Output::pump(stdout, stderr, deliver)
        .map_err(|error| format!("cannot read its output: {error}"))?;
    let output = Arc::new(output);
    shared.reset(Runtime::started(Some(Arc::clone(&output)), start.snap_start));
    tokio::spawn(see_end(Arc::clone(shared), output, ended, kills_before));
    Ok(())
}

/// The end of the runtime's main process is the end of all of it, as on Lambda.
async fn see_end(
    shared: Arc<Shared>,
    output: Arc<Output>,
    ended: oneshot::Receiver<Ending>,
    kills_before: u64,
) {
    let Ok(ending) = ended.await else { return };
    let mut exited = exited(ending);
    let mut peak_memory_bytes = 0;
    if let Some(cgroup) = shared.cgroup.get() {
        cgroup.kill();
        exited.out_of_memory = cgroup.out_of_memory_kills() > kills_before;
        peak_memory_bytes = cgroup.peak_memory();
    }
    output.drain().await;
    shared.reset(Runtime::default());
    shared
        .send(Message::RuntimeExited(RuntimeExited { exited: Some(exited), peak_memory_bytes }))
        .await;
}

/// An ending as the host is told it.
pub(crate) fn exited(ending: Ending) -> Exited {
    match ending {
        Ending::Code(code) => Exited { code: Some(code), ..Exited::default() },
        Ending::Signal(signal) => Exited { signal: Some(signal), ..Exited::default() },
    }
}

fn command(candidates: &[String], spec: &ProcessSpec) -> Result<Vec<String>, String> {
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
        .ok_or_else(|| format!("Couldn't find valid bootstrap(s): [{}]", candidates.join(" ")))?;
    Ok([std::slice::from_ref(bootstrap), &spec.arguments].concat())
}

/// The system's message as C programs print it: lower-case, without Rust's error number.
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text[..1].to_ascii_lowercase() + &text[1..]
}
