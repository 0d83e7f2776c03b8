//! End-to-end tests: each boots a real virtual machine.
//!
//! `scripts/test.sh` builds what they work on: the installation in `target/costrel`, the Python
//! image and the Rust function in `target/test-inputs`. A test whose input is missing fails and
//! says which.

mod costrel;
mod host;
mod inputs;
mod leftovers;

pub use costrel::{Costrel, Home, Run};
pub use host::TestHost;
pub use inputs::{example, installation, kernel, layer_zip, python_image, rust_function, vminitd};
pub use leftovers::{processes_below, wait_until};
