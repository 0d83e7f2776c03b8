//! Runs one virtual machine; `costrel` starts it.

use std::process::ExitCode;

fn main() -> ExitCode {
    costrel_vmm_kvm::vmm::main()
}
