//! Finds out what this machine can run virtual machines with, and picks.
//!
//! [`Detection::detect`] looks once; what it found is there for people ([`Detection::facts`]) and
//! for the boot ([`Detection::backend`]). Whether KVM works is decided by running a guest of some
//! dozen instructions, not by the presence of `/dev/kvm`; the verdict is kept until the next boot.

// The one place that tells operating systems apart.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("there are backends for Linux on x86-64 only, so far");

mod detection;
mod kvm;

pub use costrel_vmm_kvm::HugePages;
pub use costrel_vmm_process::{Leftover, end_leftover};
pub use detection::{BackendChoice, Detection, DetectionSettings, Fact, NoBackend, Standing};
pub use kvm::{GuestStep, GuestStop, KvmFailure, KvmVerdict};
