//! Lambda's API over HTTP: what clients of AWS Lambda talk to.
//!
//! [`router`] puts the parts together, over [`Services`]; each part has a module of its own and
//! knows nothing of the others. An error of any of them reaches its caller as an [`ApiError`].

mod control;
mod error;
mod history;
mod router;
mod services;
mod settings;
mod status;

pub use error::{ApiError, ErrorKind};
pub use history::{History, HistoryEntry, HistoryOutcome, HistoryPhase, InvocationMode};
pub use router::router;
pub use services::Services;
pub use settings::{ApiSettings, Token};
pub use status::{FunctionOrigin, FunctionRow, StatusSource};
