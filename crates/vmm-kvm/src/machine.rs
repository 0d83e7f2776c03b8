//! A running machine as its owner sees it.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use costrel_vmm::{
    ByteStream, DialError, Exit, GuestPort, JailReport, Machine, MachineError, Saver,
};
use costrel_vmm_process::MachineOwner;
use tokio::sync::oneshot;

use crate::{
    control::{Command, Verb},
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
    waiting: Option<HashMap<u64, oneshot::Sender<String>>>,
}

/// A machine that was started.
pub(crate) struct KvmMachine {
    shared: Arc<Shared>,
    process: MachineOwner,
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

    fn send(&self, verb: Verb) -> io::Result<oneshot::Receiver<String>> {
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
        inner.socket.write_all(&line)?;
        Ok(answer)
    }

    pub(crate) fn answered(&self, id: u64, text: String) {
        let asker = lock(&self.inner).waiting.as_mut().and_then(|waiting| waiting.remove(&id));
        if let Some(asker) = asker {
            // Fails if whoever asked has given up.
            let _ = asker.send(text);
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
    pub(crate) fn new(shared: Arc<Shared>, process: MachineOwner) -> Self {
        Self { shared, process }
    }

    async fn command(&self, verb: Verb, name: &'static str) -> Result<String, MachineError> {
        self.process.ask(name, || self.shared.commands.send(verb)).await
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
        None
    }

    async fn wait(&self) -> Exit {
        self.process.wait().await
    }

    async fn kill(&self) -> Exit {
        self.process.kill().await
    }

    async fn console_tail(&self) -> String {
        if let Ok(tail) = self.command(Verb::Console, "tell the console's last lines").await {
            return costrel_vmm::printable(tail.as_bytes());
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

impl fmt::Debug for KvmMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmMachine").field("process", &self.process).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
