//! The host's side of the conversation with the agent in the guest.
//!
//! It is given a byte stream, however that came to be, and speaks gRPC on it. [`wire`] holds the
//! messages; what is in them comes from a guest that nobody trusts.

mod client;
mod function;
mod process;
mod relay;

pub use client::{AgentClient, AgentError};
pub use costrel_agent_proto::{
    AGENT_PORT,
    relay::{HOST_ALIAS, HOST_ALIAS_ADDRESS},
    v1 as wire,
};
pub use function::FunctionSession;
pub use process::{Process, exit_code};
pub use relay::{HostRelay, RELAYED_CONNECTIONS};
