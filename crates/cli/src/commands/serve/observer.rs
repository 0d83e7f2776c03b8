//! Where functions' log lines go, and the server's own.

use std::{io::stderr, sync::Arc};

use costrel_fleet::{FleetObserver, InvocationRecord, LogLine, LogSource};
use costrel_logs::{LogStore, Source};
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use super::{LogFormat, printer::Printer};
use crate::{environment::Environment, failure::Failure};

/// Keeps functions' lines, and prints them.
pub(super) struct Observer {
    pub(super) logs: Option<LogStore>,
    pub(super) printer: Arc<Printer>,
}

impl FleetObserver for Observer {
    fn log(&self, line: &LogLine) {
        let line = costrel_logs::LogLine {
            at: line.at,
            function: line.function.clone(),
            version: line.version.clone(),
            instance: line.instance,
            request_id: line.request_id.clone(),
            source: match line.source {
                LogSource::Platform => Source::Platform,
                LogSource::Stdout => Source::Stdout,
                LogSource::Stderr => Source::Stderr,
                LogSource::Extension => Source::Extension,
                LogSource::Notice => Source::Notice,
            },
            bytes: line.bytes.to_vec(),
        };
        self.printer.print(&line);
        if let Some(logs) = &self.logs {
            logs.append(line);
        }
    }

    /// The API remembers invocations itself.
    fn invoked(&self, _record: &InvocationRecord) {}
}

/// Prints what the server's parts say of themselves: warnings, or what `COSTREL_LOG` asks for
/// (`debug`, or `costrel_fleet=debug,warn`).
pub(super) fn trace(format: LogFormat, environment: &Environment) -> Result<(), Failure> {
    let filter = environment.text("COSTREL_LOG").unwrap_or("warn");
    let filter: Targets = filter.parse().map_err(|error| {
        Failure::usage(format!("COSTREL_LOG is {filter:?}, which is no filter: {error}"))
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(false);
    // A second one in the same process is no failure: there is one already.
    let _ = match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init(),
        LogFormat::Json => registry.with(lines.json()).try_init(),
    };
    Ok(())
}
