//! Lambda's Telemetry API, and the Logs API before it: extensions subscribe to what the platform
//! records and to what function and extensions print, and get it in batches.
//!
//! ```text
//! host ──records──┐                      ┌─► queue ─► delivery ═ POST, or lines ═► subscriber
//! output ──lines──┼─► hub ─► backlog ────┤
//! the agent ──────┘    until init is done└─► queue ─► …
//! ```
//! Specification: AWS's Telemetry API 2022-07-01 and Logs API 2020-08-15.

mod api;
mod clock;
mod delivery;
mod hub;
mod lines;
mod queue;
mod record;
mod subscription;

#[cfg(test)]
mod tests;

pub(super) use api::{LOGS_PATH, TELEMETRY_PATH, subscribe};
pub(super) use clock::rfc3339;
pub(super) use hub::Hub;
pub(super) use record::{Category, Record};
