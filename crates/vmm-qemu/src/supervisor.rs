//! The thread that starts a QEMU, listens to all that it says, and reaps it.
//!
//! One thread a machine, since the kernel takes the death of the *thread* that forked a process for
//! its parent's: this one lives exactly as long as its QEMU.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use costrel_vmm::{
    BootError, ConsoleLog, ConsoleWatch, Disk, Exit, MachineSpec, MeasureName, Standing, Strictness,
};
use costrel_vmm_process::{MachineOwner, MonitorProcess, ProcessHandle, remove_record};
use rustix::event::{PollFd, PollFlags};
use tokio::sync::{oneshot, watch};

use crate::{
    arguments::{self, Descriptors, Origin},
    end::End,
    jail::{self, Kernel},
    machine::{QemuMachine, Shared},
    memory::Backing,
    ports::Ports,
    qmp::{self, QmpCommands, QmpMessage},
    state::machine_text,
    tsc::TscMeasurement,
};

/// What the thread needs to start a machine.
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) spec: MachineSpec,
    pub(crate) backing: Backing,
    pub(crate) tsc: Arc<TscMeasurement>,
    pub(crate) strictness: Strictness,
}

type Started = Result<QemuMachine, BootError>;

/// The thread's body: from nothing to nothing.
pub(crate) fn supervise(plan: &Plan, started: oneshot::Sender<Started>) {
    let launched = match Launched::launch(plan) {
        Ok(launched) => launched,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    launched.run(started);
}

struct Launched {
    directory: PathBuf,
    backing: Backing,
    machine_text: String,
    tsc_khz: u64,
    process: MonitorProcess,
    handle: Arc<ProcessHandle>,
    shared: Arc<Shared>,
    console: Option<UnixStream>,
    console_log: Option<ConsoleLog>,
    qmp: Option<UnixStream>,
    qmp_line: Vec<u8>,
    stderr: Option<File>,
    stderr_tail: Vec<u8>,
    shutdown_reason: Option<String>,
    halted: bool,
}

const STDERR_BYTES: usize = 2 << 10;
/// Longer than anything that the events and answers used here can be.
const QMP_LINE_BYTES: usize = 64 << 10;

impl Launched {
    fn launch(plan: &Plan) -> Result<Self, BootError> {
        let spec = &plan.spec;
        let ports = Ports::new(&spec.directory, &spec.ports).map_err(|source| BootError::File {
            what: "directory",
            path: spec.directory.clone(),
            source,
        })?;
        let console_log = ConsoleLog::create(&spec.console).map_err(|source| BootError::File {
            what: "console log",
            path: spec.console.path.clone(),
            source,
        })?;
        let sockets = Sockets::pair().map_err(host("make a pair of sockets"))?;
        let qmp_commands = sockets.qmp.try_clone().map_err(host("duplicate a socket"))?;
        let tsc_khz = plan.tsc.khz();
        let started = start(plan, tsc_khz, &ports, &sockets.theirs).and_then(|process| {
            let mut isolation = process.isolation().clone();
            // By `-sandbox`, without which it does not run.
            isolation.set(MeasureName::Seccomp, Standing::with_detail("QEMU's own filter"));
            // A process of which no record can be kept is ended here.
            let handle = process
                .record(&spec.directory)
                .and_then(|()| ProcessHandle::new(&process, isolation))
                .map_err(host("keep a record of QEMU's process"))?;
            Ok((process, handle))
        });
        let (mut process, handle) = match started {
            Ok(started) => started,
            Err(error) => {
                ports.remove();
                return Err(error);
            }
        };
        let stderr = process.take_stderr().map(File::from);
        if let Some(stderr) = &stderr {
            // A program that leaves it open to others must not hold us up.
            rustix::io::ioctl_fionbio(stderr, true)
                .map_err(|error| host("listen to QEMU")(error.into()))?;
        }
        Ok(Self {
            directory: spec.directory.clone(),
            backing: plan.backing.clone(),
            machine_text: machine_text(spec),
            tsc_khz,
            shared: Arc::new(Shared {
                ports,
                qmp: QmpCommands::new(qmp_commands),
                console: Mutex::default(),
                exit_code: OnceLock::new(),
            }),
            handle: Arc::new(handle),
            process,
            console: Some(sockets.console),
            console_log: Some(console_log),
            qmp: Some(sockets.qmp),
            qmp_line: Vec::new(),
            stderr,
            stderr_tail: Vec::new(),
            shutdown_reason: None,
            halted: false,
        })
    }

    fn run(mut self, started: oneshot::Sender<Started>) {
        let (exit_sender, exit) = watch::channel(None);
        let mut started = Some(started);
        // QEMU answers its first command when the machine is complete and runs, or waits for what
        // it shall be.
        let mut running = self.shared.qmp.send(&"qmp_capabilities".into()).ok();
        loop {
            let ended = self.listen();
            if let Some(answer) = &mut running
                && let Ok(Ok(_)) = answer.try_recv()
                && let Some(started) = started.take()
            {
                running = None;
                let process = MachineOwner::new(Arc::clone(&self.handle), exit.clone());
                let machine = QemuMachine {
                    shared: Arc::clone(&self.shared),
                    process,
                    backing: self.backing.clone(),
                    machine_text: self.machine_text.clone(),
                    tsc_khz: self.tsc_khz,
                    saved: tokio::sync::Mutex::default(),
                };
                // Fails if the owner lost interest; then the machine is dropped, hence killed.
                let _ = started.send(Ok(machine));
            }
            if ended {
                break;
            }
        }
        let status = self.process.wait();
        if let Some(code) = status.as_ref().ok().and_then(ExitStatus::code) {
            let _ = self.shared.exit_code.set(code);
        }
        let exit = self.finish(&status);
        if let Some(started) = started.take() {
            let reason = match &exit {
                Exit::Monitor { reason } => reason.clone(),
                other => other.to_string(),
            };
            let _ = started.send(Err(BootError::Monitor { reason }));
        }
        exit_sender.send_replace(Some(exit));
    }

    /// Waits until QEMU says something, and takes it in. True once QEMU has ended, and everything
    /// that it said is in.
    fn listen(&mut self) -> bool {
        let sources = [
            Some(self.handle.as_fd()),
            self.console.as_ref().map(|socket| socket.as_fd()),
            self.qmp.as_ref().map(|socket| socket.as_fd()),
            self.stderr.as_ref().map(|pipe| pipe.as_fd()),
        ];
        let mut polled: Vec<PollFd<'_>> = sources
            .iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        // An interrupted wait reports nothing; the next one does.
        if rustix::event::poll(&mut polled, None).is_err() {
            return false;
        }
        let ready: Vec<bool> = {
            let mut answers = polled.iter().map(|fd| !fd.revents().is_empty());
            sources.iter().map(|s| s.is_some() && answers.next().unwrap_or(false)).collect()
        };
        let ended = ready[0];
        if ready[2] || ended {
            self.hear_qmp(ended);
        }
        if ready[1] || ended {
            self.hear_console(ended);
        }
        if ready[3] || ended {
            self.hear_stderr(ended);
        }
        ended
    }

    fn hear_console(&mut self, to_the_end: bool) {
        loop {
            let mut buffer = [0; 4096];
            let count = match take(self.console.as_mut(), &mut buffer) {
                Heard::Bytes(count) => count,
                Heard::NothingNow => return,
                Heard::End => {
                    self.console = None;
                    return;
                }
            };
            let bytes = &buffer[..count];
            // Without room on the disk the machine goes on without its log.
            if let Some(log) = &mut self.console_log
                && let Err(error) = log.write(bytes)
            {
                tracing::warn!(%error, "the console's log ends here");
                self.console_log = None;
            }
            let halted = {
                let mut console = lock(&self.shared.console);
                console.take(bytes);
                console.words().halted
            };
            if halted && !self.halted {
                self.halted = true;
                self.handle.end();
            }
            // Not more at a time, or a flood would drown what QEMU itself says.
            if !to_the_end {
                return;
            }
        }
    }

    fn hear_qmp(&mut self, to_the_end: bool) {
        loop {
            let mut buffer = [0; 4096];
            match take(self.qmp.as_mut(), &mut buffer) {
                Heard::Bytes(count) => {
                    for part in buffer[..count].split_inclusive(|&byte| byte == b'\n') {
                        self.qmp_line.extend(part);
                        if part.ends_with(b"\n") {
                            self.hear_message();
                        }
                    }
                    if self.qmp_line.len() > QMP_LINE_BYTES {
                        self.qmp_line.clear();
                    }
                }
                Heard::NothingNow => return,
                Heard::End => {
                    self.qmp = None;
                    return;
                }
            }
            if !to_the_end {
                return;
            }
        }
    }

    fn hear_message(&mut self) {
        match qmp::parse(&std::mem::take(&mut self.qmp_line)) {
            QmpMessage::Greeting(version) => self.shared.qmp.set_version(version),
            QmpMessage::Answer { id, result } => self.shared.qmp.answer(id, result),
            QmpMessage::Migration { status } => self.shared.qmp.set_migration(status),
            QmpMessage::Shutdown { reason } => self.shutdown_reason = Some(reason),
            QmpMessage::Irrelevant => {}
        }
    }

    fn hear_stderr(&mut self, to_the_end: bool) {
        loop {
            let mut buffer = [0; 4096];
            match take(self.stderr.as_mut(), &mut buffer) {
                Heard::Bytes(count) => {
                    self.stderr_tail.extend(&buffer[..count]);
                    let excess = self.stderr_tail.len().saturating_sub(STDERR_BYTES);
                    self.stderr_tail.drain(..excess);
                }
                Heard::NothingNow => return,
                Heard::End => {
                    self.stderr = None;
                    return;
                }
            }
            if !to_the_end {
                return;
            }
        }
    }

    /// Leaves nothing behind, and says how it ended.
    fn finish(&mut self, status: &io::Result<ExitStatus>) -> Exit {
        if let Some(log) = &mut self.console_log
            && let Err(error) = log.finish()
        {
            tracing::warn!(%error, "the console's log lacks its end");
        }
        self.shared.ports.remove();
        remove_record(&self.directory);
        self.shared.qmp.close();
        let words = {
            let mut console = lock(&self.shared.console);
            console.finish();
            console.words().clone()
        };
        let end = End {
            killed: self.handle.was_killed(),
            halted: self.halted,
            shutdown_reason: self.shutdown_reason.as_deref(),
            words: &words,
            status,
            stderr: &self.stderr_tail,
            ran_out_of_memory: self.process.ran_out_of_memory(),
        };
        end.exit()
    }
}

enum Heard {
    Bytes(usize),
    NothingNow,
    End,
}

fn take(source: Option<&mut impl Read>, buffer: &mut [u8]) -> Heard {
    let Some(source) = source else { return Heard::End };
    match source.read(buffer) {
        Ok(0) => Heard::End,
        Ok(count) => Heard::Bytes(count),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => Heard::NothingNow,
        Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted) => Heard::NothingNow,
        Err(_) => Heard::End,
    }
}

fn lock(console: &Mutex<ConsoleWatch>) -> MutexGuard<'_, ConsoleWatch> {
    console.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host(operation: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Host { operation, source }
}

/// Our ends of the pairs, and QEMU's.
struct Sockets {
    console: UnixStream,
    qmp: UnixStream,
    theirs: TheirSockets,
}

struct TheirSockets {
    console: UnixStream,
    qmp: UnixStream,
}

impl Sockets {
    fn pair() -> io::Result<Self> {
        let (console, console_theirs) = UnixStream::pair()?;
        let (qmp, qmp_theirs) = UnixStream::pair()?;
        console.set_nonblocking(true)?;
        qmp.set_nonblocking(true)?;
        Ok(Self { console, qmp, theirs: TheirSockets { console: console_theirs, qmp: qmp_theirs } })
    }
}

/// Opens all that QEMU shall have, and starts it.
fn start(
    plan: &Plan,
    tsc_khz: u64,
    ports: &Ports,
    sockets: &TheirSockets,
) -> Result<MonitorProcess, BootError> {
    let spec = &plan.spec;
    let kernel = match plan.backing {
        Backing::Snapshot(_) => None,
        Backing::Anonymous | Backing::Shared(_) => {
            let file = spec.kernel.open(spec.memory)?.0;
            Some(Kernel::for_anybody(file).map_err(host("copy the kernel"))?)
        }
    };
    let origin = match &kernel {
        None => Origin::Snapshot,
        Some(kernel) => Origin::Kernel {
            kernel: kernel.file().as_raw_fd(),
            arguments: arguments::kernel_arguments(spec, tsc_khz)?,
        },
    };
    let disks = spec.disks.iter().map(Disk::open).collect::<Result<Vec<_>, _>>()?;
    let listeners = ports.listen().map_err(host("make sockets for the guest's ports"))?;
    let memory = plan.backing.file();
    let descriptors = Descriptors {
        memory: memory.map(File::as_raw_fd),
        console: sockets.console.as_raw_fd(),
        qmp: sockets.qmp.as_raw_fd(),
        disks: disks.iter().map(File::as_raw_fd).collect(),
        ports: listeners.iter().map(UnixListener::as_raw_fd).collect(),
    };
    let arguments = arguments::command_line(spec, &descriptors, &origin)?;
    let mut inherited = vec![sockets.console.as_fd(), sockets.qmp.as_fd()];
    inherited.extend(kernel.as_ref().map(|kernel| kernel.file().as_fd()));
    inherited.extend(memory.map(File::as_fd));
    inherited.extend(disks.iter().map(File::as_fd));
    inherited.extend(listeners.iter().map(UnixListener::as_fd));
    jail::start(plan, &arguments, &inherited, kernel.as_ref(), &disks)
}
