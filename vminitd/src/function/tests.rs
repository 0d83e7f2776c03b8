//! The Runtime API over real HTTP, with the test as runtime and as host.
