//! The agent: PID 1 of every Costrel virtual machine.
