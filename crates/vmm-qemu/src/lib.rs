//! Runs a virtual machine under QEMU's software emulation.
//!
//! For hosts on which KVM is absent or cannot run a stock kernel. One [`QemuBackend`] boots any
//! number of machines; each is one `qemu-system-x86_64` process of the board `microvm`, watched by
//! one thread (`supervisor`), and gone when that thread or this process is.
//!
//! ```text
//!  Machine (async) ──dial──► listening socket ─────────► virtserialport "costrel.<port>"
//!        │  ▲
//!        │  └── watch: Running | Ended(Exit) ◄── supervisor thread ◄── console, QMP, stderr, pidfd
//!        └── QMP commands, SIGKILL by pidfd ───────────► QEMU
//! ```
//!
//! # Ports
//! One stream a port at a time. When the host hangs up, the guest's reads return 0 and polling
//! shows `POLLHUP`, until the host dials again; if it does so at once, the guest may miss the gap
//! and find the new stream's bytes behind the old one's. What either side wrote and the other had
//! not read at the time of a hang-up may be lost. So a protocol on top must be able to tell its
//! beginning, as HTTP/2 does. Saving a machine hangs up on all streams.
//!
//! # Snapshots
//! A machine whose spec says that it will be saved has its memory in a file that its owner shares;
//! any number of machines map what was saved, privately. `SNAPSHOTS.md` has the files' form, and
//! what there is to know of QEMU.
//!
//! # How a guest ends its machine
//! The board has no ACPI, hence no power button. Both ways that Linux offers work all the same:
//! - `reboot(RB_AUTOBOOT)`: the kernel resets the CPU (`reboot=t`), which QEMU, told `-no-reboot`,
//!   takes for the end: [`Exit::Reboot`](costrel_vmm::Exit::Reboot). This is the straight way.
//! - `reboot(RB_POWER_OFF)` (or `RB_HALT_SYSTEM`): the kernel finds no way to power off, says so
//!   on its console (`reboot: Power off not available: System halted instead`) and halts; the
//!   supervisor sees those words and kills QEMU: [`Exit::PowerOff`](costrel_vmm::Exit::PowerOff).
//!
//! A panic resets the CPU as well (`panic=-1`), after `Kernel panic - not syncing: …`, which makes
//! it [`Exit::Panic`](costrel_vmm::Exit::Panic). So does a CPU that faults thrice without a word.

mod arguments;
mod backend;
mod end;
mod jail;
mod machine;
mod memory;
mod ports;
mod qmp;
mod restore;
mod save;
mod state;
mod supervisor;
mod tsc;

pub use backend::{FindError, QemuBackend, QemuSearch, VersionError};
