//! What host and guest say to each other, as gRPC: `costrel/agent/v1/agent.proto`, generated, and
//! how both carry a relayed connection ([`relay`]).

pub mod relay;

/// Version 1 of the agent's protocol.
pub mod v1 {
    #![allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        reason = "generated: the .proto file documents it"
    )]
    tonic::include_proto!("costrel.agent.v1");
}

/// The guest port that the agent serves gRPC on.
pub const AGENT_PORT: u32 = 1024;

/// The largest message in either direction: an invocation's 6 MiB and what surrounds it.
pub const MESSAGE_LIMIT: usize = 8 << 20;
