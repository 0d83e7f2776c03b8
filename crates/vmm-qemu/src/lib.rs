//! Runs a virtual machine under QEMU's software emulation.
