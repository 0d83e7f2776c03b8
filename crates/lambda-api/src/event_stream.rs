//! `application/vnd.amazon.eventstream`: how a response goes out piece by piece.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};

/// The media type.
pub(crate) const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// The most bytes of a response that go into one frame. SDKs refuse frames of more than 16 MiB.
const LARGEST_PAYLOAD: usize = 1 << 20;

/// The most bytes of an error's details in the last frame, before what escaping adds.
const LONGEST_DETAILS: usize = 256 << 10;

/// How a response in pieces has ended.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Completion {
    /// The kind of the error, if it is one, and what there is to say of it.
    pub(crate) error: Option<(String, String)>,
    /// The log's end, in base64, if it was asked for.
    pub(crate) log_result: Option<String>,
}

/// The frames of a piece of the response: one, as a rule.
pub(crate) fn payload_chunk(payload: Bytes) -> Bytes {
    if payload.len() <= LARGEST_PAYLOAD {
        return frame("PayloadChunk", "application/octet-stream", payload);
    }
    let mut frames = BytesMut::with_capacity(payload.len() + payload.len() / 1024);
    for start in (0..payload.len()).step_by(LARGEST_PAYLOAD) {
        let part = payload.slice(start..payload.len().min(start + LARGEST_PAYLOAD));
        frames.extend_from_slice(&frame("PayloadChunk", "application/octet-stream", part));
    }
    frames.freeze()
}

/// The last frame.
pub(crate) fn invoke_complete(completion: Completion) -> Bytes {
    let mut body = Map::new();
    if let Some((code, mut details)) = completion.error {
        details.truncate(details.floor_char_boundary(LONGEST_DETAILS));
        body.insert("ErrorCode".to_owned(), code.into());
        body.insert("ErrorDetails".to_owned(), details.into());
    }
    if let Some(log) = completion.log_result {
        body.insert("LogResult".to_owned(), log.into());
    }
    let body = Value::Object(body).to_string();
    frame("InvokeComplete", "application/json", body.into())
}

fn frame(event: &'static str, content_type: &'static str, payload: Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 128);
    let text = |text: &'static str| HeaderValue::String(text.into());
    let message = Message::new(payload)
        .add_header(Header::new(":event-type", text(event)))
        .add_header(Header::new(":content-type", text(content_type)))
        .add_header(Header::new(":message-type", text("event")));
    write_message_to(&message, &mut frame)
        .expect("a payload of at most 1 MiB and three headers fit into a frame");
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};

    use super::*;

    fn decoded(mut bytes: Bytes) -> Vec<(Vec<(String, String)>, Bytes)> {
        let mut decoder = MessageFrameDecoder::new();
        let mut messages = Vec::new();
        while let DecodedFrame::Complete(message) = decoder.decode_frame(&mut bytes).unwrap() {
            let headers = message.headers().iter().map(|header| {
                let value = header.value().as_string().unwrap().as_str().to_owned();
                (header.name().as_str().to_owned(), value)
            });
            messages.push((headers.collect(), message.payload().clone()));
        }
        messages
    }

    #[test]
    fn a_chunk_is_a_frame() {
        let messages = decoded(payload_chunk(Bytes::from_static(b"\0raw")));
        let [(headers, payload)] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!(&payload[..], b"\0raw");
        for header in [
            (":message-type", "event"),
            (":event-type", "PayloadChunk"),
            (":content-type", "application/octet-stream"),
        ] {
            assert!(headers.contains(&(header.0.to_owned(), header.1.to_owned())), "{headers:?}");
        }
    }

    #[test]
    fn a_large_chunk_is_several() {
        let payload = Bytes::from(vec![7; 2 * LARGEST_PAYLOAD + 1]);
        let messages = decoded(payload_chunk(payload.clone()));
        assert_eq!(messages.len(), 3);
        let joined: Vec<u8> = messages.iter().flat_map(|(_, payload)| payload.to_vec()).collect();
        assert_eq!(joined, payload);
    }

    #[test]
    fn the_end_says_how_it_came() {
        let body = |completion| {
            let messages = decoded(invoke_complete(completion));
            assert!(
                messages[0].0.contains(&(":event-type".to_owned(), "InvokeComplete".to_owned()))
            );
            String::from_utf8(messages[0].1.to_vec()).unwrap()
        };
        assert_eq!(body(Completion::default()), "{}");
        let failed = Completion {
            error: Some(("Unhandled".to_owned(), "{}".to_owned())),
            log_result: Some("bG9n".to_owned()),
        };
        assert_eq!(
            body(failed),
            r#"{"ErrorCode":"Unhandled","ErrorDetails":"{}","LogResult":"bG9n"}"#
        );
    }
}
