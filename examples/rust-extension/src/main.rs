//! An extension on the `lambda-extension` crate, which prints the events and the telemetry it gets.

use std::time::Duration;

use lambda_extension::{
    Error, Extension, LambdaEvent, LambdaTelemetry, LambdaTelemetryRecord, LogBuffering, NextEvent,
    SharedService, service_fn,
};

/// Until telemetry of before has come: it is not for the extension that the machine waits.
const TELEMETRY: Duration = Duration::from_millis(300);

async fn event(event: LambdaEvent) -> Result<(), Error> {
    match event.next {
        NextEvent::Invoke(invoke) => println!("observer: invoked {}", invoke.request_id),
        NextEvent::Shutdown(shutdown) => {
            tokio::time::sleep(TELEMETRY).await;
            println!("observer: {}", shutdown.shutdown_reason);
            std::process::exit(0);
        }
    }
    Ok(())
}

async fn telemetry(records: Vec<LambdaTelemetry>) -> Result<(), Error> {
    for record in records {
        match record.record {
            LambdaTelemetryRecord::Function(line) => println!("observer: printed {}", line.trim()),
            LambdaTelemetryRecord::PlatformRuntimeDone { request_id, status, .. } => {
                println!("observer: done {request_id} {status:?}");
            }
            LambdaTelemetryRecord::PlatformReport { request_id, metrics, .. } => {
                println!("observer: reported {request_id} of {} MB", metrics.memory_size_mb);
            }
            LambdaTelemetryRecord::PlatformInitReport { metrics, .. } => {
                println!("observer: initialised {}", metrics.duration_ms > 0.0);
            }
            _ => {}
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let buffering = LogBuffering { timeout_ms: 25, max_items: 1000, ..LogBuffering::default() };
    Extension::new()
        .with_extension_name("observer")
        .with_events(&["INVOKE", "SHUTDOWN"])
        .with_events_processor(service_fn(event))
        .with_telemetry_types(&["platform", "function"])
        .with_telemetry_buffering(buffering)
        .with_telemetry_processor(SharedService::new(service_fn(telemetry)))
        .run()
        .await
}
