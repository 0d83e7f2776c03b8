//! One event of the Telemetry API.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::rfc3339;

/// What can be subscribed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Category {
    Platform,
    Function,
    Extension,
}

impl Category {
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Function => "function",
            Self::Extension => "extension",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::Platform, Self::Function, Self::Extension]
            .into_iter()
            .find(|category| category.name() == name)
    }
}

/// An event as subscribers get it.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) struct Record {
    pub(super) category: Category,
    /// `type`.
    pub(super) kind: String,
    /// The whole, as JSON.
    pub(super) text: String,
}

impl Record {
    /// An event of the platform, now.
    pub(in super::super) fn platform(kind: impl Into<String>, record: &Value) -> Self {
        Self::new(Category::Platform, kind.into(), record)
    }

    /// A line that function or extension has printed.
    pub(super) fn line(category: Category, line: &[u8]) -> Self {
        let record = String::from_utf8_lossy(line).into_owned();
        Self::new(category, category.name().to_owned(), &record.into())
    }

    fn new(category: Category, kind: String, record: &Value) -> Self {
        let time = rfc3339(SystemTime::now());
        let text = json!({ "time": time, "type": kind, "record": record }).to_string();
        Self { category, kind, text }
    }
}
