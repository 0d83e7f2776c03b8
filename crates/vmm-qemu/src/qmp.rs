//! QEMU's monitor protocol, as much of it as is needed: JSON lines over a socket.

use std::{
    collections::HashMap,
    fmt, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Mutex, PoisonError},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

/// What QEMU answers to a command, or its words of refusal.
pub(crate) type QmpResult = Result<Value, String>;

/// The sending half: commands, and who waits for their answers.
///
/// The answers, and what QEMU says by itself, come in on the supervisor's thread.
#[derive(Debug)]
pub(crate) struct QmpCommands {
    socket: UnixStream,
    waiting: Mutex<Waiting>,
    /// How far the migration is: QEMU's word for it.
    migration: watch::Sender<String>,
    version: watch::Sender<Option<QemuVersion>>,
}

#[derive(Debug, Default)]
struct Waiting {
    last_id: u64,
    answers: HashMap<u64, oneshot::Sender<QmpResult>>,
    closed: bool,
}

/// A command to send.
#[derive(Debug)]
pub(crate) struct QmpCommand {
    pub(crate) name: &'static str,
    arguments: Value,
    descriptor: Option<OwnedFd>,
}

/// A line from QEMU.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QmpMessage {
    /// The first line of all.
    Greeting(QemuVersion),
    /// The answer to a command.
    Answer { id: u64, result: QmpResult },
    /// The machine ended, for this reason: `guest-reset`, `guest-shutdown`, `host-signal`, ….
    Shutdown { reason: String },
    /// A migration has come to `active`, `completed`, `failed`, ….
    Migration { status: String },
    /// Something that nobody here waits for.
    Irrelevant,
}

/// Which QEMU this is: `7.2.22 (Debian …)`. Two programs with the same words are built from the
/// same sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QemuVersion(pub(crate) String);

#[derive(Deserialize)]
struct Line {
    id: Option<u64>,
    #[serde(rename = "return", default)]
    value: Value,
    error: Option<ErrorBody>,
    event: Option<String>,
    data: Option<EventData>,
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
}

#[derive(Deserialize)]
struct ErrorBody {
    desc: String,
}

#[derive(Deserialize)]
struct EventData {
    reason: Option<Value>,
    status: Option<Value>,
}

#[derive(Deserialize)]
struct Greeting {
    version: GreetingVersion,
}

#[derive(Deserialize)]
struct GreetingVersion {
    qemu: Triple,
    #[serde(default)]
    package: String,
}

#[derive(Deserialize)]
struct Triple {
    major: u32,
    minor: u32,
    micro: u32,
}

/// Reads a line; what isn't understood is [`QmpMessage::Irrelevant`].
pub(crate) fn parse(line: &[u8]) -> QmpMessage {
    let Ok(line) = serde_json::from_slice::<Line>(line) else { return QmpMessage::Irrelevant };
    if let Some(Greeting { version: GreetingVersion { qemu, package } }) = line.greeting {
        let Triple { major, minor, micro } = qemu;
        let package = package.trim();
        let package = if package.is_empty() { String::new() } else { format!(" ({package})") };
        return QmpMessage::Greeting(QemuVersion(format!("{major}.{minor}.{micro}{package}")));
    }
    if let Some(id) = line.id {
        let result = line.error.map_or(Ok(line.value), |error| Err(error.desc));
        return QmpMessage::Answer { id, result };
    }
    let word = |value: Option<Value>| {
        value.as_ref().and_then(Value::as_str).unwrap_or("unknown").to_owned()
    };
    match (line.event.as_deref(), line.data) {
        (Some("SHUTDOWN"), data) => {
            QmpMessage::Shutdown { reason: word(data.and_then(|data| data.reason)) }
        }
        (Some("MIGRATION"), data) => {
            QmpMessage::Migration { status: word(data.and_then(|data| data.status)) }
        }
        _ => QmpMessage::Irrelevant,
    }
}

impl QmpCommand {
    pub(crate) fn new(name: &'static str, arguments: Value) -> Self {
        Self { name, arguments, descriptor: None }
    }

    /// Gives QEMU a descriptor, under a name by which the next command may call it.
    pub(crate) fn hand_over(name: &str, descriptor: OwnedFd) -> Self {
        let command = Self::new("getfd", json!({ "fdname": name }));
        Self { descriptor: Some(descriptor), ..command }
    }
}

impl From<&'static str> for QmpCommand {
    fn from(name: &'static str) -> Self {
        Self::new(name, json!({}))
    }
}

impl QmpCommands {
    /// Takes QEMU's socket, which must not block: QEMU reads in a thread of its own, and a few
    /// dozen bytes that don't fit mean that it no longer does.
    pub(crate) fn new(socket: UnixStream) -> Self {
        Self {
            socket,
            waiting: Mutex::default(),
            migration: watch::Sender::default(),
            version: watch::Sender::default(),
        }
    }

    /// Sends a command; its answer arrives at the receiver, or an error if QEMU ends first.
    pub(crate) fn send(&self, command: &QmpCommand) -> io::Result<oneshot::Receiver<QmpResult>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.closed {
            return Ok(receiver);
        }
        waiting.last_id += 1;
        let id = waiting.last_id;
        let QmpCommand { name, arguments, descriptor } = command;
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments, "id": id }));
        // Under the lock, so that lines don't mix.
        send(&self.socket, line.as_bytes(), descriptor.as_ref().map(|fd| fd.as_fd()))?;
        waiting.answers.insert(id, sender);
        Ok(receiver)
    }

    /// Hands an answer to whoever waits for it.
    pub(crate) fn answer(&self, id: u64, result: QmpResult) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = waiting.answers.remove(&id) {
            // Whoever asked may have lost interest.
            let _ = sender.send(result);
        }
    }

    /// How far the migration is, from now on.
    pub(crate) fn migration(&self) -> watch::Receiver<String> {
        self.migration.send_replace(String::new());
        self.migration.subscribe()
    }

    pub(crate) fn set_migration(&self, status: String) {
        self.migration.send_replace(status);
    }

    /// Which QEMU this is. It says so before all else, so it is known once a command was answered.
    pub(crate) fn version(&self) -> Option<QemuVersion> {
        self.version.borrow().clone()
    }

    pub(crate) fn set_version(&self, version: QemuVersion) {
        self.version.send_replace(Some(version));
    }

    /// QEMU has ended: nobody needs to wait any longer.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.closed = true;
        waiting.answers.clear();
    }
}

fn send(socket: &UnixStream, line: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    // A broken pipe shall be an error, whatever this process does about the signal.
    let flags = SendFlags::NOSIGNAL;
    let Some(descriptor) = descriptor else {
        rustix::net::send(socket, line, flags)?;
        return Ok(());
    };
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[io::IoSlice::new(line)], &mut ancillary, flags)?;
    Ok(())
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_qemu_says() {
        assert_eq!(
            parse(br#"{"return": {}, "id": 3}"#),
            QmpMessage::Answer { id: 3, result: Ok(json!({})) }
        );
        assert_eq!(
            parse(br#"{"id": 4, "error": {"class": "GenericError", "desc": "no"}}"#),
            QmpMessage::Answer { id: 4, result: Err("no".into()) }
        );
        let shutdown = br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN",
            "data": {"guest": true, "reason": "guest-reset"}}"#;
        assert_eq!(parse(shutdown), QmpMessage::Shutdown { reason: "guest-reset".into() });
        let migration = br#"{"event": "MIGRATION", "data": {"status": "completed"}}"#;
        assert_eq!(parse(migration), QmpMessage::Migration { status: "completed".into() });
        let greeting = br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7},
            "package": "Debian 1:7.2"}, "capabilities": ["oob"]}}"#;
        let version = QemuVersion("7.2.22 (Debian 1:7.2)".into());
        assert_eq!(parse(greeting), QmpMessage::Greeting(version));
        for irrelevant in
            [&b"{\"QMP\": {\"version\": {}}}"[..], b"{\"event\": \"STOP\"}", b"", b"[1]", b"\xff"]
        {
            assert_eq!(parse(irrelevant), QmpMessage::Irrelevant);
        }
    }
}
