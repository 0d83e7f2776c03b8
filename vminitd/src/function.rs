//! The Lambda function of this machine: its runtime process and its extensions, and the APIs that
//! they call.
//!
//! ```text
//!  host ═ gRPC ═ session ──start, shut down──► life ──launches──► extensions, runtime
//!                   │ ▲                         │ output, end          │ HTTP
//!                   ▼ └───────outbox◄───────────┴─── server ◄──────────┘
//!                 state, extensions: what each may ask for next ◄┘ │
//!                                                     telemetry ◄──┘ to who has subscribed
//! ```
//! All that the host hears goes through one outbox, in order: when an invocation is reported as
//! done, everything that function and extensions had printed until then was sent before.

mod body;
mod extensions;
mod invocation;
mod launch;
mod life;
mod protocol;
mod readiness;
mod replies;
mod runtime_api;
mod server;
mod session;
mod state;
mod telemetry;

#[cfg(test)]
mod tests;

pub(crate) use launch::exited;
pub(crate) use session::FunctionService;
