//! QEMU's monitor protocol, as much of it as is needed: JSON lines over a socket.

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    sync::{Mutex, PoisonError},
};

use rustix::net::SendFlags;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

/// The sending half: commands, and who waits for their answers.
///
/// The answers come in on the supervisor's thread.
#[derive(Debug)]
pub(crate) struct QmpCommands {
    socket: UnixStream,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last_id: u64,
    answers: HashMap<u64, oneshot::Sender<Result<(), String>>>,
    closed: bool,
}

/// A line from QEMU.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QmpMessage {
    /// The answer to a command.
    Answer { id: u64, result: Result<(), String> },
    /// The machine ended, for this reason: `guest-reset`, `guest-shutdown`, `host-signal`, ….
    Shutdown { reason: String },
    /// Something that nobody here waits for.
    Irrelevant,
}

#[derive(Deserialize)]
struct Line {
    id: Option<u64>,
    error: Option<ErrorBody>,
    event: Option<String>,
    data: Option<EventData>,
}

#[derive(Deserialize)]
struct ErrorBody {
    desc: String,
}

#[derive(Deserialize)]
struct EventData {
    reason: Option<serde_json::Value>,
}

/// Reads a line; what isn't understood is [`QmpMessage::Irrelevant`].
pub(crate) fn parse(line: &[u8]) -> QmpMessage {
    let Ok(line) = serde_json::from_slice::<Line>(line) else { return QmpMessage::Irrelevant };
    if let Some(id) = line.id {
        return QmpMessage::Answer { id, result: line.error.map_or(Ok(()), |e| Err(e.desc)) };
    }
    if line.event.as_deref() == Some("SHUTDOWN") {
        let reason = line.data.and_then(|data| data.reason);
        let reason = reason.as_ref().and_then(|reason| reason.as_str()).unwrap_or("unknown");
        return QmpMessage::Shutdown { reason: reason.to_owned() };
    }
    QmpMessage::Irrelevant
}

impl QmpCommands {
    /// Takes QEMU's socket, which must not block: QEMU reads in a thread of its own, and a few
    /// dozen bytes that don't fit mean that it no longer does.
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self { socket, waiting: Mutex::default() }
    }

    /// Sends a command; its answer arrives at the receiver, or an error if QEMU ends first.
    pub(crate) fn send(
        &self,
        command: &'static str,
    ) -> io::Result<oneshot::Receiver<Result<(), String>>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return Ok(receiver);
        }
        waiting.last_id += 1;
        let id = waiting.last_id;
        let line = format!("{}\n", json!({ "execute": command, "id": id }));
        // Under the lock, so that lines don't mix.
        // A broken pipe shall be an error, whatever this process does about the signal.
        rustix::net::send(&self.socket, line.as_bytes(), SendFlags::NOSIGNAL)?;
        waiting.answers.insert(id, sender);
        Ok(receiver)
    }

    /// Hands an answer to whoever waits for it.
    pub(crate) fn answer(&self, id: u64, result: Result<(), String>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.answers.remove(&id) {
            // Whoever asked may have lost interest.
            let _ = sender.send(result);
        }
    }

    /// QEMU has ended: nobody needs to wait any longer.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        waiting.answers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_qemu_says() {
        assert_eq!(
            parse(br#"{"return": {}, "id": 3}"#),
            QmpMessage::Answer { id: 3, result: Ok(()) }
        );
        assert_eq!(
            parse(br#"{"id": 4, "error": {"class": "GenericError", "desc": "no"}}"#),
            QmpMessage::Answer { id: 4, result: Err("no".into()) }
        );
        let shutdown = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN",
            "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert_eq!(parse(shutdown), QmpMessage::Shutdown { reason: "guest-reset".into() });
        for irrelevant in
            [&b"{\"QMP\": {\"version\": {}}}"[..], b"{\"event\": \"STOP\"}", b"", b"[1]", b"\xff"]
        {
            assert_eq!(parse(irrelevant), QmpMessage::Irrelevant);
        }
    }
}
