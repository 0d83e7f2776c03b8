//! Reads what callers send.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::protocol::RESPONSE_LIMIT;

/// The whole body, or nothing if it is above the limit; it is read to its end in any case.
pub(super) async fn read_bounded(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut whole = Vec::new();
    let mut fits = true;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            fits = fits && whole.len() + data.len() <= RESPONSE_LIMIT;
            if fits {
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(fits.then(|| whole.into()))
}

/// A header's text; empty if it is not there.
pub(super) fn text_header(headers: &HeaderMap, name: &HeaderName) -> String {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .unwrap_or_default()
}
