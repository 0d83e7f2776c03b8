//! The invocations of late, for people to look at.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

/// How an invocation was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InvocationMode {
    /// The caller waits for the response.
    RequestResponse,
    /// It came out of the queue of asynchronous invocations.
    Event,
    /// The caller takes the response piece by piece.
    ResponseStream,
    /// By a function URL.
    Url,
}

impl InvocationMode {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::RequestResponse, Self::Event, Self::ResponseStream, Self::Url];

    /// Its name, in lower case with underscores.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestResponse => "request_response",
            Self::Event => "event",
            Self::ResponseStream => "response_stream",
            Self::Url => "url",
        }
    }
}

/// What came of an invocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HistoryOutcome {
    /// A response.
    Succeeded,
    /// An error of the function's, of this type; empty if it named none.
    FunctionError(String),
    /// It never ran: the name of the error that the caller was told.
    Refused(&'static str),
}

/// A part of an invocation's time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryPhase {
    /// Its name.
    pub name: &'static str,
    /// When it began, since the invocation's arrival.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
}

/// An invocation that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// Its request id.
    pub request_id: String,
    /// The function's name.
    pub function: String,
    /// The version that was run.
    pub version: String,
    /// How it was asked for.
    pub mode: InvocationMode,
    /// When it arrived.
    pub at: Timestamp,
    /// From its arrival to its end.
    pub took: Duration,
    /// How its instance came to be: `warm`, `boot` or `restore`; [`None`] where there was none.
    pub start: Option<&'static str>,
    /// What came of it.
    pub outcome: HistoryOutcome,
    /// Its phases, in the order in which they began.
    pub phases: Vec<HistoryPhase>,
    /// Its `X-Amzn-Trace-Id`.
    pub trace_id: String,
    /// Whether that was made here, for want of one.
    pub is_trace_own: bool,
}

/// The invocations of late: so many, then the oldest goes. A clone is another handle to the same.
#[derive(Clone)]
pub struct History {
    entries: Arc<Mutex<VecDeque<Arc<HistoryEntry>>>>,
    capacity: usize,
}

impl History {
    /// Room for `capacity` invocations.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { entries: Arc::default(), capacity }
    }

    /// Adds one, which is the latest from now on.
    pub fn add(&self, entry: HistoryEntry) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        while entries.len() >= self.capacity.max(1) {
            entries.pop_front();
        }
        if self.capacity > 0 {
            entries.push_back(Arc::new(entry));
        }
    }

    /// All of them, the latest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Arc<HistoryEntry>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().rev().cloned().collect()
    }

    /// The one with this request id.
    #[must_use]
    pub fn find(&self, request_id: &str) -> Option<Arc<HistoryEntry>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().rev().find(|entry| entry.request_id == request_id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(request_id: &str) -> HistoryEntry {
        HistoryEntry {
            request_id: request_id.to_owned(),
            function: "f".to_owned(),
            version: "$LATEST".to_owned(),
            mode: InvocationMode::RequestResponse,
            at: Timestamp::UNIX_EPOCH,
            took: Duration::from_millis(1),
            start: Some("warm"),
            outcome: HistoryOutcome::Succeeded,
            phases: Vec::new(),
            trace_id: String::new(),
            is_trace_own: true,
        }
    }

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let history = History::new(2);
        for id in ["1", "2", "3"] {
            history.add(entry(id));
        }
        let ids: Vec<_> = history.recent().iter().map(|entry| entry.request_id.clone()).collect();
        assert_eq!(ids, ["3", "2"]);
        assert!(history.find("1").is_none());
        assert!(history.find("2").is_some());
    }

    #[test]
    fn no_room_keeps_nothing() {
        let history = History::new(0);
        history.add(entry("1"));
        assert!(history.recent().is_empty());
    }
}
