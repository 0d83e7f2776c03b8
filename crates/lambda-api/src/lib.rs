//! Lambda's API over HTTP: what clients of AWS Lambda talk to.
//!
//! [`router`] puts the parts together, over [`Services`]; each part has a module of its own and
//! knows nothing of the others. An error of any of them reaches its caller as an [`ApiError`].
//!
//! # Who may call
//! Nothing is reached but through one front (`front.rs`), which asks a guard (`guard.rs`). Without a
//! token a [`Server`] listens on loopback only, any signature or none is taken, and what a browser
//! does for strangers' pages is refused: by the names in `Host`, by `Origin` and by
//! `Sec-Fetch-Site`. With a token every call bears it, or is signed with it as the secret key,
//! whatever key id it names; only preflights of function URLs and the addresses of code, which are
//! signed themselves, do without. A function URL of the type `AWS_IAM` wants a signature in either
//! case, and whether that is right is known only where there is a token.

mod body;
mod control;
mod data_plane;
mod docker_lambda;
mod error;
mod event_stream;
mod front;
mod guard;
mod history;
mod invoke;
mod invoker;
mod metrics;
mod recorder;
mod rie;
mod router;
mod server;
mod services;
mod settings;
mod signature;
mod spans;
mod status;
#[cfg(test)]
mod testing;
mod trace;
mod url;

pub use control::control_plane;
pub use docker_lambda::docker_lambda_router;
pub use error::{ApiError, ErrorKind};
pub use front::Connection;
pub use history::{History, HistoryEntry, HistoryOutcome, HistoryPhase, InvocationMode};
pub use invoker::{Callable, FunctionUrl, Invoker, UrlAuth, UrlCors, UrlMode};
pub use metrics::{GaugeSource, Gauges, Metrics};
pub use recorder::Recorder;
pub use rie::rie_router;
pub use router::router;
pub use server::{BindError, Remote, Server, ServerLimits};
pub use services::Services;
pub use settings::{ApiSettings, Token};
pub use spans::{SpanSettings, Spans, SpansError};
pub use status::{FunctionOrigin, FunctionRow, StatusSource};
