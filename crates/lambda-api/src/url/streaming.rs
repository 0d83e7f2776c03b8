//! `RESPONSE_STREAM`: a response that goes out as the function writes it.

use std::io;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use costrel_functions::ResponsePart;
use http::{StatusCode, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    prelude::{self, PreludeReader, Reading},
    response,
};
use crate::{
    ApiError,
    recorder::{Call, Recorder, StreamedCall, joined},
};

/// Runs the invocation, and responds once the head of its response is known.
pub(super) async fn serve(recorder: &Recorder, call: Call) -> Result<Response, ApiError> {
    let mut streamed = recorder.run_streamed(call);
    let content_type = match streamed.parts.recv().await {
        Some(ResponsePart::Start { content_type, .. }) => content_type,
        Some(ResponsePart::Chunk(_)) | None => {
            // It has failed before it said a word.
            let invoked = joined(streamed.end).await?;
            return Ok(match invoked.outcome.reply {
                Ok(reply) => (StatusCode::OK, reply.payload).into_response(),
                Err(_) => response::bad_gateway(),
            });
        }
    };
    if !prelude::is_type(&content_type) {
        let content_type = if content_type.is_empty() {
            "application/octet-stream".to_owned()
        } else {
            content_type
        };
        let headers = [(header::CONTENT_TYPE, content_type)];
        return Ok((StatusCode::OK, headers, body(Bytes::new(), streamed)).into_response());
    }
    let mut reader = PreludeReader::default();
    while let Some(part) = streamed.parts.recv().await {
        let ResponsePart::Chunk(chunk) = part else { continue };
        match reader.push(&chunk) {
            Reading::Incomplete => {}
            Reading::Complete(prelude, first) => {
                return Ok(prelude.into_response(body(first, streamed)));
            }
            Reading::Malformed => break,
        }
    }
    Ok(response::bad_gateway())
}

/// The rest of the response. Where it ends by an error, so does the connection: whoever reads it
/// must not take it for complete.
fn body(first: Bytes, mut streamed: StreamedCall) -> Body {
    let (sender, pieces) = mpsc::channel::<io::Result<Bytes>>(1);
    tokio::spawn(async move {
        if !first.is_empty() && sender.send(Ok(first)).await.is_err() {
            return;
        }
        while let Some(part) = streamed.parts.recv().await {
            if let ResponsePart::Chunk(chunk) = part
                && !chunk.is_empty()
                && sender.send(Ok(chunk)).await.is_err()
            {
                return;
            }
        }
        let failed = match joined(streamed.end).await {
            Ok(invoked) => invoked.outcome.reply.is_err(),
            Err(_) => true,
        };
        if failed {
            let _ = sender.send(Err(io::Error::other("the function failed"))).await;
        }
    });
    Body::from_stream(ReceiverStream::new(pieces))
}
