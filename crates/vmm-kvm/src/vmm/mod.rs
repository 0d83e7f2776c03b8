//! The process of one machine: from an [`Order`](crate::control::Order) to the guest's end.
//!
//! ```text
//!  main thread   builds, then owns the machine's life: commands, the end
//!  vcpu-N        runs a vCPU; its exits end in the bus: serial line, devices' registers
//!  block-N, vsock, entropy
//!                each serves one device's virtqueues
//! ```
//!
//! All threads are there before the guest's first instruction, and each has entered its system call
//! filter by then. None of them waits for another without a bound, but for vCPUs that reset a
//! device and wait until it stands still.

mod arch;
mod assembly;
mod build;
mod bus;
mod console;
mod kernel;
mod life;
mod listener;
mod memory;
mod seccomp;
pub mod snapshot;
mod vcpu;

use std::{
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
};

pub(crate) use build::BuildError;

use costrel_vmm::{JailReport, Strictness};
use life::Running;
use listener::Control;

use crate::control::{Event, Order, Request};

/// Runs one machine: the body of the program `costrel-vmm`, whose only argument is the number of
/// the inherited descriptor that the order comes by.
#[must_use]
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(number), None) = (arguments.next(), arguments.next()) else {
        return usage();
    };
    let Ok(number) = number.parse::<RawFd>() else { return usage() };
    match inherited(number).map(UnixStream::from) {
        Ok(control) => run(control),
        Err(_) => usage(),
    }
}

#[expect(clippy::print_stderr, reason = "somebody has started the program by hand")]
fn usage() -> ExitCode {
    eprintln!("costrel-vmm runs one virtual machine for costrel, which starts it itself.");
    ExitCode::from(2)
}

fn run(control: UnixStream) -> ExitCode {
    let mut control = Control::new(control);
    let started = match control.request().map_err(BuildError::Control) {
        Ok(Request::Boot(order)) => start(order),
        Ok(Request::Jail) => match build::enter_jail(Strictness::Warn) {
            Ok(jail) => {
                control.say(&Event::Running { jail });
                return ExitCode::SUCCESS;
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match started {
        Ok((running, jail)) => {
            control.say(&Event::Running { jail });
            let (exit, console) = running.live(&mut control);
            control.say(&Event::Ended { exit, console });
            ExitCode::SUCCESS
        }
        Err(error) => {
            let whose = error.whose();
            control.say(&Event::Refused { reason: costrel_vmm::with_sources(&error), whose });
            ExitCode::FAILURE
        }
    }
}

/// The form of a saved machine, for people.
pub(crate) const FORMAT: &str = "kvm state 1";

/// This host's processor as guests see it, for people, and a sum of all that they see.
pub(crate) fn processor() -> io::Result<(String, u32)> {
    let system = |error: kvm_ioctls::Error| io::Error::from_raw_os_error(error.errno());
    arch::processor(&kvm_ioctls::Kvm::new().map_err(system)?).map_err(system)
}

fn start(order: Order) -> Result<(Running, JailReport), BuildError> {
    build::Bare::new(order)?.load()?.wire()?.start()
}

/// Takes an inherited descriptor, if it is one.
#[expect(unsafe_code, reason = "inherited descriptors are known by number only")]
fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: F_GETFD touches no memory, and says whether the descriptor is open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nothing in this process has opened it: it was there at the start,
    // and each number is taken once, by the order.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
