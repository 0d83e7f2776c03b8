//! The event that goes in, and the payload that comes out.

use std::{
    borrow::Cow,
    fs,
    io::{self, Read as _},
};

use bytes::Bytes;
use costrel_functions::Invocation;

use crate::{environment::Environment, failure::Failure};

/// The largest event of a synchronous invocation, in bytes, as on AWS.
const EVENT_LIMIT: usize = 6_291_456;

/// The event of the command line, else of `AWS_LAMBDA_EVENT_BODY`, else of standard input if
/// `DOCKER_LAMBDA_USE_STDIN` is set, else `{}`.
pub(super) fn read(argument: Option<&str>, environment: &Environment) -> Result<Bytes, Failure> {
    let standard_input = || {
        let mut event = Vec::new();
        let bounded = io::stdin().take(EVENT_LIMIT as u64 + 1).read_to_end(&mut event);
        bounded
            .map(|_| event)
            .map_err(|error| Failure::usage(format!("cannot read the event: {error}")))
    };
    let event = match (argument, environment.text("AWS_LAMBDA_EVENT_BODY")) {
        (Some("-"), _) => standard_input()?,
        (Some(text), body) => match text.strip_prefix('@') {
            Some(file) => fs::read(file).map_err(|error| {
                Failure::usage(format!("cannot read the event from {file}: {error}"))
            })?,
            None if text.is_empty() => body.unwrap_or("{}").into(),
            None => text.into(),
        },
        (None, Some(body)) => body.into(),
        (None, None) if environment.get("DOCKER_LAMBDA_USE_STDIN").is_some() => standard_input()?,
        (None, None) => "{}".into(),
    };
    let event = if event.trim_ascii().is_empty() { b"{}".to_vec() } else { event };
    if event.len() > EVENT_LIMIT {
        return Err(Failure::usage(format!(
            "the event is too large: the limit is {EVENT_LIMIT} bytes"
        )));
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(&event)
        .map_err(|error| Failure::usage(format!("the event is not JSON: {error}")))?;
    Ok(event.into())
}

/// The trace, client context and identity that docker-lambda takes from its environment.
pub(super) fn context(
    invocation: &mut Invocation,
    environment: &Environment,
) -> Result<(), Failure> {
    if let Some(trace) = environment.text("_X_AMZN_TRACE_ID") {
        trace.clone_into(&mut invocation.trace_id);
    }
    for (variable, field) in [
        ("AWS_LAMBDA_CLIENT_CONTEXT", &mut invocation.client_context),
        ("AWS_LAMBDA_COGNITO_IDENTITY", &mut invocation.cognito_identity),
    ] {
        let Some(text) = environment.text(variable) else { continue };
        // Compact: it travels in a header, which has no room for line breaks.
        let value: serde_json::Value = serde_json::from_str(text)
            .map_err(|error| Failure::usage(format!("{variable} is not JSON: {error}")))?;
        *field = Some(value.to_string());
    }
    Ok(())
}

/// The payload without the white space between JSON's tokens if it has line breaks; as it is if it
/// has none, or is no JSON.
pub(super) fn one_line(payload: &[u8]) -> Cow<'_, [u8]> {
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok();
    if !payload.contains(&b'\n') || !is_json() {
        return payload.into();
    }
    let mut line = Vec::with_capacity(payload.len());
    let (mut in_string, mut escaped) = (false, false);
    for &byte in payload {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        line.push(byte);
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_become_one_line_unchanged_in_meaning() {
        let line =
            |text: &'static str| String::from_utf8(one_line(text.as_bytes()).into_owned()).unwrap();
        assert_eq!(line("{ \"a\": 1 }"), "{ \"a\": 1 }");
        assert_eq!(
            line("{\n \"a \\\" b\\\\\": 1.0,\n\"c\": \"x y\"}\n"),
            "{\"a \\\" b\\\\\":1.0,\"c\":\"x y\"}"
        );
        assert_eq!(line("not\njson"), "not\njson");
    }
}
