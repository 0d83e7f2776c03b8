//! One line of a log, and its form on disk.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Who has said it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
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

impl Source {
    /// Its name, as it stands on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Extension => "extension",
            Self::Notice => "notice",
        }
    }
}

/// A line of a function's log, or the piece of one that came at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// When it was said.
    pub at: Timestamp,
    /// The function's name.
    pub function: String,
    /// Its version: a number, or `$LATEST`.
    pub version: String,
    /// Which instance said it.
    pub instance: Uuid,
    /// The invocation that it belongs to, where it belongs to one.
    pub request_id: Option<String>,
    /// Who said it.
    pub source: Source,
    /// What was said, without the line's end. It comes from a guest, and need not be UTF-8.
    pub bytes: Vec<u8>,
}

impl LogLine {
    /// What was said, as text; what is no UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// The line as one JSON object: `text`, or `base64` where it is no UTF-8.
    #[must_use]
    pub fn to_json(&self) -> String {
        let (text, base64) = match std::str::from_utf8(&self.bytes) {
            Ok(text) => (Some(text.into()), None),
            Err(_) => (None, Some(BASE64_STANDARD.encode(&self.bytes))),
        };
        let stored = Stored {
            at: self.at.to_string(),
            function: self.function.as_str().into(),
            version: self.version.as_str().into(),
            instance: self.instance.to_string(),
            request_id: self.request_id.as_deref().map(Into::into),
            source: self.source,
            text,
            base64,
        };
        // Strings alone: there is nothing in it that JSON cannot say.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Reads what [`LogLine::to_json`] wrote; nothing if it is anything else.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let stored: Stored<'_> = serde_json::from_slice(json).ok()?;
        let bytes = match (stored.text, stored.base64) {
            (Some(text), _) => text.into_owned().into_bytes(),
            (None, Some(encoded)) => BASE64_STANDARD.decode(encoded).ok()?,
            (None, None) => return None,
        };
        Some(Self {
            at: stored.at.parse().ok()?,
            function: stored.function.into_owned(),
            version: stored.version.into_owned(),
            instance: stored.instance.parse().ok()?,
            request_id: stored.request_id.map(std::borrow::Cow::into_owned),
            source: stored.source,
            bytes,
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    at: String,
    #[serde(borrow)]
    function: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    version: std::borrow::Cow<'a, str>,
    instance: String,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    request_id: Option<std::borrow::Cow<'a, str>>,
    source: Source,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn line(function: &str, second: i64, text: &[u8]) -> LogLine {
        LogLine {
            at: Timestamp::from_second(1_700_000_000 + second).unwrap(),
            function: function.to_owned(),
            version: "$LATEST".to_owned(),
            instance: Uuid::nil(),
            request_id: Some(format!("request-{second}")),
            source: Source::Stdout,
            bytes: text.to_vec(),
        }
    }

    #[test]
    fn survives_its_form_on_disk() {
        for text in
            [&b"plain"[..], b"", b"quo\"te\n\x1b[31m", "\u{2028}ü".as_bytes(), b"\xff\xfe\0"]
        {
            let line = line("f", 1, text);
            let json = line.to_json();
            assert!(!json.contains('\n'), "one line: {json}");
            assert_eq!(LogLine::from_json(json.as_bytes()), Some(line));
        }
    }

    #[test]
    fn what_is_no_line_is_none() {
        for json in ["", "{}", "[1]", r#"{"at":"x"}"#] {
            assert_eq!(LogLine::from_json(json.as_bytes()), None, "{json}");
        }
    }
}
