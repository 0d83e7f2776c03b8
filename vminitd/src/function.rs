//! The Lambda function of this machine: its runtime process, and the Runtime API that it calls.
//!
//! ```text
//!  host ═ gRPC ═ session ──start, kill──► supervisor ──spawns──► runtime
//!                   │ ▲                       │ output, end         │ HTTP
//!                   ▼ └──────outbox◄──────────┴──────────────── runtime_api
//!                 state: what the runtime may ask for next ◄────────┘
//! ```
//! All that the host hears goes through one outbox, in order: when an invocation is reported as
//! done, everything the function had printed until then was sent before.

mod protocol;
mod replies;
mod runtime_api;
mod session;
mod state;
mod supervisor;

#[cfg(test)]
mod tests;

pub(crate) use session::FunctionService;
pub(crate) use supervisor::exited;
