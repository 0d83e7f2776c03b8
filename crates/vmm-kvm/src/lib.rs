//! Runs a virtual machine under KVM, in our own virtual machine monitor.
//!
//! One [`KvmBackend`] boots any number of machines; each is one process of the program
//! `costrel-vmm` ([`vmm`]), jailed, which gets all that it needs as open descriptors. On this side
//! one thread a machine (`supervisor`) starts it, hears what it says and reaps it.
//!
//! ```text
//!  KvmMachine (async) ──dial──► vsock.sock: "CONNECT 1024\n" ──► costrel-vmm ──► guest's vsock
//!        │  ▲
//!        │  └── watch: Running | Ended(Exit) ◄── supervisor thread ◄── control socket, pidfd
//!        └── commands ────────────────────────► costrel-vmm's main thread
//! ```

mod backend;
mod compatibility;
mod control;
mod machine;
mod supervisor;
#[cfg(target_arch = "x86_64")]
pub mod vmm;
mod vsock;

pub use backend::{KvmBackend, KvmSettings, ProgramError};
pub use control::HugePages;
