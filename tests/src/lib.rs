//! End-to-end tests: each boots a real virtual machine.
