//! Writes ext4 file systems into a file, without mounting and without root.
