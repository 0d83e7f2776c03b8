//! Finds out what this machine can run virtual machines with, and picks.
