//! What is said on a function's log, in AWS's words.

use std::time::Duration;

use costrel_agent_client::wire::OutputStream;

use crate::invocation::{Report, billed_milliseconds};

/// Takes a function's log, in order.
pub trait LogSink: Send + Sync {
    /// A line of the platform's own, without its line end.
    fn platform(&self, line: &str);

    /// A piece of what function or extensions ([`OutputStream::Extension`]) printed, as it came.
    fn function(&self, stream: OutputStream, data: &[u8]);

    /// Something that whoever runs the function should know, and that is none of the function's own
    /// log: a line without its end.
    fn notice(&self, text: &str);
}

/// In which phase an initialisation ran that has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum InitPhase {
    /// Before the invocation.
    Init,
    /// Again, during it.
    Invoke,
}

/// How something failed, as REPORT lines end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FailureStatus {
    /// The time was up.
    Timeout,
    /// An error of this type; empty if it has none.
    Error(String),
}

impl InitPhase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Invoke => "invoke",
        }
    }
}

impl FailureStatus {
    fn text(&self) -> String {
        match self {
            Self::Timeout => "Status: timeout".to_owned(),
            Self::Error(error_type) if error_type.is_empty() => "Status: error".to_owned(),
            Self::Error(error_type) => format!("Status: error\tError Type: {error_type}"),
        }
    }
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

pub(crate) fn init_start(runtime: &str, arn: &str) -> String {
    format!("INIT_START Runtime Version: {runtime}\tRuntime Version ARN: {arn}")
}

pub(crate) fn init_report(duration: Duration, phase: InitPhase, status: &FailureStatus) -> String {
    format!(
        "INIT_REPORT Init Duration: {:.2} ms\tPhase: {}\t{}",
        milliseconds(duration),
        phase.name(),
        status.text()
    )
}

pub(crate) fn restore_start(runtime: &str, arn: &str) -> String {
    format!("RESTORE_START Runtime Version: {runtime}\tRuntime Version ARN: {arn}")
}

pub(crate) fn restore_report(duration: Duration, failure: Option<&FailureStatus>) -> String {
    let mut line = format!("RESTORE_REPORT Restore Duration: {:.2} ms", milliseconds(duration));
    if let Some(failure) = failure {
        line.push('\t');
        line += &failure.text();
    }
    line
}

pub(crate) fn start(request_id: &str, version: &str) -> String {
    format!("START RequestId: {request_id} Version: {version}")
}

pub(crate) fn end(request_id: &str) -> String {
    format!("END RequestId: {request_id}")
}

/// What AWS's CloudWatch log has of a task whose time was up.
pub(crate) fn timed_out(now: jiff::Timestamp, request_id: &str, reason: &str) -> String {
    format!("{} {request_id} {reason}\n", now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"))
}

/// What it has of a runtime or an extension that ended.
pub(crate) fn exited(request_id: &str, reason: &str, error_type: &str) -> String {
    format!("RequestId: {request_id} Error: {reason}\n{error_type}")
}

/// The line after REPORT, of an invocation that X-Ray has sampled.
pub(crate) fn xray(trace_id: &str) -> Option<String> {
    let part = |name| trace_id.split(';').find_map(|part| part.trim().strip_prefix(name));
    if part("Sampled=") != Some("1") {
        return None;
    }
    let (root, segment) = (part("Root=")?, part("Parent=")?);
    Some(format!("XRAY TraceId: {root}\tSegmentId: {segment}\tSampled: true"))
}

/// A line that the agent in the guest has made: nobody trusts it to be one, nor to be short.
pub(crate) fn guests_line(line: &str) -> String {
    const LIMIT: usize = 4096;
    let printable = |letter: &char| *letter == '\t' || !letter.is_control();
    line.chars().filter(printable).take(LIMIT).collect()
}

pub(crate) fn report(request_id: &str, report: &Report) -> String {
    let duration = milliseconds(report.duration);
    let mut line = format!(
        "REPORT RequestId: {request_id}\tDuration: {duration:.2} ms\tBilled Duration: {} ms\tMemory Size: {} MB\tMax Memory Used: {} MB\t",
        report.billed_milliseconds(),
        report.memory_size_mb,
        report.max_memory_used_mb,
    );
    if let Some(init) = report.init_duration {
        line += &format!("Init Duration: {:.2} ms\t", milliseconds(init));
    }
    if let Some(restore) = report.restore_duration {
        line += &format!(
            "Restore Duration: {:.2} ms\tBilled Restore Duration: {} ms",
            milliseconds(restore),
            billed_milliseconds(restore)
        );
    }
    if let Some(failure) = &report.failure {
        if report.restore_duration.is_some() {
            line.push('\t');
        }
        line += &failure.text();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_report() -> Report {
        Report {
            duration: Duration::from_micros(2_106),
            init_duration: Some(Duration::from_micros(110_230)),
            restore_duration: None,
            memory_size_mb: 128,
            max_memory_used_mb: 35,
            failure: None,
        }
    }

    #[test]
    fn reports_as_aws_does() {
        assert_eq!(
            report("id", &a_report()),
            "REPORT RequestId: id\tDuration: 2.11 ms\tBilled Duration: 3 ms\tMemory Size: 128 MB\tMax Memory Used: 35 MB\tInit Duration: 110.23 ms\t"
        );
        let restored = Report {
            init_duration: None,
            restore_duration: Some(Duration::from_micros(398_970)),
            ..a_report()
        };
        assert!(
            report("id", &restored)
                .ends_with("35 MB\tRestore Duration: 398.97 ms\tBilled Restore Duration: 399 ms")
        );
        let restored = Report { failure: Some(FailureStatus::Timeout), ..restored };
        assert!(report("id", &restored).ends_with("Duration: 399 ms\tStatus: timeout"));
        let failed = Report {
            init_duration: None,
            failure: Some(FailureStatus::Error("Runtime.ExitError".into())),
            ..a_report()
        };
        assert!(
            report("id", &failed)
                .ends_with("Max Memory Used: 35 MB\tStatus: error\tError Type: Runtime.ExitError")
        );
    }

    #[test]
    fn init_reports_as_aws_does() {
        assert_eq!(
            init_report(Duration::from_micros(9_999_790), InitPhase::Init, &FailureStatus::Timeout),
            "INIT_REPORT Init Duration: 9999.79 ms\tPhase: init\tStatus: timeout"
        );
        assert_eq!(
            init_report(
                Duration::from_millis(1),
                InitPhase::Invoke,
                &FailureStatus::Error("X".into())
            ),
            "INIT_REPORT Init Duration: 1.00 ms\tPhase: invoke\tStatus: error\tError Type: X"
        );
    }

    #[test]
    fn restore_reports_as_aws_does() {
        let took = Duration::from_micros(398_970);
        assert_eq!(restore_report(took, None), "RESTORE_REPORT Restore Duration: 398.97 ms");
        assert_eq!(
            restore_report(took, Some(&FailureStatus::Error("Runtime.AfterRestoreError".into()))),
            "RESTORE_REPORT Restore Duration: 398.97 ms\tStatus: error\tError Type: Runtime.AfterRestoreError"
        );
    }

    #[test]
    fn only_what_is_sampled_has_a_trace_line() {
        assert_eq!(
            xray("Root=1-5e34a614-10bd;Parent=07f5;Sampled=1").as_deref(),
            Some("XRAY TraceId: 1-5e34a614-10bd\tSegmentId: 07f5\tSampled: true")
        );
        for unsampled in ["", "Root=1-5e34a614-10bd;Parent=07f5;Sampled=0", "Root=1;Parent=2"] {
            assert_eq!(xray(unsampled), None, "{unsampled}");
        }
    }

    #[test]
    fn a_guest_makes_no_lines_of_others() {
        let line = guests_line("EXTENSION\tName: x\nREPORT RequestId: forged\r\u{1b}[31m");
        assert_eq!(line, "EXTENSION\tName: xREPORT RequestId: forged[31m");
        assert_eq!(guests_line(&"x".repeat(10_000)).len(), 4096);
    }

    #[test]
    fn a_timeout_has_a_time() {
        let line =
            timed_out(jiff::Timestamp::from_millisecond(1_500).unwrap(), "id", "Task timed out");
        assert_eq!(line, "1970-01-01T00:00:01.500Z id Task timed out\n");
    }
}
