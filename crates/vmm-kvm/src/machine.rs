//! A running machine as its owner sees it.

use std::{
    collections::HashMap,
    fmt,
    io::{self, Write as _},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use costrel_vmm::{ByteStream, DialError, Exit, GuestPort, JailReport, Machine, MachineError};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Signal,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

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
    /// Refers to the process even after it was reaped, so no signal ever hits another.
    process: OwnedFd,
    process_id: u32,
    /// Set before the signal is sent.
    killed: AtomicBool,
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
    exit: watch::Receiver<Option<Exit>>,
    isolation: JailReport,
}

/// Commands take microseconds; this is for a process that does not run at all.
const OBEDIENCE: Duration = Duration::from_secs(30);

impl Shared {
    pub(crate) fn new(
        process: OwnedFd,
        process_id: u32,
        commands: Commands,
        vsock: VsockSocket,
        ports: Vec<GuestPort>,
    ) -> Self {
        let killed = AtomicBool::new(false);
        Self { commands, vsock, ports, process, process_id, killed, last_console: Mutex::default() }
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    pub(crate) fn set_last_console(&self, tail: String) {
        *lock(&self.last_console) = Some(tail);
    }

    /// Kills the process. The supervisor's thread reaps it.
    fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        // Fails only if it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
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
    pub(crate) fn new(
        shared: Arc<Shared>,
        exit: watch::Receiver<Option<Exit>>,
        isolation: JailReport,
    ) -> Self {
        Self { shared, exit, isolation }
    }

    async fn command(&self, verb: Verb, name: &'static str) -> Result<String, MachineError> {
        if let Some(exit) = self.exit.borrow().clone() {
            return Err(MachineError::Ended(exit));
        }
        let failed = |source| MachineError::Command { command: name, source };
        let answer = match self.shared.commands.send(verb) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Err(MachineError::Ended(self.wait().await));
            }
            Err(source) => return Err(failed(source)),
        };
        match timeout(OBEDIENCE, answer).await {
            Ok(Ok(text)) => Ok(text),
            // Nobody is left to answer.
            Ok(Err(_)) => Err(MachineError::Ended(self.wait().await)),
            Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
        }
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

    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        let ended = exit.wait_for(Option::is_some).await;
        ended.ok().and_then(|exit| exit.clone()).unwrap_or_else(|| Exit::Monitor {
            reason: "the thread that supervised it ended before it".to_owned(),
        })
    }

    async fn kill(&self) -> Exit {
        self.shared.kill();
        self.wait().await
    }

    async fn console_tail(&self) -> String {
        if let Ok(tail) = self.command(Verb::Console, "tell the console's last lines").await {
            return costrel_vmm::printable(tail.as_bytes());
        }
        lock(&self.shared.last_console).clone().unwrap_or_default()
    }

    fn isolation(&self) -> &JailReport {
        &self.isolation
    }

    fn process_id(&self) -> u32 {
        self.shared.process_id
    }
}

impl Drop for KvmMachine {
    fn drop(&mut self) {
        self.shared.kill();
        // Whoever drops a machine may end the next moment, and must not leave anything running: it
        // takes the kernel milliseconds to take a machine apart.
        let mut ended = [PollFd::new(&self.shared.process, PollFlags::IN)];
        let _ = poll(&mut ended, Some(&Timespec { tv_sec: 2, tv_nsec: 0 }));
    }
}

impl fmt::Debug for KvmMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmMachine").field("exit", &*self.exit.borrow()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
