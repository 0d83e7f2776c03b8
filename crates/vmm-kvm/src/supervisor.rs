//! The thread that starts a machine's process, hears what it says, and reaps it.
//!
//! One thread a machine, since the kernel takes the death of the *thread* that made a process for
//! its parent's: this one lives exactly as long as its machine.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::ExitStatus,
    sync::Arc,
};

use costrel_vmm::{
    BootError, Disk, DiskAccess, Exit, KernelLayout, MachineSpec, RestoreError, Saving,
    SnapshotFiles, printable,
};
use costrel_vmm_process::{
    FileView, GroupSpec, JailSpec, MachineOwner, MonitorProcess, MonitorSpec, ProcessHandle,
    ResourceLimits, SpawnError, remove_record, spawn,
};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::{oneshot, watch};

use crate::{
    KvmSettings,
    control::{Event, Fault, Order, OrderedAccess, OrderedDisk, Request, Start},
    machine::{Commands, KvmMachine, Shared},
    vsock::VsockSocket,
};

/// What the thread needs to start a machine.
pub(crate) struct Plan {
    pub(crate) kvm: File,
    pub(crate) settings: KvmSettings,
    pub(crate) spec: MachineSpec,
    /// The saved machine that it is to be, if it does not begin with its kernel.
    pub(crate) snapshot: Option<SnapshotFiles>,
}

type Started = Result<KvmMachine, RestoreError>;

/// What a machine's process may use beyond its guest's memory, in bytes: its own, the kernel's page
/// tables for the guest and its buffers. The group's limit is there to stop a process that has gone
/// wrong, not to be met.
const OVERHEAD: u64 = 128 << 20;
/// Threads: main, devices, vCPUs; and room for the kernel's own counting.
const PROCESSES: u64 = 64;
const OPEN_FILES: u64 = 4096;
const OUT_OF_MEMORY: &str =
    "costrel-vmm was ended, since it needed more memory than its control group may have";

/// The thread's body: from nothing to nothing.
pub(crate) fn supervise(plan: &Plan, started: oneshot::Sender<Started>) {
    let supervised = match Supervised::start(plan) {
        Ok(supervised) => supervised,
        Err(error) => {
            let _ = started.send(Err(error.into()));
            return;
        }
    };
    supervised.run(&plan.spec, started);
}

struct Supervised {
    process: MonitorProcess,
    control: UnixStream,
    line: Vec<u8>,
    stderr: Option<File>,
    stderr_tail: Vec<u8>,
    shared: Arc<Shared>,
    /// What the process itself has said of its end.
    ended: Option<Exit>,
    refused: Option<(String, Fault)>,
    /// Once the guest executes.
    handle: Option<Arc<ProcessHandle>>,
}

/// Far more than an event can have: the console's last lines are the longest.
const LINE_BYTES: usize = 256 << 10;
const STDERR_BYTES: usize = 2 << 10;

impl Supervised {
    fn start(plan: &Plan) -> Result<Self, BootError> {
        let Plan { kvm, settings, spec, snapshot } = plan;
        let beginning = match snapshot {
            Some(files) => Beginning::Snapshot(files),
            None => {
                let (kernel, layout) = spec.kernel.open(spec.memory)?;
                Beginning::Kernel(kernel, layout)
            }
        };
        let disks = spec.disks.iter().map(Disk::open).collect::<Result<Vec<_>, _>>()?;
        let vsock = VsockSocket::new(&spec.directory).map_err(|source| BootError::File {
            what: "directory",
            path: spec.directory.clone(),
            source,
        })?;
        let listener = vsock.listen().map_err(host("make the socket of the guest's vsock"))?;
        let console = File::create(&spec.console.path).map_err(|source| BootError::File {
            what: "console log",
            path: spec.console.path.clone(),
            source,
        })?;
        let (control, theirs) = UnixStream::pair().map_err(host("make a pair of sockets"))?;

        let order = order(plan, &beginning, &console, &disks, &listener);
        let mut inherited: Vec<BorrowedFd<'_>> =
            vec![kvm.as_fd(), console.as_fd(), listener.as_fd(), theirs.as_fd()];
        inherited.extend(beginning.files());
        inherited.extend(disks.iter().map(File::as_fd));
        let id = spec.directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let process = spawn(&MonitorSpec {
            program: &settings.program,
            arguments: &[theirs.as_raw_fd().to_string()],
            inherited: &inherited,
            jail: JailSpec {
                files: FileView::Empty,
                limits: ResourceLimits {
                    open_files: OPEN_FILES,
                    file_size: file_size_limit(spec, &disks),
                    processes: PROCESSES,
                },
                group: Some(GroupSpec {
                    id: &id,
                    memory: memory_limit(plan),
                    processes: PROCESSES,
                }),
            },
            strictness: settings.strictness,
        });
        let mut process = match process {
            Ok(process) => process,
            Err(error) => {
                vsock.remove();
                return Err(spawn_error(error));
            }
        };
        let ready = process
            .record(&spec.directory)
            .and_then(|()| say(&control, &Request::Boot(order)))
            .and_then(|()| control.try_clone());
        let commands = match ready {
            Ok(commands) => Commands::new(commands),
            Err(source) => {
                vsock.remove();
                return Err(BootError::Host { operation: "talk to costrel-vmm", source });
            }
        };
        let stderr = process.take_stderr().map(File::from);
        let shared = Arc::new(Shared::new(commands, vsock, spec.ports.clone()));
        Ok(Self {
            process,
            control,
            line: Vec::new(),
            stderr,
            stderr_tail: Vec::new(),
            shared,
            ended: None,
            refused: None,
            handle: None,
        })
    }

    fn run(mut self, spec: &MachineSpec, started: oneshot::Sender<Started>) {
        let (exit_sender, exit) = watch::channel(None);
        let mut started = Some(started);
        while self.listen() {
            if let Some(handle) = &self.handle
                && let Some(started) = started.take()
            {
                let owner = MachineOwner::new(Arc::clone(handle), exit.clone());
                let machine = KvmMachine::new(Arc::clone(&self.shared), owner, spec.saving);
                // Fails if the owner lost interest; then the machine is dropped, hence killed.
                let _ = started.send(Ok(machine));
            }
        }
        let status = self.process.wait();
        self.shared.vsock.remove();
        self.shared.commands.close();
        remove_record(&spec.directory);
        let exit = self.exit(&status);
        if let Some(started) = started.take() {
            let error = match (self.refused.take(), &exit) {
                (Some((reason, Fault::Snapshot)), _) => RestoreError::Refused { reason },
                (Some((reason, Fault::Machine)), _) => BootError::Monitor { reason }.into(),
                (None, Exit::Monitor { reason }) => {
                    BootError::Monitor { reason: reason.clone() }.into()
                }
                (None, other) => BootError::Monitor { reason: other.to_string() }.into(),
            };
            let _ = started.send(Err(error));
        }
        exit_sender.send_replace(Some(exit));
    }

    /// Waits until the process says something, and takes it in. False once it has ended, and all
    /// that it said is in.
    fn listen(&mut self) -> bool {
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.process.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN),
        ];
        if let Some(stderr) = &self.stderr {
            polled.push(PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN));
        }
        // An interrupted wait reports nothing; the next one does.
        if poll(&mut polled, None).is_err() {
            return true;
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let ended = ready[0];
        if ready[1] && !ended {
            self.hear();
        }
        if ready.get(2) == Some(&true) && !ended {
            self.hear_stderr();
        }
        if ended {
            // All that was said is there by now, and then comes the end.
            while self.hear() {}
            while self.hear_stderr() {}
        }
        !ended
    }

    /// False at the end of what there is to hear.
    fn hear(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let Some(count) = read(&mut self.control, &mut buffer) else {
            // Its end is closed, or the process is dying: its handle says so.
            self.process.kill();
            return false;
        };
        for part in buffer[..count].split_inclusive(|&byte| byte == b'\n') {
            self.line.extend(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.heard(&line);
            }
        }
        // The process is not trusted once the guest runs: a guest may have taken it over.
        if self.line.len() > LINE_BYTES {
            self.line.clear();
            self.process.kill();
        }
        true
    }

    fn heard(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Event::Running { jail }) => {
                let mut isolation = self.process.isolation().clone();
                isolation.merge(jail);
                match ProcessHandle::new(&self.process, isolation) {
                    Ok(handle) => self.handle = Some(Arc::new(handle)),
                    Err(_) => self.process.kill(),
                }
            }
            Ok(Event::Refused { reason, whose }) => {
                self.refused = Some((printable(reason.as_bytes()), whose));
            }
            Ok(Event::Answer { id, answer }) => self.shared.commands.answered(id, answer),
            Ok(Event::Ended { exit, console }) => {
                self.shared.set_last_console(printable(console.as_bytes()));
                self.ended = Some(exit);
            }
            Err(error) => tracing::debug!(%error, "costrel-vmm says what nobody understands"),
        }
    }

    fn hear_stderr(&mut self) -> bool {
        let Some(stderr) = &mut self.stderr else { return false };
        let mut buffer = [0; 4096];
        let Some(count) = read(stderr, &mut buffer) else {
            self.stderr = None;
            return false;
        };
        self.stderr_tail.extend(&buffer[..count]);
        let excess = self.stderr_tail.len().saturating_sub(STDERR_BYTES);
        self.stderr_tail.drain(..excess);
        true
    }

    fn exit(&self, status: &io::Result<ExitStatus>) -> Exit {
        match &self.ended {
            // It takes its owner's hang-up for the wish to end.
            Some(exit) => exit.clone(),
            None if self.handle.as_ref().is_some_and(|it| it.was_killed()) => Exit::Killed,
            None if self.process.ran_out_of_memory() => {
                Exit::Monitor { reason: OUT_OF_MEMORY.to_owned() }
            }
            None => Exit::Monitor { reason: monitor_reason(status, &self.stderr_tail) },
        }
    }
}

fn monitor_reason(status: &io::Result<ExitStatus>, stderr: &[u8]) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let status = match status {
        Ok(status) if status.signal() == Some(libc::SIGSYS) => {
            "costrel-vmm was ended for a system call that it may not make".to_owned()
        }
        Ok(status) => format!("costrel-vmm ended with {status}"),
        Err(error) => format!("costrel-vmm's end was missed: {error}"),
    };
    let stderr = printable(stderr);
    let stderr = stderr.trim();
    if stderr.is_empty() { status } else { format!("{status}: {stderr}") }
}

fn read(source: &mut impl Read, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match source.read(buffer) {
            Ok(0) => return None,
            Ok(count) => return Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

pub(crate) fn say(mut control: &UnixStream, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    control.write_all(&line)
}

/// What a machine begins with, opened.
enum Beginning<'a> {
    Kernel(File, KernelLayout),
    Snapshot(&'a SnapshotFiles),
}

impl Beginning<'_> {
    fn files(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Kernel(image, _) => vec![image.as_fd()],
            Self::Snapshot(files) => vec![files.state.as_fd(), files.memory.as_fd()],
        }
    }

    fn start(&self, spec: &MachineSpec) -> Start {
        match self {
            Self::Kernel(image, layout) => Start::Kernel {
                image: image.as_raw_fd(),
                entry: layout.entry,
                segments: layout.segments.clone(),
                arguments: kernel_arguments(spec),
            },
            Self::Snapshot(files) => {
                Start::Snapshot { state: files.state.as_raw_fd(), memory: files.memory.as_raw_fd() }
            }
        }
    }
}

/// What a process may use in all, in bytes. The pages of a snapshot's files that it is the first to
/// read or write are counted as its own, beside the guest's memory.
fn memory_limit(Plan { spec, snapshot, .. }: &Plan) -> u64 {
    let memory = spec.memory.as_bytes();
    let files = if snapshot.is_some() || spec.saving == Saving::Expected { memory } else { 0 };
    memory + files + OVERHEAD
}

/// Nothing that the process writes may grow: its disks have their size, the console's log its limit
/// (and a line that says what was left out), and a saved memory its own size.
fn file_size_limit(spec: &MachineSpec, disks: &[File]) -> u64 {
    let writable = spec.disks.iter().zip(disks);
    let writable = writable.filter(|(disk, _)| disk.access != DiskAccess::ReadOnly);
    let sizes = writable.filter_map(|(_, image)| image.metadata().ok()).map(|file| file.len());
    let saved = if spec.saving == Saving::Expected { spec.memory.as_bytes() } else { 0 };
    sizes.chain([spec.console.limit + 4096, saved]).max().unwrap_or(0)
}

fn order(
    Plan { kvm, settings, spec, .. }: &Plan,
    beginning: &Beginning<'_>,
    console: &File,
    disks: &[File],
    vsock: &UnixListener,
) -> Order {
    Order {
        kvm: kvm.as_raw_fd(),
        vcpus: spec.vcpus.get(),
        memory_bytes: spec.memory.as_bytes(),
        start: beginning.start(spec),
        disks: spec.disks.iter().zip(disks).map(ordered).collect(),
        vsock: vsock.as_raw_fd(),
        console: console.as_raw_fd(),
        console_limit: spec.console.limit,
        strictness: settings.strictness,
        huge_pages: settings.huge_pages,
    }
}

fn ordered((disk, image): (&Disk, &File)) -> OrderedDisk {
    OrderedDisk {
        name: disk.name.as_str().to_owned(),
        image: image.as_raw_fd(),
        access: match disk.access {
            DiskAccess::ReadOnly => OrderedAccess::ReadOnly,
            DiskAccess::Scratch => OrderedAccess::Scratch,
            DiskAccess::ReadWrite => OrderedAccess::ReadWrite,
        },
    }
}

/// The keyboard controller's reset (`reboot=k`) tells a reboot from a triple fault.
fn kernel_arguments(spec: &MachineSpec) -> String {
    let mut arguments = "console=ttyS0 reboot=k panic=-1 quiet no_timer_check tsc=reliable \
        8250.nr_uarts=1 root=/dev/vda ro rootfstype=ext4 costrel.transport=vsock"
        .to_owned();
    if spec.vcpus.get() == 1 {
        // Lock prefixes are not worth patching out where they cost nothing.
        arguments.push_str(" noreplace-smp");
    }
    for argument in &spec.kernel_arguments {
        arguments.push(' ');
        arguments.push_str(argument);
    }
    arguments
}

pub(crate) fn spawn_error(error: SpawnError) -> BootError {
    match error {
        SpawnError::Isolation(error) => BootError::Isolation(error),
        other => BootError::Monitor { reason: costrel_vmm::with_sources(&other) },
    }
}

fn host(operation: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Host { operation, source }
}
