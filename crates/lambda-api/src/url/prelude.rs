//! The head of a streamed response: JSON, eight zero bytes, and then the body.

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::response::Head;

/// What ends a prelude.
const END: [u8; 8] = [0; 8];
/// A prelude is headers and cookies; more than this is none.
const LONGEST: usize = 256 << 10;

/// Whether a response of this type begins with a prelude.
pub(super) fn is_type(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim()
        == "application/vnd.awslambda.http-integration-response"
}

/// A prelude that was read.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Prelude(Head);

impl Prelude {
    pub(super) fn into_response(self, body: Body) -> Response {
        self.0.into_response(body, "application/octet-stream")
    }
}

/// Splits a response that is complete.
pub(super) fn split(payload: &Bytes) -> Option<(Prelude, Bytes)> {
    let mut reader = PreludeReader::default();
    match reader.push(payload) {
        Reading::Complete(prelude, body) => Some((prelude, body)),
        Reading::Incomplete | Reading::Malformed => None,
    }
}

/// Reads a prelude that comes in pieces.
#[derive(Default)]
pub(super) struct PreludeReader {
    read: BytesMut,
}

/// How far a prelude is read.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Reading {
    /// Its end has not come yet.
    Incomplete,
    /// It, and what came of the body after it.
    Complete(Prelude, Bytes),
    /// It is none.
    Malformed,
}

impl PreludeReader {
    pub(super) fn push(&mut self, piece: &[u8]) -> Reading {
        // The end may stand across two pieces.
        let searched = self.read.len().saturating_sub(END.len() - 1);
        self.read.extend_from_slice(piece);
        let end = self.read[searched..].windows(END.len()).position(|window| window == END);
        let Some(end) = end.map(|end| searched + end) else {
            return if self.read.len() > LONGEST {
                Reading::Malformed
            } else {
                Reading::Incomplete
            };
        };
        let mut body = std::mem::take(&mut self.read);
        let head = body.split_to(end);
        let _ = body.split_to(END.len());
        let Ok(Value::Object(object)) = serde_json::from_slice(&head) else {
            return Reading::Malformed;
        };
        match Head::read(&object) {
            Some(head) => Reading::Complete(Prelude(head), body.freeze()),
            None => Reading::Malformed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"{\"statusCode\":201,\"cookies\":[\"a=1\"]}\0\0\0\0\0\0\0\0body\0";

    #[test]
    fn a_prelude_is_read_however_it_is_cut() {
        let (whole, body) = split(&Bytes::from_static(WHOLE)).unwrap();
        assert_eq!(&body[..], b"body\0");
        for cut in 0..WHOLE.len() {
            let mut reader = PreludeReader::default();
            let (prelude, body) = match reader.push(&WHOLE[..cut]) {
                Reading::Incomplete => match reader.push(&WHOLE[cut..]) {
                    Reading::Complete(prelude, body) => (prelude, body),
                    other => panic!("{cut}: {other:?}"),
                },
                Reading::Complete(prelude, body) => {
                    (prelude, [&body[..], &WHOLE[cut..]].concat().into())
                }
                Reading::Malformed => panic!("{cut}"),
            };
            assert_eq!(prelude, whole, "{cut}");
            assert_eq!(&body[..], b"body\0", "{cut}");
        }
    }

    #[test]
    fn what_is_no_prelude_is_refused() {
        let push = |bytes: &[u8]| PreludeReader::default().push(bytes);
        assert_eq!(push(b"text\0\0\0\0\0\0\0\0"), Reading::Malformed);
        assert_eq!(push(b"[]\0\0\0\0\0\0\0\0"), Reading::Malformed);
        assert_eq!(push(b"{\"statusCode\":7}\0\0\0\0\0\0\0\0"), Reading::Malformed);
        assert_eq!(push(&vec![b' '; LONGEST + 1]), Reading::Malformed);
        assert_eq!(split(&Bytes::from_static(b"{}")), None);
    }

    #[test]
    fn its_type_is_its_own() {
        assert!(is_type("application/vnd.awslambda.http-integration-response"));
        assert!(!is_type("application/json"));
    }
}
