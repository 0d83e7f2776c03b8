//! One virtual machine with its disks, its agent and its traces on the host.
