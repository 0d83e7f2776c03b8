//! The two traits of the seam, and how what is behind them fails.

use std::{fmt, io, path::PathBuf};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{GuestPort, IsolationError, MachineSpec};

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
}

/// A virtual machine that was started. Dropping it kills it.
///
/// ```text
/// Running ──pause──► Paused          Running, Paused ──kill or the guest's own end──► ended
///    ◄────resume──────┘              [`Machine::wait`] tells how, as often as asked
/// ```
#[async_trait]
pub trait Machine: fmt::Debug + Send + Sync {
    /// Opens a byte stream to a port of the guest. It may be opened before anybody listens there:
    /// what is written waits. A backend may allow one open stream a port at a time.
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

    /// Waits for the machine's end.
    async fn wait(&self) -> Exit;

    /// Ends the machine at once, and returns when nothing of it runs any more.
    async fn kill(&self) -> Exit;

    /// The last lines that the guest printed on its serial console, for error messages.
    fn console_tail(&self) -> String;
}

/// A bidirectional stream of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// How a machine ended.
#[derive(Clone, PartialEq, Eq, Debug)]
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
            Self::Killed => f.write_str("the machine was killed"),
            Self::Monitor { reason } => write!(f, "the virtual machine monitor failed: {reason}"),
        }
    }
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
