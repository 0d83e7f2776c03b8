//! Errors as Lambda's clients read them.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use costrel_catalog::{ResolveError, SpecError};
use costrel_events::EnqueueError;
use costrel_fleet::{InvokeError, Throttle};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// The kinds of errors that Lambda has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ErrorKind {
    /// The caller is not allowed to.
    AccessDenied,
    /// A function's code signing configuration is not there.
    CodeSigningConfigNotFound,
    /// More code than an account may store.
    CodeStorageExceeded,
    /// The signature does not fit.
    InvalidSignature,
    /// There is neither a signature nor a token.
    MissingAuthenticationToken,
    /// A parameter's value is none that is allowed.
    InvalidParameterValue,
    /// The request's body is not JSON.
    InvalidRequestContent,
    /// The function's runtime is unknown.
    InvalidRuntime,
    /// The function's code cannot be unpacked.
    InvalidZipFile,
    /// A policy would become too long.
    PolicyLengthExceeded,
    /// The revision is another than the caller believes.
    PreconditionFailed,
    /// A version has no provisioned concurrency.
    ProvisionedConcurrencyConfigNotFound,
    /// The control plane's request is too large.
    RequestEntityTooLarge,
    /// The invocation's payload is too large.
    RequestTooLarge,
    /// There is such a resource already, or it is busy.
    ResourceConflict,
    /// The resource is in use.
    ResourceInUse,
    /// There is no such resource.
    ResourceNotFound,
    /// The function is not ready to be invoked.
    ResourceNotReady,
    /// The request's body is not of the operation's form.
    Serialization,
    /// A mistake of the service's own, or of its host.
    Service,
    /// The function's initialisation has failed while its snapshot was made.
    SnapStart,
    /// The function's snapshot is not there yet.
    SnapStartNotReady,
    /// The function's hooks took too long.
    SnapStartTimeout,
    /// Throttled.
    TooManyRequests,
    /// There is no such operation.
    UnknownOperation,
    /// The credentials are not known.
    UnrecognizedClient,
    /// The body is of a media type that is not taken.
    UnsupportedMediaType,
    /// Members of the request are out of their bounds.
    Validation,
}

/// The key that an error's message stands under. AWS's error shapes differ in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum MessageKey {
    Upper,
    Lower,
}

impl ErrorKind {
    /// Its HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// Its name, as `x-amzn-ErrorType` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (StatusCode, &'static str, MessageKey) {
        use MessageKey::{Lower, Upper};
        let (status, name, key) = match self {
            Self::AccessDenied => (403, "AccessDeniedException", Upper),
            Self::CodeSigningConfigNotFound => (404, "CodeSigningConfigNotFoundException", Upper),
            Self::CodeStorageExceeded => (400, "CodeStorageExceededException", Lower),
            Self::InvalidSignature => (403, "InvalidSignatureException", Lower),
            Self::MissingAuthenticationToken => (403, "MissingAuthenticationTokenException", Lower),
            Self::InvalidParameterValue => (400, "InvalidParameterValueException", Lower),
            Self::InvalidRequestContent => (400, "InvalidRequestContentException", Lower),
            Self::InvalidRuntime => (502, "InvalidRuntimeException", Upper),
            Self::InvalidZipFile => (502, "InvalidZipFileException", Upper),
            Self::PolicyLengthExceeded => (400, "PolicyLengthExceededException", Lower),
            Self::PreconditionFailed => (412, "PreconditionFailedException", Lower),
            Self::ProvisionedConcurrencyConfigNotFound => {
                (404, "ProvisionedConcurrencyConfigNotFoundException", Lower)
            }
            Self::RequestEntityTooLarge => (413, "RequestEntityTooLargeException", Lower),
            Self::RequestTooLarge => (413, "RequestTooLargeException", Lower),
            Self::ResourceConflict => (409, "ResourceConflictException", Lower),
            Self::ResourceInUse => (400, "ResourceInUseException", Upper),
            Self::ResourceNotFound => (404, "ResourceNotFoundException", Upper),
            Self::ResourceNotReady => (502, "ResourceNotReadyException", Lower),
            Self::Serialization => (400, "SerializationException", Upper),
            Self::Service => (500, "ServiceException", Upper),
            Self::SnapStart => (400, "SnapStartException", Upper),
            Self::SnapStartNotReady => (409, "SnapStartNotReadyException", Upper),
            Self::SnapStartTimeout => (408, "SnapStartTimeoutException", Upper),
            Self::TooManyRequests => (429, "TooManyRequestsException", Lower),
            Self::UnknownOperation => (404, "UnknownOperationException", Upper),
            Self::UnrecognizedClient => (403, "UnrecognizedClientException", Lower),
            Self::UnsupportedMediaType => (415, "UnsupportedMediaTypeException", Lower),
            Self::Validation => (400, "ValidationException", Lower),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, name, key)
    }
}

/// An error that a caller is told of: a header with its name, and a JSON body.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {message}", kind.name())]
pub struct ApiError {
    kind: ErrorKind,
    message: String,
    throttle: Option<Throttling>,
}

/// What a throttled caller is told beyond the message.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Throttling {
    reason: &'static str,
    retry_after_seconds: u32,
}

impl ApiError {
    /// An error with a message of its own.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), throttle: None }
    }

    /// Throttled, for a reason out of AWS's `ThrottleReason`.
    #[must_use]
    pub fn throttled(reason: &'static str, retry_after_seconds: u32) -> Self {
        Self {
            kind: ErrorKind::TooManyRequests,
            message: "Rate Exceeded.".to_owned(),
            throttle: Some(Throttling { reason, retry_after_seconds }),
        }
    }

    /// There is no function of this ARN.
    #[must_use]
    pub fn function_not_found(arn: &str) -> Self {
        Self::new(ErrorKind::ResourceNotFound, format!("Function not found: {arn}"))
    }

    /// A parameter's value is none that is allowed.
    #[must_use]
    pub fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameterValue, message)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Its message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Its body.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut body = Map::new();
        let origin = if self.kind.status().is_server_error() && self.kind == ErrorKind::Service {
            "Service"
        } else {
            "User"
        };
        if let Some(throttle) = &self.throttle {
            body.insert("Reason".to_owned(), throttle.reason.into());
        }
        body.insert("Type".to_owned(), origin.into());
        let key = match self.kind.row().2 {
            MessageKey::Upper => "Message",
            MessageKey::Lower => "message",
        };
        body.insert(key.to_owned(), self.message.as_str().into());
        Value::Object(body)
    }
}

/// How long a throttled caller is asked to wait, in seconds.
const RETRY_AFTER: u32 = 1;

/// The kind of error that a caller is told of where an invocation has no outcome.
pub(crate) fn kind_of(error: &InvokeError) -> ErrorKind {
    match error {
        InvokeError::Throttled(_) => ErrorKind::TooManyRequests,
        // It will never run on this host, however often it is tried: no error of the kind that SDKs
        // retry.
        InvokeError::OversizedForHost { .. } => ErrorKind::InvalidParameterValue,
        InvokeError::Staging(_) => ErrorKind::ResourceNotReady,
        InvokeError::Instance(_) | InvokeError::Draining | InvokeError::Lost => ErrorKind::Service,
    }
}

impl From<InvokeError> for ApiError {
    fn from(error: InvokeError) -> Self {
        match &error {
            InvokeError::Throttled(Throttle::ReservedConcurrency) => {
                Self::throttled("ReservedFunctionConcurrentInvocationLimitExceeded", RETRY_AFTER)
            }
            // AWS has no memory to run short of. It is the same to callers: too many at a time.
            InvokeError::Throttled(Throttle::AccountConcurrency | Throttle::QueueFull) => {
                Self::throttled("ConcurrentInvocationLimitExceeded", RETRY_AFTER)
            }
            _ => Self::new(kind_of(&error), chain(&error)),
        }
    }
}

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        let kind = match &error {
            ResolveError::NotFound { .. } => ErrorKind::ResourceNotFound,
            // Versions are pending while their snapshot is made, and for no other reason.
            ResolveError::Pending { .. } => ErrorKind::SnapStartNotReady,
            ResolveError::Failed { .. } => ErrorKind::SnapStart,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<SpecError> for ApiError {
    fn from(error: SpecError) -> Self {
        let kind = match &error {
            SpecError::Runtime(_) | SpecError::NoRuntime(_) => ErrorKind::InvalidRuntime,
            SpecError::Image(_) | SpecError::Limit(_) => ErrorKind::InvalidParameterValue,
        };
        Self::new(kind, chain(&error))
    }
}

impl From<EnqueueError> for ApiError {
    fn from(error: EnqueueError) -> Self {
        if matches!(error, EnqueueError::Full(_)) {
            return Self::throttled("ConcurrentInvocationLimitExceeded", RETRY_AFTER);
        }
        tracing::error!(error = &error as &dyn std::error::Error, "an event was not accepted");
        // The caller has no use for the host's paths, the operator has.
        Self::new(ErrorKind::Service, "The event could not be stored.")
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += ": ";
        text += &error.to_string();
        source = error.source();
    }
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.kind.name()));
        if let Some(throttle) = &self.throttle {
            headers.insert(header::RETRY_AFTER, throttle.retry_after_seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract's table.
    #[test]
    fn kinds_have_awss_statuses_names_and_keys() {
        let table = [
            (ErrorKind::ResourceNotFound, 404, "ResourceNotFoundException", "Message"),
            (ErrorKind::InvalidRequestContent, 400, "InvalidRequestContentException", "message"),
            (ErrorKind::InvalidParameterValue, 400, "InvalidParameterValueException", "message"),
            (ErrorKind::ResourceConflict, 409, "ResourceConflictException", "message"),
            (ErrorKind::PreconditionFailed, 412, "PreconditionFailedException", "message"),
            (ErrorKind::RequestTooLarge, 413, "RequestTooLargeException", "message"),
            (ErrorKind::UnsupportedMediaType, 415, "UnsupportedMediaTypeException", "message"),
            (ErrorKind::SnapStartNotReady, 409, "SnapStartNotReadyException", "Message"),
            (ErrorKind::SnapStartTimeout, 408, "SnapStartTimeoutException", "Message"),
            (ErrorKind::SnapStart, 400, "SnapStartException", "Message"),
            (ErrorKind::ResourceNotReady, 502, "ResourceNotReadyException", "message"),
            (ErrorKind::InvalidZipFile, 502, "InvalidZipFileException", "Message"),
        ];
        for (kind, status, name, key) in table {
            let error = ApiError::new(kind, "why");
            assert_eq!(error.to_json(), serde_json::json!({ "Type": "User", key: "why" }));
            let response = error.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["x-amzn-errortype"], name);
            assert_eq!(response.headers()["content-type"], "application/json");
        }
        let error = ApiError::new(ErrorKind::Service, "why");
        assert_eq!(error.to_json(), serde_json::json!({ "Type": "Service", "Message": "why" }));
        assert_eq!(error.into_response().status(), 500);
    }

    #[test]
    fn versions_that_cannot_be_run_yet_or_ever_are_told_apart() {
        let arn = || "arn".to_owned();
        let error = ApiError::from(ResolveError::NotFound { arn: arn() });
        assert_eq!(error.to_json()["Message"], "Function not found: arn");
        assert_eq!(error.kind(), ErrorKind::ResourceNotFound);
        let error = ApiError::from(ResolveError::Pending { arn: arn() });
        assert_eq!(error.kind(), ErrorKind::SnapStartNotReady);
        let failed =
            ResolveError::Failed { arn: arn(), code: "FunctionError".into(), reason: "why".into() };
        assert_eq!(ApiError::from(failed).to_json()["Message"], "why");
        let error = ApiError::from(SpecError::NoRuntime("f".to_owned()));
        assert_eq!(error.kind().name(), "InvalidRuntimeException");
        let error = ApiError::from(EnqueueError::Full(7));
        assert_eq!(error.kind(), ErrorKind::TooManyRequests);
        assert_eq!(ApiError::from(EnqueueError::Closed).kind(), ErrorKind::Service);
    }

    #[test]
    fn the_throttled_are_told_why_and_for_how_long() {
        let error = ApiError::throttled("ReservedFunctionConcurrentInvocationLimitExceeded", 1);
        assert_eq!(
            error.to_json(),
            serde_json::json!({
                "Type": "User",
                "message": "Rate Exceeded.",
                "Reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
            })
        );
        let response = error.into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["x-amzn-errortype"], "TooManyRequestsException");
    }
}
