//! The agent: PID 1 of every Costrel virtual machine.
//!
//! The kernel starts it from the init block, the first disk. It mounts what it needs itself
//! ([`boot`]), waits for the host on the guest's side of its byte stream ([`transport`]) and
//! serves [`costrel_agent_proto`]'s services: the machine ([`service`]), plain programs
//! ([`processes`]), the Lambda function ([`function`]), whose runtime talks to the Runtime API on
//! 127.0.0.1:9001, and the ports of the host's loopback that the workload reaches.
//!
//! One thread runs it all, on a current-thread executor: an agent must be small before it is
//! fast. File system work happens while a VM is prepared, when nothing else is under way.
//!
//! It trusts the host. What comes from the workload (its Runtime API calls, its output) is
//! bounded: nothing of it is kept in memory as a whole.

pub mod boot;
pub mod function;
pub mod processes;
pub mod service;
pub mod transport;

mod accounts;
mod cgroup;
mod devices;
mod disks;
mod entropy;
mod freezer;
mod output;
mod reaper;
mod relay;
mod reseed;
mod root;
mod spawn;
