//! What a fleet tells of what goes on in it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use costrel_functions::{Report, Timeline};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{Throttle, VersionKey};

/// Is told what goes on in a fleet. It is called in the midst of invocations: what takes its time
/// belongs elsewhere.
pub trait FleetObserver: Send + Sync {
    /// A function, or Lambda on its behalf, has said a line.
    fn log(&self, line: &LogLine);

    /// An invocation is over.
    fn invoked(&self, record: &InvocationRecord);
}

/// Who said a line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LogSource {
    /// Lambda itself: START, END, REPORT and the like.
    Platform,
    /// The function, on standard output.
    Stdout,
    /// The function, on standard error.
    Stderr,
    /// An extension.
    Extension,
    /// Costrel, to whoever runs the function; none of the function's own log.
    Notice,
}

/// A line of a function's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// When it was complete.
    pub at: Timestamp,
    /// The function's name.
    pub function: String,
    /// Its version: a number, or `$LATEST`.
    pub version: String,
    /// The instance that said it.
    pub instance: Uuid,
    /// The invocation that it was said in.
    pub request_id: Option<String>,
    /// Who said it.
    pub source: LogSource,
    /// What was said, without the line's end. From a guest: any bytes at all. A line of more than
    /// 256 KiB comes in pieces, as CloudWatch has it.
    pub bytes: Bytes,
}

/// How an invocation's instance came to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StartKind {
    /// It had served before, or was initialised ahead.
    Warm,
    /// It was booted for it.
    Booted,
    /// It was restored from a snapshot for it.
    Restored,
}

/// An invocation that is over.
#[derive(Clone, Debug)]
pub struct InvocationRecord {
    /// What was invoked.
    pub version: VersionKey,
    /// Its request id.
    pub request_id: String,
    /// Its `X-Amzn-Trace-Id`.
    pub trace_id: String,
    /// When it arrived.
    pub began: Timestamp,
    /// The same moment, on the clock of the timeline.
    pub began_at: Instant,
    /// From its arrival to its end.
    pub took: Duration,
    /// Its instance, if it came that far.
    pub instance: Option<(Uuid, StartKind)>,
    /// Where its time went: `wait` for an instance, that instance's cold start, `invoke`.
    pub timeline: Timeline,
    /// What came of it.
    pub end: InvocationEnd,
}

/// What came of an invocation.
#[derive(Clone, Debug)]
pub enum InvocationEnd {
    /// The function has run.
    Completed {
        /// Its figures.
        report: Report,
        /// The type of its error, if it failed; empty if it named none.
        error_type: Option<String>,
    },
    /// It was throttled, and never ran.
    Throttled(Throttle),
    /// It has no outcome for another reason, which is this.
    Failed(String),
    /// Its caller went away before it had an instance: it never ran.
    Abandoned,
}
