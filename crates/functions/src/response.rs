//! A function's response on its way to its caller.

use bytes::{Bytes, BytesMut};
use costrel_agent_client::wire::{ErrorReport, ResponseEnd, ResponseMode, ResponseStart};
use tokio::sync::mpsc;

use crate::{FunctionError, Reply};

/// The largest buffered response, in bytes. The agent enforces it; nobody trusts the agent.
const BUFFERED_LIMIT: usize = 6_291_556;

/// The largest streamed response, in bytes.
const STREAMED_LIMIT: usize = 200 << 20;

/// A part of a response. First comes one [`ResponsePart::Start`]; how the response ended, and
/// whether it is whole, is in the invocation's [`crate::Outcome`]. A function that fails before it
/// has begun to respond makes no parts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResponsePart {
    /// The response begins.
    Start {
        /// As the runtime gave it; empty if it gave none.
        content_type: String,
        /// Whether the function streams. If not, one chunk follows, with all of it.
        streaming: bool,
    },
    /// A piece of it, not empty.
    Chunk(Bytes),
}

/// Takes in what an invocation answers. The first word on its outcome counts.
#[derive(Debug)]
pub(crate) struct ResponseIntake {
    parts: Option<mpsc::Sender<ResponsePart>>,
    current: Option<Current>,
    outcome: Option<Result<Reply, FunctionError>>,
}

/// A response that has begun.
#[derive(Debug)]
struct Current {
    streaming: bool,
    content_type: String,
    length: usize,
    /// What is not passed on as it comes.
    payload: BytesMut,
}

impl ResponseIntake {
    /// `parts`: where the response goes, if it is not to be collected.
    pub(crate) fn new(parts: Option<mpsc::Sender<ResponsePart>>) -> Self {
        Self { parts, current: None, outcome: None }
    }

    pub(crate) async fn start(&mut self, start: ResponseStart) {
        let streaming = start.mode() == ResponseMode::Streaming;
        let current = Current {
            streaming,
            content_type: start.content_type,
            length: 0,
            payload: BytesMut::new(),
        };
        if self.outcome.is_none() && streaming {
            self.pass_start(&current).await;
        }
        self.current = Some(current);
    }

    /// Waits while whoever receives the parts does.
    pub(crate) async fn chunk(&mut self, chunk: Bytes) {
        let Some(current) = &mut self.current else { return };
        current.length = current.length.saturating_add(chunk.len());
        let limit = if current.streaming { STREAMED_LIMIT } else { BUFFERED_LIMIT };
        if current.length > limit {
            self.outcome.get_or_insert(Err(FunctionError::response_too_large(limit)));
        }
        if self.outcome.is_some() {
            return;
        }
        if current.streaming && self.parts.is_some() {
            self.pass(ResponsePart::Chunk(chunk)).await;
        } else {
            current.payload.extend_from_slice(&chunk);
        }
    }

    pub(crate) async fn end(&mut self, end: ResponseEnd) {
        let Some(mut current) = self.current.take() else { return };
        if self.outcome.is_some() {
            return;
        }
        if !end.error_type.is_empty() {
            let error = FunctionError { error_type: end.error_type, payload: end.error_body };
            self.outcome = Some(Err(error));
            return;
        }
        let mut payload = current.payload.split().freeze();
        if !current.streaming && self.parts.is_some() {
            self.pass_start(&current).await;
            self.pass(ResponsePart::Chunk(std::mem::take(&mut payload))).await;
        }
        self.outcome = Some(Ok(Reply { content_type: current.content_type, payload }));
    }

    /// The invocation failed: what was received of a response is void.
    pub(crate) fn failed(&mut self, report: ErrorReport) {
        let error = FunctionError { error_type: report.error_type, payload: report.body };
        self.outcome.get_or_insert(Err(error));
    }

    /// The outcome, if there was a word on it.
    pub(crate) fn into_outcome(self) -> Option<Result<Reply, FunctionError>> {
        self.outcome
    }

    async fn pass_start(&mut self, current: &Current) {
        let content_type = current.content_type.clone();
        self.pass(ResponsePart::Start { content_type, streaming: current.streaming }).await;
    }

    async fn pass(&mut self, part: ResponsePart) {
        if matches!(&part, ResponsePart::Chunk(chunk) if chunk.is_empty()) {
            return;
        }
        if let Some(parts) = &self.parts {
            // Whoever asked may have left. The function runs to its end all the same.
            let _ = parts.send(part).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(mode: ResponseMode) -> ResponseStart {
        ResponseStart {
            request_id: "id".into(),
            mode: mode.into(),
            content_type: "text/plain".into(),
        }
    }

    fn part(streaming: bool) -> ResponsePart {
        ResponsePart::Start { content_type: "text/plain".into(), streaming }
    }

    #[tokio::test]
    async fn a_streamed_response_goes_out_as_it_comes_and_no_faster() {
        let (sender, mut parts) = mpsc::channel(1);
        let mut intake = ResponseIntake::new(Some(sender));
        intake.start(start(ResponseMode::Streaming)).await;
        assert_eq!(parts.try_recv(), Ok(part(true)));
        intake.chunk("one".into()).await;
        // Nobody takes the first: the second has to wait.
        let mut second = Box::pin(intake.chunk("two".into()));
        let pause = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(pause, &mut second).await.is_err());
        assert_eq!(parts.try_recv(), Ok(ResponsePart::Chunk("one".into())));
        second.await;
        assert_eq!(parts.try_recv(), Ok(ResponsePart::Chunk("two".into())));
        let error_body = Bytes::from_static(b"{}");
        let end = ResponseEnd { error_type: "Function.Broken".into(), error_body };
        intake.end(end).await;
        let error = intake.into_outcome().unwrap().unwrap_err();
        assert_eq!(
            (error.error_type.as_str(), &error.payload[..]),
            ("Function.Broken", &b"{}"[..])
        );
        assert_eq!(parts.recv().await, None);
    }

    #[tokio::test]
    async fn a_buffered_response_goes_out_as_a_whole_or_not_at_all() {
        let (sender, mut parts) = mpsc::channel(4);
        let mut intake = ResponseIntake::new(Some(sender));
        // One that broke off and was sent again.
        for piece in ["lost", "o"] {
            intake.start(start(ResponseMode::Buffered)).await;
            intake.chunk(piece.into()).await;
        }
        intake.chunk("ne".into()).await;
        assert!(parts.try_recv().is_err());
        intake.end(ResponseEnd::default()).await;
        assert_eq!(parts.try_recv(), Ok(part(false)));
        assert_eq!(parts.try_recv(), Ok(ResponsePart::Chunk("one".into())));
        assert!(intake.into_outcome().unwrap().unwrap().payload.is_empty());

        let mut intake = ResponseIntake::new(None);
        intake.start(start(ResponseMode::Buffered)).await;
        intake.chunk(vec![0; BUFFERED_LIMIT].into()).await;
        intake.chunk("x".into()).await;
        intake.end(ResponseEnd::default()).await;
        let error = intake.into_outcome().unwrap().unwrap_err();
        assert_eq!(error.error_type, "Function.ResponseSizeTooLarge");
    }

    #[tokio::test]
    async fn a_caller_who_has_left_is_no_obstacle() {
        let (sender, parts) = mpsc::channel(1);
        drop(parts);
        let mut intake = ResponseIntake::new(Some(sender));
        intake.start(start(ResponseMode::Streaming)).await;
        for _ in 0..100 {
            intake.chunk("more".into()).await;
        }
        intake.end(ResponseEnd::default()).await;
        assert!(intake.into_outcome().unwrap().is_ok());
    }

    #[tokio::test]
    async fn the_first_word_counts() {
        let mut intake = ResponseIntake::new(None);
        let report = ErrorReport { error_type: "Runtime.Unknown".into(), ..ErrorReport::default() };
        intake.failed(report);
        intake.start(start(ResponseMode::Buffered)).await;
        intake.chunk("late".into()).await;
        intake.end(ResponseEnd::default()).await;
        assert_eq!(intake.into_outcome().unwrap().unwrap_err().error_type, "Runtime.Unknown");
    }
}
