//! `X-Amzn-Trace-Id`: taken from a caller as it is, or made.

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The header's name.
pub(crate) const TRACE_HEADER: &str = "x-amzn-trace-id";

/// A function gets it in a header and in its environment: more than this is none.
const LONGEST: usize = 1024;

/// The trace that a caller names, if it is one.
pub(crate) fn named(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(TRACE_HEADER)?.to_str().ok()?.trim();
    (value.len() <= LONGEST && field(value, "Root").is_some()).then_some(value)
}

/// A trace as others write it down: `Root=1-<32 bits>-<96 bits>;Parent=<64 bits>;Sampled=1`, in hex.
pub(crate) fn context(trace: &str) -> Option<SpanContext> {
    let root = field(trace, "Root")?.strip_prefix("1-")?;
    let (time, random) = root.split_once('-')?;
    if time.len() != 8 || random.len() != 24 {
        return None;
    }
    let trace_id = TraceId::from_hex(&format!("{time}{random}")).ok()?;
    let span_id = field(trace, "Parent").and_then(|parent| SpanId::from_hex(parent).ok());
    let flags = match field(trace, "Sampled") {
        Some("0") => TraceFlags::default(),
        // Not decided, or to be recorded: whoever exports traces wants to see them.
        _ => TraceFlags::SAMPLED,
    };
    // Without a parent the root has to stand for it: a context without a span is none.
    let span_id = span_id.unwrap_or_else(|| {
        let bytes = trace_id.to_bytes();
        SpanId::from_bytes(bytes[8..].try_into().unwrap_or([1; 8]))
    });
    Some(SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE))
}

fn field<'a>(trace: &'a str, name: &str) -> Option<&'a str> {
    trace.split(';').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(TRACE_HEADER.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn callers_traces_are_taken_as_they_are() {
        let trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Lineage=a:1";
        assert_eq!(named(&headers(trace)), Some(trace));
        assert_eq!(named(&headers("nonsense")), None);
        assert_eq!(named(&headers(&format!("Root={}", "a".repeat(LONGEST)))), None);
        assert_eq!(named(&HeaderMap::new()), None);
    }

    #[test]
    fn traces_are_understood() {
        let context =
            context("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1")
                .unwrap();
        assert_eq!(context.trace_id().to_string(), "5759e988bd862e3fe1be46a994272793");
        assert_eq!(context.span_id().to_string(), "53995c3f42cd8ad8");
        assert!(context.is_sampled() && context.is_valid() && context.is_remote());
    }

    #[test]
    fn a_trace_that_is_not_to_be_sampled_is_not() {
        let trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0";
        assert!(!context(trace).unwrap().is_sampled());
    }

    #[test]
    fn malformed_traces_are_none() {
        for trace in ["", "Root=", "Root=1-2-3", "Root=2-5759e988-bd862e3fe1be46a994272793"] {
            assert!(context(trace).is_none(), "{trace}");
        }
        assert!(context("Root=1-5759e988-zd862e3fe1be46a994272793").is_none());
    }
}
