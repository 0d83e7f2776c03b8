//! One event on disk: what was accepted, and what has become of it so far.
//!
//! An entry is a file of records, each behind its length and its CRC-32C. The first is the event;
//! every further one replaces what those before say of its progress. A record that was cut off at
//! the end was never relied on by anybody, and is as good as not there.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::Event;

/// The longest record that is believed, in bytes: a payload or a response, and what is said of it.
const RECORD_LIMIT: usize = 64 << 20;

/// How an event has ended, in AWS's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Condition {
    Success,
    RetriesExhausted,
    EventAgeExceeded,
}

/// What an attempt was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Response {
    pub(crate) executed_version: String,
    pub(crate) function_error: Option<String>,
    pub(crate) payload: Bytes,
}

/// What has become of an event so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// How often the function has run, as far as is known.
    pub(crate) runs: u32,
    /// When the next attempt is due.
    pub(crate) due: Option<SystemTime>,
    /// What the last one was answered.
    pub(crate) response: Option<Response>,
    /// Where it has ended, and only is to be told.
    pub(crate) ended: Option<Condition>,
}

/// An entry, read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) progress: Progress,
    /// How much of the file is good, in bytes. What follows is a record that was cut off, or worse.
    pub(crate) good: u64,
}

#[derive(Serialize, Deserialize)]
enum Header {
    Accepted {
        request_id: String,
        function: String,
        qualifier: Option<String>,
        function_arn: String,
        trace_id: String,
        client_context: Option<String>,
        accepted_ms: u64,
    },
    Progress {
        runs: u32,
        due_ms: Option<u64>,
        ended: Option<Condition>,
        answered: Option<(String, Option<String>)>,
    },
}

/// Why a file is no entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it does not begin with an event")]
pub(crate) struct NoEvent;

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn time(milliseconds: u64) -> SystemTime {
    let since = Duration::from_millis(milliseconds);
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The record that an entry begins with.
pub(crate) fn accepted(event: &Event) -> Vec<u8> {
    let header = Header::Accepted {
        request_id: event.request_id.clone(),
        function: event.function.clone(),
        qualifier: event.qualifier.clone(),
        function_arn: event.function_arn.clone(),
        trace_id: event.trace_id.clone(),
        client_context: event.client_context.clone(),
        accepted_ms: milliseconds(event.accepted),
    };
    record(&header, &event.payload)
}

/// A record that may follow.
pub(crate) fn progress(progress: &Progress) -> Vec<u8> {
    let response = progress.response.as_ref();
    let header = Header::Progress {
        runs: progress.runs,
        due_ms: progress.due.map(milliseconds),
        ended: progress.ended,
        answered: response.map(|it| (it.executed_version.clone(), it.function_error.clone())),
    };
    record(&header, response.map_or(&[], |response| &response.payload))
}

fn record(header: &Header, payload: &[u8]) -> Vec<u8> {
    // Strings and numbers only: there is nothing that could fail.
    let header = serde_json::to_vec(header).unwrap_or_default();
    let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    let body = [&length(header.len())[..], &header, payload].concat();
    [&length(body.len())[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat()
}

/// The next record of `bytes` at `*position`, which is moved behind it.
fn next(bytes: &Bytes, position: &mut usize) -> Option<(Header, Bytes)> {
    let number = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    let begin = position.checked_add(8)?;
    let length = usize::try_from(number(*position)?).ok()?;
    let end = begin.checked_add(length)?;
    if length > RECORD_LIMIT || end > bytes.len() {
        return None;
    }
    let body = bytes.slice(begin..end);
    if crc32c::crc32c(&body) != number(*position + 4)? {
        return None;
    }
    let header_length = usize::try_from(number(begin)?).ok()?;
    let payload = header_length.checked_add(4).filter(|payload| *payload <= body.len())?;
    let header = serde_json::from_slice(&body[4..payload]).ok()?;
    *position = end;
    Some((header, body.slice(payload..)))
}

impl Entry {
    /// Reads an entry.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, NoEvent> {
        let mut position = 0;
        let Some((Header::Accepted { .. }, _)) = next(bytes, &mut 0) else { return Err(NoEvent) };
        let mut event = None;
        let mut progress = Progress::default();
        let mut good = 0;
        while let Some((header, payload)) = next(bytes, &mut position) {
            match header {
                Header::Accepted {
                    request_id,
                    function,
                    qualifier,
                    function_arn,
                    trace_id,
                    client_context,
                    accepted_ms,
                } => {
                    event.get_or_insert(Event {
                        request_id,
                        function,
                        qualifier,
                        function_arn,
                        payload,
                        trace_id,
                        client_context,
                        accepted: time(accepted_ms),
                    });
                }
                Header::Progress { runs, due_ms, ended, answered } => {
                    let response = answered.map(|(executed_version, function_error)| Response {
                        executed_version,
                        function_error,
                        payload,
                    });
                    progress = Progress { runs, due: due_ms.map(time), response, ended };
                }
            }
            good = u64::try_from(position).unwrap_or(u64::MAX);
        }
        Ok(Self { event: event.ok_or(NoEvent)?, progress, good })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn event() -> Event {
        Event {
            request_id: "id".into(),
            function: "f".into(),
            qualifier: Some("live".into()),
            function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f:live".into(),
            payload: Bytes::from_static(b"{\"a\":\xff"),
            trace_id: "Root=1".into(),
            client_context: None,
            accepted: time(1_700_000_000_123),
        }
    }

    #[test]
    fn what_was_cut_off_was_never_said() {
        let first = Progress { runs: 1, due: Some(time(5)), ..Progress::default() };
        let last = Progress {
            runs: 2,
            due: None,
            response: Some(Response {
                executed_version: "3".into(),
                function_error: Some("Unhandled".into()),
                payload: Bytes::from_static(b"no"),
            }),
            ended: Some(Condition::RetriesExhausted),
        };
        let records = [accepted(&event()), progress(&first), progress(&last)];
        let whole = records.concat();
        let ends: Vec<usize> = (1..=3).map(|count| records[..count].concat().len()).collect();
        for length in 0..=whole.len() {
            let entry = Entry::decode(&Bytes::copy_from_slice(&whole[..length]));
            if length < ends[0] {
                assert_eq!(entry, Err(NoEvent));
                continue;
            }
            let entry = entry.unwrap();
            assert_eq!(entry.event, event());
            let expected = match length {
                length if length == ends[2] => (&last, ends[2]),
                length if length >= ends[1] => (&first, ends[1]),
                _ => (&Progress::default(), ends[0]),
            };
            assert_eq!((&entry.progress, entry.good), (expected.0, expected.1 as u64));
        }
    }

    #[test]
    fn no_damage_panics_or_goes_unnoticed() {
        let whole = [accepted(&event()), progress(&Progress::default())].concat();
        let first = accepted(&event()).len();
        for index in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[index] ^= 1 << bit;
                match Entry::decode(&bytes.into()) {
                    Ok(entry) => assert!(index >= first && entry.event == event()),
                    Err(NoEvent) => assert!(index < first),
                }
            }
        }
    }
}
