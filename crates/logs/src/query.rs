//! Which lines are asked for.

use jiff::Timestamp;

use crate::LogLine;

/// Which lines are asked for; by default, all.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Of this function only.
    pub function: Option<String>,
    /// None that is older.
    pub since: Option<Timestamp>,
    /// None that is newer.
    pub until: Option<Timestamp>,
    /// Of this invocation only.
    pub request_id: Option<String>,
    /// The last so many of what is left.
    pub tail: Option<usize>,
}

impl Query {
    /// Whether a line is asked for, but for [`Query::tail`].
    #[must_use]
    pub fn matches(&self, line: &LogLine) -> bool {
        self.function.as_ref().is_none_or(|name| *name == line.function)
            && self.since.is_none_or(|since| line.at >= since)
            && self.until.is_none_or(|until| line.at <= until)
            && self.request_id.as_ref().is_none_or(|id| line.request_id.as_ref() == Some(id))
    }
}
