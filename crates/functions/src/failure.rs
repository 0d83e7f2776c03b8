//! How functions fail, in AWS's words.

use bytes::Bytes;
use costrel_agent_client::wire::{Exited, ExtensionFailure};

/// The kind of a refused response.
pub(crate) const RESPONSE_TOO_LARGE: &str = "Function.ResponseSizeTooLarge";

/// A function's failure: what its caller is told instead of a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionError {
    /// AWS's name for the kind, as it stands in REPORT; empty if the function named none.
    pub error_type: String,
    /// The payload for the caller, JSON as a rule.
    pub payload: Bytes,
}

/// In AWS's order of fields.
pub(crate) fn payload(error_type: &str, message: &str) -> Bytes {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    format!(r#"{{"errorType":{},"errorMessage":{}}}"#, text(error_type), text(message)).into()
}

impl FunctionError {
    /// The runtime ended by itself.
    pub(crate) fn exited(request_id: &str, exited: &Exited) -> Self {
        let message = format!("RequestId: {request_id} Error: {}", exit_reason(exited));
        let error_type =
            if exited.out_of_memory { "Runtime.OutOfMemory" } else { "Runtime.ExitError" };
        Self { error_type: error_type.to_owned(), payload: payload("Runtime.ExitError", &message) }
    }

    /// An extension has failed, and the runtime ended with it.
    pub(crate) fn extension_failed(request_id: &str, failure: &ExtensionFailure) -> Self {
        let error_type = extension_error_type(failure);
        let message = format!("RequestId: {request_id} Error: {}", extension_reason(failure));
        Self { error_type: error_type.to_owned(), payload: payload(error_type, &message) }
    }

    /// The runtime could not be started.
    pub(crate) fn no_runtime(request_id: &str, reason: &str) -> Self {
        let message = format!("RequestId: {request_id} Error: {reason}");
        let error_type = "Runtime.InvalidEntrypoint";
        Self { error_type: error_type.to_owned(), payload: payload(error_type, &message) }
    }

    /// The time was up.
    pub(crate) fn timed_out(request_id: &str, limit: std::time::Duration) -> Self {
        let message = format!("RequestId: {request_id} Error: {}", timeout_reason(limit));
        let error_type = "Sandbox.Timedout";
        Self { error_type: error_type.to_owned(), payload: payload(error_type, &message) }
    }

    /// The runtime's hooks did not end in time after a restore. The words are AWS's.
    pub(crate) fn restore_timed_out() -> Self {
        let error_type = "SnapStartTimeoutException";
        let message = "Lambda couldn't restore the snapshot within the timeout limit.";
        Self { error_type: error_type.to_owned(), payload: payload(error_type, message) }
    }

    /// The response is larger than `limit` bytes. The agent says so first; this is for one that
    /// does not.
    pub(crate) fn response_too_large(limit: usize) -> Self {
        let message =
            format!("Response payload size exceeded maximum allowed payload size ({limit} bytes).");
        let error_type = RESPONSE_TOO_LARGE;
        Self { error_type: error_type.to_owned(), payload: payload(error_type, &message) }
    }
}

/// `Task timed out after 3.00 seconds`.
pub(crate) fn timeout_reason(limit: std::time::Duration) -> String {
    format!("Task timed out after {:.2} seconds", limit.as_secs_f64())
}

/// `Runtime exited with error: exit status 3`.
pub(crate) fn exit_reason(exited: &Exited) -> String {
    match (exited.signal, exited.code) {
        (Some(signal), _) => format!("Runtime exited with error: signal: {}", signal_name(signal)),
        (None, Some(0) | None) => "Runtime exited without providing a reason".to_owned(),
        (None, Some(code)) => format!("Runtime exited with error: exit status {code}"),
    }
}

/// The kind of failure, which is one of AWS's whatever the guest says.
pub(crate) fn extension_error_type(failure: &ExtensionFailure) -> &'static str {
    let kinds = ["Extension.InitError", "Extension.ExitError", "Extension.LaunchError"];
    kinds.into_iter().find(|kind| *kind == failure.error_type).unwrap_or("Extension.Crash")
}

/// `exit code 0`, `exit status 3`, `signal: killed`; or why it did not start.
pub(crate) fn extension_reason(failure: &ExtensionFailure) -> String {
    const LIMIT: usize = 1024;
    match &failure.exited {
        None => failure.message.chars().take(LIMIT).collect(),
        Some(Exited { signal: Some(signal), .. }) => format!("signal: {}", signal_name(*signal)),
        Some(Exited { code: Some(code @ 1..), .. }) => format!("exit status {code}"),
        Some(_) => "exit code 0".to_owned(),
    }
}

/// As Go, which AWS's side is written in, names signals on Linux.
fn signal_name(signal: u32) -> String {
    const NAMES: [&str; 31] = [
        "hangup",
        "interrupt",
        "quit",
        "illegal instruction",
        "trace/breakpoint trap",
        "aborted",
        "bus error",
        "floating point exception",
        "killed",
        "user defined signal 1",
        "segmentation fault",
        "user defined signal 2",
        "broken pipe",
        "alarm clock",
        "terminated",
        "stack fault",
        "child exited",
        "continued",
        "stopped (signal)",
        "stopped",
        "stopped (tty input)",
        "stopped (tty output)",
        "urgent I/O condition",
        "CPU time limit exceeded",
        "file size limit exceeded",
        "virtual timer expired",
        "profiling timer expired",
        "window changed",
        "I/O possible",
        "power failure",
        "bad system call",
    ];
    let index = (signal as usize).checked_sub(1);
    index
        .and_then(|index| NAMES.get(index))
        .map_or_else(|| format!("signal {signal}"), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(error: &FunctionError) -> &str {
        std::str::from_utf8(&error.payload).unwrap()
    }

    #[test]
    fn exits_in_awss_words() {
        let exited = |code, signal, out_of_memory| Exited { code, signal, out_of_memory };
        let error = FunctionError::exited("id", &exited(Some(3), None, false));
        assert_eq!(
            text(&error),
            r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: id Error: Runtime exited with error: exit status 3"}"#
        );
        assert_eq!(
            exit_reason(&exited(Some(0), None, false)),
            "Runtime exited without providing a reason"
        );
        assert_eq!(
            exit_reason(&exited(None, Some(11), false)),
            "Runtime exited with error: signal: segmentation fault"
        );
        let error = FunctionError::exited("id", &exited(None, Some(9), true));
        assert_eq!(error.error_type, "Runtime.OutOfMemory");
        assert!(
            text(&error).contains("Runtime.ExitError") && text(&error).contains("signal: killed")
        );
    }

    #[test]
    fn extensions_fail_in_awss_words() {
        let exited = |code, signal| Some(Exited { code, signal, out_of_memory: false });
        let failure = |error_type: &str, exited| ExtensionFailure {
            error_type: error_type.into(),
            exited,
            message: "fork/exec /opt/extensions/x: permission denied".into(),
        };
        let error = FunctionError::extension_failed(
            "id",
            &failure("Extension.InitError", exited(Some(0), None)),
        );
        assert_eq!(
            text(&error),
            r#"{"errorType":"Extension.InitError","errorMessage":"RequestId: id Error: exit code 0"}"#
        );
        let reason = |exited| extension_reason(&failure("", exited));
        assert_eq!(reason(exited(Some(255), None)), "exit status 255");
        assert_eq!(reason(exited(None, Some(9))), "signal: killed");
        assert_eq!(reason(None), "fork/exec /opt/extensions/x: permission denied");
        assert_eq!(extension_error_type(&failure("made up", None)), "Extension.Crash");
    }

    #[test]
    fn timeouts_in_awss_words() {
        let error = FunctionError::timed_out("id", std::time::Duration::from_secs(3));
        assert_eq!(
            text(&error),
            r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: id Error: Task timed out after 3.00 seconds"}"#
        );
    }
}
