//! Turns image layers, function code and agent binaries into block devices.
