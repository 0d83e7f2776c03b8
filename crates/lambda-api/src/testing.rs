//! Functions without machines, for the tests of what is above them.
