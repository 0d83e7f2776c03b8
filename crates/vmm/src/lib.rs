//! The seam between the sandbox and whatever runs its virtual machine.
//!
//! A [`Backend`] boots a [`MachineSpec`] into a [`Machine`]. Invariant: nothing here knows of
//! images, functions or gRPC; what a machine offers its owner is a byte stream to a port in the
//! guest. A power that only some backends have is an `Option` in the trait, never a no-op.

mod console;
mod console_watch;
mod files;
mod isolation;
mod kernel;
mod machine;
mod snapshot;
mod sparse;
mod spec;

pub use console::ConsoleLog;
pub use console_watch::{ConsoleWatch, LastWords, printable};
pub use files::file_stamp;
pub use isolation::{IsolationError, JailReport, Measure, MeasureName, Standing, Strictness};
pub use kernel::{KernelLayout, KernelSegment};
pub use machine::{
    Backend, BootError, ByteStream, DialError, Exit, Machine, MachineError, with_sources,
};
pub use snapshot::{RestoreError, Restorer, SaveError, Saver, SnapshotFiles};
pub use sparse::for_each_extent;
pub use spec::{
    Console, Disk, DiskAccess, DiskName, GuestPort, KernelImage, MachineSpec, Memory, Saving,
    SpecError, VcpuCount,
};
