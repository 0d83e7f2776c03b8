//! The two traits of the seam, and how what is behind them fails.

use std::{fmt, io, path::PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{GuestPort, IsolationError, JailReport, MachineSpec, Restorer, Saver};

/// Something that runs virtual machines.
#[async_trait]
pub trait Backend: fmt::Debug + Send + Sync {
    /// A short name for people: `emulated`, `kvm`, ….
    fn name(&self) -> &'static str;

    /// Starts a machine. Returns once the guest executes, long before its agent answers.
    ///
    /// The machine dies with this process, whatever happens to it.
    ///
    /// # Errors
    /// [`BootError`]; then nothing is left of the machine.
    async fn boot(&self, spec: &MachineSpec) -> Result<Box<dyn Machine>, BootError>;

    /// The power to restore machines, where the backend has it.
    fn restorer(&self) -> Option<&dyn Restorer>;
}

/// A virtual machine that was started. Dropping it kills it.
///
/// ```text
/// Running ──pause──► Paused          Running, Paused ──kill or the guest's own end──► ended
///    ◄────resume──────┘              [`Machine::wait`] tells how, as often as asked
/// ```
#[async_trait]
pub trait Machine: fmt::Debug + Send + Sync {
    /// Opens a byte stream to a port of the guest. Before anybody listens there, either the call
    /// waits for that, without a limit, or what is written does. A backend may allow one open
    /// stream a port at a time.
    ///
    /// # Errors
    /// [`DialError`].
    async fn dial(&self, port: GuestPort) -> Result<Box<dyn ByteStream>, DialError>;

    /// Stops all virtual CPUs.
    ///
    /// # Errors
    /// [`MachineError`] if the machine has ended or does not obey.
    async fn pause(&self) -> Result<(), MachineError>;

    /// Lets a paused machine go on.
    ///
    /// # Errors
    /// As [`Machine::pause`].
    async fn resume(&self) -> Result<(), MachineError>;

    /// The power to be saved, where the machine has it.
    fn saver(&self) -> Option<&dyn Saver>;

    /// Waits for the machine's end.
    async fn wait(&self) -> Exit;

    /// Ends the machine at once, and returns when nothing of it runs any more.
    async fn kill(&self) -> Exit;

    /// The last lines that the guest printed on its serial console, for error messages.
    async fn console_tail(&self) -> String;

    /// What separates the process that runs the machine from the rest of the host.
    fn isolation(&self) -> &JailReport;

    /// The id of that process.
    fn process_id(&self) -> u32;
}

/// A bidirectional stream of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// How a machine ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reboot, which machines here don't do.
    Reboot,
    /// The guest's kernel panicked.
    Panic {
        /// The kernel's own words.
        message: String,
    },
    /// A virtual CPU faulted while it handled a fault's fault: the guest's kernel is broken beyond
    /// words.
    TripleFault,
    /// Its owner killed it.
    Killed,
    /// The virtual machine monitor failed or was killed by somebody else.
    Monitor {
        /// What is known of the reason.
        reason: String,
    },
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reboot => f.write_str("the guest rebooted"),
            Self::Panic { message } => write!(f, "the guest's kernel panicked: {message}"),
            Self::TripleFault => f.write_str("a virtual CPU of the guest faulted thrice"),
            Self::Killed => f.write_str("the machine was killed"),
            Self::Monitor { reason } => write!(f, "the virtual machine monitor failed: {reason}"),
        }
    }
}

/// An error with what caused it, and what caused that, on one line.
#[must_use]
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Why a machine did not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The program that runs the machine is not there.
    #[error("{program} is not installed")]
    ProgramMissing {
        /// Its name.
        program: String,
    },
    /// A file that the machine needs is missing or unreadable.
    #[error("cannot open the machine's {what}, {}", path.display())]
    File {
        /// What it is to the machine: `kernel`, `disk image`, ….
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel file is not one that can be booted.
    #[error("{} is not a bootable kernel: {reason}", path.display())]
    Kernel {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel does not fit into the machine's memory.
    #[error(
        "the kernel {} needs {needed_mib} MiB of memory for itself alone, and the machine has \
         {memory_mib} MiB",
        path.display()
    )]
    KernelTooLarge {
        /// Its path.
        path: PathBuf,
        /// Where it ends.
        needed_mib: u64,
        /// The machine's memory.
        memory_mib: u64,
    },
    /// The machine asks for more memory than the host has.
    #[error("the machine has {given_mib} MiB of memory, and the host itself only {host_mib} MiB")]
    MemoryTooLarge {
        /// The machine's.
        given_mib: u64,
        /// The host's.
        host_mib: u64,
    },
    /// A disk image is no whole number of sectors, or none at all.
    #[error(
        "the disk image {} of {bytes} bytes is not a whole number of sectors of 512 bytes; it may \
         be truncated",
        path.display()
    )]
    DiskSize {
        /// Its path.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another machine uses a disk image in a way that goes with no other.
    #[error("the disk image {} is in use by another machine", path.display())]
    DiskLocked {
        /// Its path.
        path: PathBuf,
    },
    /// A kernel argument is not one word.
    #[error(
        "{argument:?} cannot be a kernel argument: it must be printable ASCII without spaces and \
         quotes"
    )]
    KernelArgument {
        /// The argument.
        argument: String,
    },
    /// The machine asks for more of something than this backend has.
    #[error("the machine has {given} {what}, and this backend can do at most {most}")]
    Limit {
        /// Of what: `devices`, ….
        what: &'static str,
        /// How many it asks for.
        given: usize,
        /// How many there can be.
        most: usize,
    },
    /// It would be separated less strictly from the host than was asked for.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
    /// An operation of the host failed.
    #[error("cannot {operation}")]
    Host {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The monitor ended before the guest ran.
    #[error("the virtual machine monitor did not start: {reason}")]
    Monitor {
        /// Its own words.
        reason: String,
    },
}

/// Why a stream to the guest could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The port is not among [`MachineSpec::ports`].
    #[error("guest port {0} was not declared")]
    Undeclared(GuestPort),
    /// This backend allows one stream a port at a time, and the last one is still open.
    #[error("guest port {0} already has a stream open")]
    Busy(GuestPort),
    /// The connection failed.
    #[error("cannot connect to guest port {port}")]
    Connect {
        /// Which port.
        port: GuestPort,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Why a running machine did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// It has ended.
    #[error("the machine has ended: {0}")]
    Ended(Exit),
    /// Its monitor did not carry out a command.
    #[error("the virtual machine monitor did not carry out {command:?}")]
    Command {
        /// The command.
        command: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
