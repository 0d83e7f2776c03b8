//! The form of a request that is signed.

use std::fmt;

use http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// RFC 3986's unreserved characters stay as they are.
const UNRESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: AsciiSet = UNRESERVED.remove(b'/');

/// A request, to be written in canonical form.
pub(super) struct CanonicalRequest<'a> {
    pub(super) request: &'a Parts,
    pub(super) signed_headers: &'a [String],
    pub(super) payload_hash: &'a str,
    pub(super) path: PathForm,
}

/// How a path is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PathForm {
    /// Normalized and encoded once more, encoded though it is: so it is for all services but S3.
    EncodedAgain,
    /// As it was sent, as curl has it before its version 8.
    AsSent,
}

impl fmt::Display for CanonicalRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.request.uri.path();
        match self.path {
            PathForm::EncodedAgain => {
                let path = normalized(path);
                writeln!(f, "{}\n{}", self.request.method, utf8_percent_encode(&path, &PATH))?;
            }
            PathForm::AsSent => writeln!(f, "{}\n{path}", self.request.method)?,
        }
        let mut query: Vec<(String, String)> = pairs(self.request.uri.query().unwrap_or_default())
            .into_iter()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| (encoded(&name), encoded(&value)))
            .collect();
        query.sort_unstable();
        for (index, (name, value)) in query.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { "" } else { "&" })?;
        }
        writeln!(f)?;
        for name in self.signed_headers {
            write!(f, "{name}:")?;
            for (index, value) in self.request.headers.get_all(name).iter().enumerate() {
                let value = String::from_utf8_lossy(value.as_bytes());
                let words: Vec<_> = value.split_ascii_whitespace().collect();
                write!(f, "{}{}", if index == 0 { "" } else { "," }, words.join(" "))?;
            }
            writeln!(f)?;
        }
        write!(f, "\n{}\n{}", self.signed_headers.join(";"), self.payload_hash)
    }
}

/// Without empty segments, `.` and `..`.
fn normalized(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let end = if path.ends_with('/') && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

/// A query's names and values, decoded. A plus sign stands for itself, as signers take it.
pub(super) fn pairs(query: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, &UNRESERVED).to_string()
}
