//! What functions have logged, on disk.
