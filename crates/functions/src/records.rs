//! What the host tells those who subscribed to the platform's records inside of the machine.
//!
//! Specification: AWS's Telemetry API, "Event schema reference".

use std::time::Duration;

use costrel_agent_client::wire::PlatformRecord;
use serde_json::{Value, json};

use crate::{
    FunctionSpec, Invocation, Report, StagedFunction,
    log::{FailureStatus, InitPhase, milliseconds},
};

fn record(kind: &str, record: &Value) -> PlatformRecord {
    PlatformRecord { r#type: kind.to_owned(), record: record.to_string().into() }
}

/// What records of a start have in common.
fn instance(function: &StagedFunction) -> Value {
    let spec = &function.spec;
    let mut value = json!({
        "functionName": spec.name,
        "functionVersion": spec.version,
        "instanceMaxMemory": spec.memory.as_bytes(),
    });
    if let Some((version, arn)) = function.runtime_version() {
        value["runtimeVersion"] = version.into();
        value["runtimeVersionArn"] = arn.into();
    }
    value
}

pub(crate) fn init_start(function: &StagedFunction, phase: InitPhase) -> PlatformRecord {
    let mut value = instance(function);
    value["initializationType"] = function.spec.initialization.name().into();
    value["phase"] = phase.name().into();
    record("platform.initStart", &value)
}

pub(crate) fn init_report(
    spec: &FunctionSpec,
    phase: InitPhase,
    duration: Duration,
) -> PlatformRecord {
    let value = json!({
        "initializationType": spec.initialization.name(),
        "phase": phase.name(),
        "status": "success",
        "metrics": { "durationMs": milliseconds(duration) },
    });
    record("platform.initReport", &value)
}

pub(crate) fn restore_start(function: &StagedFunction) -> PlatformRecord {
    record("platform.restoreStart", &instance(function))
}

pub(crate) fn restore_report(duration: Duration) -> PlatformRecord {
    let value = json!({ "status": "success", "metrics": { "durationMs": milliseconds(duration) } });
    record("platform.restoreReport", &value)
}

pub(crate) fn start(invocation: &Invocation, version: &str) -> PlatformRecord {
    let mut value = json!({ "requestId": invocation.request_id, "version": version });
    trace(&mut value, invocation);
    record("platform.start", &value)
}

pub(crate) fn end(invocation: &Invocation) -> PlatformRecord {
    record("platform.end", &json!({ "requestId": invocation.request_id }))
}

pub(crate) fn report(invocation: &Invocation, report: &Report) -> PlatformRecord {
    let mut metrics = json!({
        "durationMs": milliseconds(report.duration),
        "billedDurationMs": u64::try_from(report.billed_milliseconds()).unwrap_or(u64::MAX),
        "memorySizeMB": report.memory_size_mb,
        "maxMemoryUsedMB": report.max_memory_used_mb,
    });
    if let Some(init) = report.init_duration {
        metrics["initDurationMs"] = milliseconds(init).into();
    }
    if let Some(restore) = report.restore_duration {
        metrics["restoreDurationMs"] = milliseconds(restore).into();
    }
    let mut value = json!({ "requestId": invocation.request_id, "metrics": metrics });
    match &report.failure {
        None => value["status"] = "success".into(),
        Some(FailureStatus::Timeout) => value["status"] = "timeout".into(),
        Some(FailureStatus::Error(error_type)) => {
            value["status"] = "error".into();
            value["errorType"] = error_type.as_str().into();
        }
    }
    trace(&mut value, invocation);
    record("platform.report", &value)
}

fn trace(value: &mut Value, invocation: &Invocation) {
    let trace = &invocation.trace_id;
    if trace.is_empty() {
        return;
    }
    value["tracing"] = json!({ "type": "X-Amzn-Trace-Id", "value": trace });
    if let Some(parent) = trace.split(';').find_map(|part| part.strip_prefix("Parent=")) {
        value["tracing"]["spanId"] = parent.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_what_the_line_has() {
        let invocation = Invocation {
            request_id: "id".into(),
            trace_id: "Root=1-5-6;Parent=7;Sampled=1".into(),
            ..Invocation::new("arn", "{}".into())
        };
        let figures = Report {
            duration: Duration::from_micros(2_106),
            init_duration: Some(Duration::from_millis(110)),
            restore_duration: None,
            memory_size_mb: 128,
            max_memory_used_mb: 35,
            failure: Some(FailureStatus::Error("Runtime.ExitError".into())),
        };
        let PlatformRecord { r#type, record } = report(&invocation, &figures);
        assert_eq!(r#type, "platform.report");
        assert_eq!(
            serde_json::from_slice::<Value>(&record).unwrap(),
            json!({
                "requestId": "id",
                "status": "error",
                "errorType": "Runtime.ExitError",
                "metrics": {
                    "durationMs": 2.106,
                    "billedDurationMs": 3,
                    "memorySizeMB": 128,
                    "maxMemoryUsedMB": 35,
                    "initDurationMs": 110.0,
                },
                "tracing": {
                    "type": "X-Amzn-Trace-Id",
                    "value": "Root=1-5-6;Parent=7;Sampled=1",
                    "spanId": "7",
                },
            })
        );
    }
}
