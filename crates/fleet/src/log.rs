//! The log of one instance: line by line to the observer, and the end of it to whoever has asked.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use costrel_agent_client::wire::OutputStream;
use costrel_functions::log::LogSink;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{FleetObserver, LogLine, LogSource, VersionKey};

/// How much of an invocation's log its caller can have, in bytes, as on AWS.
const TAIL_LIMIT: usize = 4096;

/// The longest line, in bytes, as in CloudWatch.
const LINE_LIMIT: usize = 256 << 10;

/// Takes the log of one instance.
pub(crate) struct InstanceLog {
    version: VersionKey,
    instance: Uuid,
    observer: Arc<dyn FleetObserver>,
    // Held while the observer is told, so that it hears all in order.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The invocation under way.
    request_id: Option<String>,
    /// The end of its log.
    tail: VecDeque<u8>,
    /// Lines whose end is still to come: one for each of [`GUESTS`].
    open: [BytesMut; GUESTS.len()],
}

impl InstanceLog {
    pub(crate) fn new(
        version: VersionKey,
        instance: Uuid,
        observer: Arc<dyn FleetObserver>,
    ) -> Self {
        Self { version, instance, observer, state: Mutex::default() }
    }

    /// What is said from now on belongs to this invocation.
    pub(crate) fn begin(&self, request_id: &str) {
        let mut state = self.state();
        self.end_lines(&mut state);
        state.request_id = Some(request_id.to_owned());
        state.tail.clear();
    }

    /// The invocation is over. Returns the end of its log.
    pub(crate) fn end(&self) -> Bytes {
        let mut state = self.state();
        self.end_lines(&mut state);
        state.request_id = None;
        Vec::from(std::mem::take(&mut state.tail)).into()
    }

    /// A lock that was poisoned protects nothing that could be inconsistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &State, source: LogSource, bytes: Bytes) {
        self.observer.log(&LogLine {
            at: Timestamp::now(),
            function: self.version.function.clone(),
            version: self.version.version.clone(),
            instance: self.instance,
            request_id: state.request_id.clone(),
            source,
            bytes,
        });
    }

    /// Whatever has no end yet ends here.
    fn end_lines(&self, state: &mut State) {
        for (slot, source) in GUESTS.into_iter().enumerate() {
            let line = std::mem::take(&mut state.open[slot]);
            if !line.is_empty() {
                self.tell(state, source, line.freeze());
            }
        }
    }
}

/// Whose lines come in pieces.
const GUESTS: [LogSource; 3] = [LogSource::Stdout, LogSource::Stderr, LogSource::Extension];

fn slot(source: LogSource) -> usize {
    GUESTS.iter().position(|guest| *guest == source).unwrap_or(0)
}

impl State {
    fn add_to_tail(&mut self, bytes: &[u8]) {
        if self.request_id.is_none() {
            return;
        }
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_LIMIT)..];
        let excess = (self.tail.len() + bytes.len()).saturating_sub(TAIL_LIMIT);
        self.tail.drain(..excess);
        self.tail.extend(bytes);
    }
}

impl LogSink for InstanceLog {
    fn platform(&self, text: &str) {
        let mut state = self.state();
        self.end_lines(&mut state);
        if state.tail.back().is_some_and(|last| *last != b'\n') {
            state.add_to_tail(b"\n");
        }
        let text = text.trim_end_matches('\n');
        state.add_to_tail(text.as_bytes());
        state.add_to_tail(b"\n");
        for line in text.split('\n') {
            self.tell(&state, LogSource::Platform, Bytes::copy_from_slice(line.as_bytes()));
        }
    }

    fn function(&self, stream: OutputStream, data: &[u8]) {
        let source = if stream == OutputStream::Stdout {
            LogSource::Stdout
        } else if stream == OutputStream::Stderr {
            LogSource::Stderr
        } else {
            LogSource::Extension
        };
        let mut state = self.state();
        state.add_to_tail(data);
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let mut text = text;
            loop {
                let open = &mut state.open[slot(source)];
                let room = LINE_LIMIT - open.len();
                let (now, later) = text.split_at(room.min(text.len()));
                open.extend_from_slice(now);
                text = later;
                if text.is_empty() {
                    break;
                }
                let line = std::mem::take(open);
                self.tell(&state, source, line.freeze());
            }
            if ends {
                let mut line = std::mem::take(&mut state.open[slot(source)]);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                self.tell(&state, source, line.freeze());
            }
        }
    }

    fn notice(&self, text: &str) {
        let state = self.state();
        self.tell(&state, LogSource::Notice, Bytes::copy_from_slice(text.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InvocationRecord;

    #[derive(Default)]
    struct Lines(Mutex<Vec<(Option<String>, LogSource, String)>>);

    impl FleetObserver for Lines {
        fn log(&self, line: &LogLine) {
            let text = String::from_utf8_lossy(&line.bytes).into_owned();
            self.0.lock().unwrap().push((line.request_id.clone(), line.source, text));
        }
        fn invoked(&self, _record: &InvocationRecord) {}
    }

    fn log() -> (Arc<Lines>, InstanceLog) {
        let lines = Arc::new(Lines::default());
        let key = VersionKey { function: "f".into(), version: "1".into(), revision: "r".into() };
        let log = InstanceLog::new(key, Uuid::nil(), Arc::clone(&lines) as _);
        (lines, log)
    }

    #[test]
    fn pieces_become_lines_of_their_invocation() {
        let (lines, log) = log();
        log.function(OutputStream::Stdout, b"ahead\n");
        log.begin("a");
        log.platform("START");
        log.function(OutputStream::Stdout, b"on");
        log.function(OutputStream::Stderr, b"other\r\n\nx");
        log.function(OutputStream::Stdout, b"e\ntwo");
        log.platform("END");
        assert_eq!(log.end(), "START\nonother\r\n\nxe\ntwo\nEND\n");
        log.function(OutputStream::Stdout, b"behind");
        log.begin("b");
        assert_eq!(log.end(), "");
        let lines = lines.0.lock().unwrap();
        let got: Vec<_> =
            lines.iter().map(|(id, source, text)| (id.as_deref(), *source, &**text)).collect();
        use LogSource::{Platform, Stderr, Stdout};
        assert_eq!(
            got,
            [
                (None, Stdout, "ahead"),
                (Some("a"), Platform, "START"),
                (Some("a"), Stderr, "other"),
                (Some("a"), Stderr, ""),
                (Some("a"), Stdout, "one"),
                (Some("a"), Stdout, "two"),
                (Some("a"), Stderr, "x"),
                (Some("a"), Platform, "END"),
                (None, Stdout, "behind"),
            ]
        );
    }

    #[test]
    fn tails_and_lines_are_bounded() {
        let (lines, log) = log();
        log.begin("a");
        log.function(OutputStream::Stdout, &vec![b'x'; LINE_LIMIT + 10]);
        log.platform("END");
        let tail = log.end();
        assert_eq!(tail.len(), TAIL_LIMIT);
        assert!(tail.ends_with(b"xx\nEND\n"));
        let lengths: Vec<_> =
            lines.0.lock().unwrap().iter().map(|(_, _, text)| text.len()).collect();
        assert_eq!(lengths, [LINE_LIMIT, 10, 3]);
    }
}
