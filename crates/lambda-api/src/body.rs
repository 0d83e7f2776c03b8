//! A request's body, up to a limit.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;

/// So much is read of a body beyond what it may have, so that its sender gets to read the answer: many
/// clients send all of it before they look.
const DRAINED: u64 = 64 << 20;

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// Its size in bytes, as far as it was looked at.
    #[error("{size} bytes are too many")]
    TooLarge { size: u64 },
    /// The connection broke, stalled, or carried no HTTP.
    #[error("the body ended early")]
    Broken(#[source] axum::Error),
}

/// All of the body, at most `limit` bytes. One that came in one piece is not copied.
///
/// # Errors
/// [`BodyError`].
pub(crate) async fn collect(mut body: Body, limit: usize) -> Result<Bytes, BodyError> {
    let announced = http_body::Body::size_hint(&body).exact();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut size: u64 = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(BodyError::Broken)?.into_data() else { continue };
        size += data.len() as u64;
        if size > limit as u64 {
            rest = BytesMut::new();
            if size - limit as u64 >= DRAINED {
                break;
            }
        } else if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                // The announced size is the peer's word: it is not reserved beyond the limit.
                let announced = announced.and_then(|size| usize::try_from(size).ok());
                rest.reserve(
                    announced.unwrap_or_default().min(limit).max(first.len() + data.len()),
                );
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    if size > limit as u64 {
        return Err(BodyError::TooLarge { size: announced.unwrap_or(size) });
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn pieces(pieces: Vec<&'static [u8]>) -> Body {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece)));
        Body::from_stream(tokio_stream::iter(frames))
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit() {
        assert_eq!(collect(Body::empty(), 0).await.unwrap(), Bytes::new());
        assert_eq!(collect(pieces(vec![b"", b"ab", b"", b"c", b"d"]), 4).await.unwrap(), "abcd");
        let error = collect(pieces(vec![b"ab", b"cde"]), 4).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLarge { size: 5 }), "{error}");
    }

    #[tokio::test]
    async fn one_piece_is_not_copied() {
        let piece = Bytes::from(vec![1; 100]);
        let collected = collect(Body::from(piece.clone()), 100).await.unwrap();
        assert_eq!(collected.as_ptr(), piece.as_ptr());
    }
}
