//! End-to-end tests: each boots a real virtual machine.
//!
//! They run on every backend: `COSTREL_BACKEND` names it. `scripts/test-kvm.sh` runs them on KVM.
//!
//! `scripts/test.sh` builds what they work on: the installation in `target/costrel`, the Python
//! image and the Rust function in `target/test-inputs`. A test whose input is missing fails and
//! says which.

mod browser;
mod costrel;
mod functions;
mod host;
mod inputs;
mod leftovers;
mod seam;
mod server;

pub use browser::Browser;
pub use costrel::{Costrel, Home, Run};
pub use functions::{function_spec, rust_package};
pub use host::{TestHost, kvm_backend, kvm_works};
pub use inputs::{
    example, installation, kernel, layer_zip, node_image, python_image, rust_extension,
    rust_function, script, vminitd,
};
pub use leftovers::{processes_below, wait_until};
pub use seam::{Blueprint, Guest, Saved, Shape, snapshot_files};
pub use server::{Response, Server, call};

/// Says what a test lacks that ends here. Past the harness, which would keep it to itself.
pub fn skipped(lacking: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "skipped: {lacking}");
}

/// A time limit for what a guest computes, so many times longer as the machine is slower than others
/// by `COSTREL_TEST_SLOWNESS` (1): one with an emulated CPU, say.
///
/// # Panics
/// If the variable is no number.
#[must_use]
pub fn unhurried(seconds: u32) -> u32 {
    let slowness = std::env::var("COSTREL_TEST_SLOWNESS");
    seconds * slowness.map_or(1, |text| text.parse().expect("COSTREL_TEST_SLOWNESS is a number"))
}
