//! What a registry says when it does not give what was asked for.

use std::time::{Duration, SystemTime};

use reqwest::{Response, StatusCode, header::RETRY_AFTER};
use serde::Deserialize;

/// Error bodies are read up to this many bytes.
const LARGEST_ANSWER: usize = 64 << 10;
const LONGEST_TEXT: usize = 300;

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads at most `largest` bytes of a body. More is cut off, and so is what a broken connection
/// does not bring.
pub(super) async fn read_start(response: &mut Response, largest: usize) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = largest - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == largest {
            break;
        }
    }
    body
}

/// The status and what the registry says about it, in one line that is safe to print.
pub(super) async fn explain(mut response: Response) -> String {
    let status = response.status();
    let retry_after = retry_after(&response);
    let body = read_start(&mut response, LARGEST_ANSWER).await;
    let mut text = describe(status, &body);
    if let Some(delay) = retry_after {
        text.push_str(&format!(" (try again in {} s)", delay.as_secs()));
    }
    text
}

fn describe(status: StatusCode, body: &[u8]) -> String {
    let said = match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => {
            let entries = envelope.errors.iter().map(|entry| match entry.message.as_str() {
                "" => entry.code.clone(),
                message => format!("{}: {message}", entry.code),
            });
            entries.collect::<Vec<_>>().join("; ")
        }
        // A proxy's page says nothing that its status does not.
        Err(_) if body.starts_with(b"<") => String::new(),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    // It is a stranger's text: no control characters, and not too long.
    let said: String =
        said.chars().filter(|letter| !letter.is_control()).take(LONGEST_TEXT).collect();
    if said.is_empty() { status.to_string() } else { format!("{status}: {said}") }
}

/// How long the registry asks to wait, in seconds or until a date.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_the_registry_says() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}}]}"#;
        let not_found = StatusCode::NOT_FOUND;
        assert_eq!(describe(not_found, body), "404 Not Found: MANIFEST_UNKNOWN: manifest unknown");
        assert_eq!(describe(not_found, b"<html>x</html>"), "404 Not Found");
        assert_eq!(describe(not_found, b""), "404 Not Found");
        assert_eq!(describe(not_found, b"a\x1b[31m\nb"), "404 Not Found: a[31mb");
        assert!(describe(not_found, &[b'x'; 5000]).len() < 400);
    }
}
