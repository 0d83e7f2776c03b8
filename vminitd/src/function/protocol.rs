//! Names, limits and normal forms of the Lambda Runtime API.

use http::{HeaderMap, HeaderName};

/// The largest response that a function may return unstreamed, in bytes: 6 MiB and 100.
pub(super) const RESPONSE_LIMIT: usize = 6_291_556;

/// The port of the Runtime API on the guest's loopback.
pub(super) const PORT: u16 = 9001;

/// Where AWS's runtimes are told to ask for credentials after a restore.
pub(super) const CREDENTIALS_PATH: &str = "/2021-04-23/credentials";

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("lambda-runtime-aws-request-id");
pub(super) const DEADLINE: HeaderName = HeaderName::from_static("lambda-runtime-deadline-ms");
pub(super) const FUNCTION_ARN: HeaderName =
    HeaderName::from_static("lambda-runtime-invoked-function-arn");
pub(super) const TRACE_ID: HeaderName = HeaderName::from_static("lambda-runtime-trace-id");
pub(super) const CLIENT_CONTEXT: HeaderName =
    HeaderName::from_static("lambda-runtime-client-context");
pub(super) const COGNITO_IDENTITY: HeaderName =
    HeaderName::from_static("lambda-runtime-cognito-identity");
pub(super) const ERROR_TYPE: HeaderName =
    HeaderName::from_static("lambda-runtime-function-error-type");
pub(super) const ERROR_BODY: HeaderName =
    HeaderName::from_static("lambda-runtime-function-error-body");
pub(super) const RESPONSE_MODE: HeaderName =
    HeaderName::from_static("lambda-runtime-function-response-mode");

/// The error type that a runtime gave, as AWS records it: kept if it is of the form
/// `Runtime.Xyz` or `Function.Xyz`, else the class that it belongs to. Empty if it gave none.
pub(super) fn error_type(headers: &HeaderMap) -> String {
    let Some(given) = headers.get(ERROR_TYPE) else { return String::new() };
    let given = String::from_utf8_lossy(given.as_bytes());
    let proper = |name: &str| {
        let mut letters = name.bytes();
        letters.next().is_some_and(|first| first.is_ascii_uppercase())
            && name.len() > 1
            && letters.all(|letter| letter.is_ascii_alphabetic())
    };
    match given.split_once('.') {
        Some(("Runtime" | "Function", name)) if proper(name) => given.into_owned(),
        Some(("Function", _)) => "Function.Unknown".to_owned(),
        _ => "Runtime.Unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn error_types_are_normalised() {
        for (given, kept) in [
            ("Runtime.ImportModuleError", "Runtime.ImportModuleError"),
            ("Function.Xy", "Function.Xy"),
            ("Function.X", "Function.Unknown"),
            ("Function.lower", "Function.Unknown"),
            ("Runtime.A1", "Runtime.Unknown"),
            ("Function.A.B", "Function.Unknown"),
            ("unhandled", "Runtime.Unknown"),
            ("", "Runtime.Unknown"),
        ] {
            let headers = HeaderMap::from_iter([(ERROR_TYPE, HeaderValue::from_static(given))]);
            assert_eq!(error_type(&headers), kept, "{given}");
        }
        assert_eq!(error_type(&HeaderMap::new()), "");
    }
}
