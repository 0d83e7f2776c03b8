//! A running machine as its owner sees it.

use std::{
    collections::HashMap,
    fmt,
    io::{self, IoSlice, Write as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use costrel_vmm::{
    ByteStream, DialError, Exit, GuestPort, JailReport, Machine, MachineError, SaveError, Saver,
    Saving, SnapshotFiles, printable,
};
use costrel_vmm_process::MachineOwner;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::sync::oneshot;

use crate::{
    control::{Answer, Command, Verb},
    vsock::VsockSocket,
};

/// What the supervisor's thread and the owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) commands: Commands,
    pub(crate) vsock: VsockSocket,
    ports: Vec<GuestPort>,
    last_console: Mutex<Option<String>>,
}

/// The commands that were sent, and who waits for their answers.
#[derive(Debug)]
pub(crate) struct Commands {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: UnixStream,
    next: u64,
    /// None once no more answers come.
    waiting: Option<HashMap<u64, oneshot::Sender<Answer>>>,
}

/// A machine that was started.
pub(crate) struct KvmMachine {
    shared: Arc<Shared>,
    process: MachineOwner,
    saving: Saving,
}

impl Shared {
    pub(crate) fn new(commands: Commands, vsock: VsockSocket, ports: Vec<GuestPort>) -> Self {
        Self { commands, vsock, ports, last_console: Mutex::default() }
    }

    pub(crate) fn set_last_console(&self, tail: String) {
        *lock(&self.last_console) = Some(tail);
    }
}

impl Commands {
    pub(crate) fn new(socket: UnixStream) -> Self {
        let inner = Inner { socket, next: 0, waiting: Some(HashMap::new()) };
        Self { inner: Mutex::new(inner) }
    }

    /// Sends a command, and files with it.
    fn send(&self, verb: Verb, files: &[BorrowedFd<'_>]) -> io::Result<oneshot::Receiver<Answer>> {
        let mut inner = lock(&self.inner);
        let id = inner.next;
        inner.next += 1;
        let (sender, answer) = oneshot::channel();
        let Some(waiting) = &mut inner.waiting else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        waiting.insert(id, sender);
        let mut line = serde_json::to_vec(&Command { id, verb })?;
        line.push(b'\n');
        // So short that the socket has room for it, unless the process does not run at all.
        let sent = send_with(&inner.socket, &line, files)?;
        inner.socket.write_all(&line[sent..])?;
        Ok(answer)
    }

    pub(crate) fn answered(&self, id: u64, answer: Answer) {
        let asker = lock(&self.inner).waiting.as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(asker) = asker {
            // Fails if whoever asked has given up.
            let _ = asker.send(answer);
        }
    }

    /// No more answers will come.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.waiting = None;
        let _ = inner.socket.shutdown(Shutdown::Both);
    }
}

impl KvmMachine {
    pub(crate) fn new(shared: Arc<Shared>, process: MachineOwner, saving: Saving) -> Self {
        Self { shared, process, saving }
    }

    async fn command(&self, verb: Verb, name: &'static str) -> Result<Answer, MachineError> {
        self.process.ask(name, || self.shared.commands.send(verb, &[])).await
    }
}

#[async_trait]
impl Machine for KvmMachine {
    async fn dial(&self, port: GuestPort) -> Result<Box<dyn ByteStream>, DialError> {
        if !self.shared.ports.contains(&port) {
            return Err(DialError::Undeclared(port));
        }
        let stream = self.shared.vsock.dial(port).await;
        Ok(Box::new(stream.map_err(|source| DialError::Connect { port, source })?))
    }

    async fn pause(&self) -> Result<(), MachineError> {
        self.command(Verb::Pause, "pause").await.map(drop)
    }

    async fn resume(&self) -> Result<(), MachineError> {
        self.command(Verb::Resume, "resume").await.map(drop)
    }

    fn saver(&self) -> Option<&dyn Saver> {
        (self.saving == Saving::Expected).then_some(self)
    }

    async fn wait(&self) -> Exit {
        self.process.wait().await
    }

    async fn kill(&self) -> Exit {
        self.process.kill().await
    }

    async fn console_tail(&self) -> String {
        if let Ok(Answer::Text(tail)) =
            self.command(Verb::Console, "tell the console's last lines").await
        {
            return printable(tail.as_bytes());
        }
        lock(&self.shared.last_console).clone().unwrap_or_default()
    }

    fn isolation(&self) -> &JailReport {
        self.process.isolation()
    }

    fn process_id(&self) -> u32 {
        self.process.id()
    }
}

#[async_trait]
impl Saver for KvmMachine {
    async fn save(&self, files: &SnapshotFiles) -> Result<(), SaveError> {
        let files = [files.state.as_fd(), files.memory.as_fd()];
        let failed = |reason: String| SaveError::Failed { reason };
        let answer = match self.shared.commands.send(Verb::Save, &files) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(SaveError::Ended(self.process.wait().await));
            }
            Err(error) => return Err(failed(format!("costrel-vmm cannot be told: {error}"))),
        };
        // However long it takes: a disk may be slow, and the memory large.
        match answer.await {
            Ok(Answer::Done | Answer::Text(_)) => Ok(()),
            Ok(Answer::NotPaused) => Err(SaveError::NotPaused),
            Ok(Answer::Failed(reason)) => Err(failed(printable(reason.as_bytes()))),
            // Nobody is left to answer.
            Err(_) => Err(SaveError::Ended(self.process.wait().await)),
        }
    }
}

/// Sends what the socket has room for. The files go with the first byte.
fn send_with(socket: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(files));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

impl fmt::Debug for KvmMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmMachine").field("process", &self.process).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
