//! A machine in two files: `state` and `memory` (SNAPSHOTS.md has their form).

mod file;
mod memory;
mod state;
#[cfg(test)]
mod tests;

use std::io;

pub use file::{FormatError, seal, unseal};
pub(crate) use file::{read_state, write_state};
pub(crate) use memory::{check_length, write_memory};
pub use state::MachineState;
pub(crate) use state::{DeviceState, SerialRegisters};

use super::arch::VcpuMismatch;

/// Why a machine could not be saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavingError {
    #[error("cannot {operation}")]
    Host {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("a vCPU has ended")]
    VcpuEnded,
    #[error("a device's thread has ended")]
    DeviceEnded,
    #[error("a vCPU's registers take {bytes} bytes, and there is room for 4096")]
    Registers { bytes: usize },
    #[error("the files did not come with the command")]
    NoFiles,
}

impl SavingError {
    pub(crate) fn host(operation: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Host { operation, source }
    }

    pub(crate) fn kvm(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |error| Self::host(operation)(io::Error::from_raw_os_error(error.errno()))
    }
}

/// Why a snapshot cannot become the machine that is asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error("its state cannot be read")]
    Unreadable(#[source] io::Error),
    #[error("its state is not one")]
    Format(#[from] FormatError),
    #[error("{reason}")]
    Processor { reason: String },
    #[error("a vCPU cannot be restored")]
    Vcpu(#[from] VcpuMismatch),
    #[error("it has {saved} {what}, and the machine {wanted}")]
    Shape { what: &'static str, saved: u64, wanted: u64 },
    #[error("its memory is {found} bytes long, and should be {wanted}")]
    MemoryLength { found: u64, wanted: u64 },
    #[error("its {device} device cannot be restored")]
    Transport {
        device: String,
        #[source]
        source: costrel_virtio::TransportError,
    },
    #[error("its {device} device was something else")]
    Device { device: String },
    #[error(
        "its disk {name} had {saved} sectors and {}, and the machine's has {here} sectors and {}",
        writing(*saved_writable), writing(*here_writable)
    )]
    Disk { name: String, saved: u64, saved_writable: bool, here: u64, here_writable: bool },
    #[error("its serial line cannot be restored")]
    SerialLine,
}

fn writing(writable: bool) -> &'static str {
    if writable { "could be written" } else { "could not" }
}
