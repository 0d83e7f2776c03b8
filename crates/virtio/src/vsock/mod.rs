//! Streams between the host and the guest (virtio 1.2, 5.10).
//!
//! The host dials in. A client connects to the device's Unix socket and writes `CONNECT <port>\n`;
//! when somebody in the guest listens at that port it reads `OK <host port>\n`, and from then on the
//! socket is the stream. When nobody does, the socket is closed. Streams that the guest wants to
//! open are refused: nothing on the host listens for them yet.
//!
//! ```text
//!  client ─ CONNECT ─► Greeting ──► Requested ── guest: RESPONSE ──► Open ── both ends ended ──► RST
//!                          │            └─────── guest: RST ──► gone   └── guest: RST ──► Orphaned
//!                          └── garbage ──► gone          (what the guest sent still goes to the host)
//! ```
//!
//! # Bounds
//! - [`MOST_CONNECTIONS`]; further clients are turned away.
//! - A connection holds back at most [`BUFFER`] bytes for a client that does not read, which is the
//!   credit the guest gets. For a guest that does not read it holds nothing: the bytes stay in the
//!   client's socket.
//! - What is to be said to the guest is a handful of flags per connection, and a short list of RSTs
//!   for connections that there are not; while that is full, no more is heard of the guest.
//! - A guest that breaks a connection's rules loses that connection.
//!
//! The packets are taken apart here rather than by the `virtio-vsock` crate: it takes (as of 0.12)
//! a packet of one descriptor for its data only, and Linux from 6.5 on sends ones with several.
//!
//! [`MOST_CONNECTIONS`]: muxer::MOST_CONNECTIONS
//! [`BUFFER`]: credit::BUFFER

mod backlog;
mod connection;
mod credit;
mod device;
mod greeting;
mod muxer;
mod packet;
mod state;
#[cfg(test)]
mod tests;

pub use device::{Vsock, VsockSettings};
pub use state::VsockState;
